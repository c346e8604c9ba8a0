"""Uploads a folder's images to the bucket, and waits until they are searchable."""

from __future__ import annotations

import hashlib
import mimetypes
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from likeness.adapters.s3 import S3Store
from likeness.feeding import IMAGE_SUFFIXES
from likeness.filters import header_text
from likeness.records import ObjectRef

from ..client import Client, ServiceError

_CHUNK = 100
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
_PATIENCE_S = 120.0
_MAX_REJECTED = 20

Advance = Callable[[int], None]


@dataclass
class Summary:
    """What became of the objects: counts by state, reasons of rejection, keys still waiting."""

    states: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, str] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether nothing is pending and at least one image is searchable."""
        return not self.pending and self.states["live"] > 0

    def add(self, status: Mapping[str, Any]) -> None:
        self.states[status["state"]] += 1
        if status["state"] == "rejected":
            self.rejected[status["key"]] = f"{status['reason']}: {status.get('detail', '')}"

    def print(self, out: Console) -> None:
        out.print(f"[green]{self.states['live']} searchable[/green]", end="")
        out.print(f", {len(self.rejected)} rejected, {len(self.pending)} still waiting")
        for key, reason in list(self.rejected.items())[:_MAX_REJECTED]:
            out.print(f"  [yellow]{escape(key)}[/yellow]  {escape(reason)}")
        if len(self.rejected) > _MAX_REJECTED:
            out.print(f"  … and {len(self.rejected) - _MAX_REJECTED} more")
        if self.pending:
            out.print("  no progress for two minutes: `likeness doctor` looks for the reason")


def image_files(folder: Path) -> list[Path]:
    """Every file under a folder whose suffix is an image's; or the file, if it is one.

    Files whose names are not UTF-8 are left out: such a name cannot be a key.
    """
    if folder.is_file():
        return [folder]
    named = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    return sorted(p for p in named if _is_utf8(str(p)))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def upload_folder(
    store: S3Store,
    bucket: str,
    folder: Path,
    prefix: str,
    metadata: Mapping[str, str],
    on_start: Callable[[int], Advance],
) -> dict[str, str | None]:
    """Upload a folder's images; returns each key's ETag.

    `on_start` gets the number of files and returns what is called after each. Raises ServiceError
    if there are none.
    """
    files = image_files(folder)
    if not files:
        raise ServiceError(f"{folder} contains no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    root = folder if folder.is_dir() else folder.parent
    advance = on_start(len(files))
    etags: dict[str, str | None] = {}
    for path in files:
        key = f"{prefix}{path.relative_to(root).as_posix()}"
        etags[key] = upload(store, ObjectRef(bucket, key), path.read_bytes(), metadata)
        advance(1)
    return etags


def upload(
    store: S3Store,
    ref: ObjectRef,
    data: bytes,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Put one object, unless it is there already; returns the ETag that its status will show."""
    etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    present = store.head(ref)
    # the form in which S3 returns metadata
    stored = {name.lower(): header_text(text) for name, text in (metadata or {}).items()}
    if present is None or present.etag != etag or dict(present.metadata) != stored:
        kind = mimetypes.guess_type(ref.key)[0] or "application/octet-stream"
        store.put(ref, data, kind, metadata or {})
    return etag


def wait_until_indexed(
    client: Client, etags: Mapping[str, str | None], advance: Advance
) -> Summary:
    """Wait until each key is live or rejected, in the version with its ETag if one is given.

    Gives up on the rest if there is no progress for two minutes.
    """
    summary, waiting = Summary(), dict(etags)
    pause_s, last_s = _FIRST_PAUSE_S, time.monotonic()
    while waiting and time.monotonic() - last_s < _PATIENCE_S:
        settled = list(_settled(client, waiting))
        for status in settled:
            summary.add(status)
            del waiting[status["key"]]
        if settled:
            advance(len(settled))
            pause_s, last_s = _FIRST_PAUSE_S, time.monotonic()
        else:
            time.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
    summary.pending = list(waiting)
    return summary


def _settled(client: Client, waiting: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
    """Statuses of the oldest waiting objects that are done; the queue works roughly in order."""
    for key, etag in list(islice(waiting.items(), _CHUNK)):
        status = client.status(key)
        if status["state"] in ("live", "rejected") and etag in (None, status.get("etag")):
            yield status
