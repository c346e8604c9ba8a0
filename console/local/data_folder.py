"""The data folder of a local service, and how other commands find the service that uses it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

DEFAULT_DATA = Path(".likeness")
# A running service holds a lock on this file. It stays, and marks the folder as a service's own.
LOCK = "lock"
STATE = "service.json"
# One line for each answer of the local service, for `likeness explain`.
ANSWERS = "answers.jsonl"


@dataclass(frozen=True)
class LocalService:
    """Where a running local service can be reached, as DATA/service.json records it."""

    api_url: str
    aws_url: str
    bucket: str
    queue_url: str
    pid: int
    index_port: int
    index_key: str  # opens the index at index_port, see index_sharing.share
    index_place: str  # for people: the folder, or the alias and the server
    settings: str  # likeness.sync.settings_digest of the points' settings

    @classmethod
    def running(cls, data: Path) -> LocalService | None:
        """The service that uses this data folder, or None if none is running."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            service = cls(**json.loads((data / STATE).read_text()))
            os.kill(service.pid, 0)
            return service
        return None


@contextlib.contextmanager
def locked(data: Path) -> Iterator[None]:
    """Allow one service for each folder: a second would stop the first one's MiniStack.

    Raises RuntimeError if another process holds the lock.
    """
    with (data / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            running = LocalService.running(data)
            who = f"process {running.pid}, {running.api_url}" if running else "just starting"
            raise RuntimeError(
                f"another service ({who}) uses the data folder {data}: stop it with Ctrl-C there, "
                "or choose another folder with --data"
            ) from None
        yield


@contextlib.contextmanager
def recorded(service: LocalService, data: Path) -> Iterator[None]:
    """Let other commands find the service while it runs."""
    state = data / STATE
    state.unlink(missing_ok=True)
    state.touch(0o600)  # it contains a key
    state.write_text(json.dumps(asdict(service)))
    try:
        yield
    finally:
        state.unlink(missing_ok=True)
