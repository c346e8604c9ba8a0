"""`likeness index FOLDER`: pictures go into the bucket, until they are searchable."""

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

from likeness.adapters.s3 import S3Store
from likeness.feeding import IMAGE_SUFFIXES
from likeness.filters import header_text
from likeness.records import ObjectRef

from ..client import Client

_CHUNK = 100
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0
_PATIENCE_S = 120.0

Progress = Callable[[int], None]


@dataclass
class Summary:
    """What became of the objects: counts by state, and why some were rejected."""

    states: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, str] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)

    def add(self, status: Mapping[str, Any]) -> None:
        self.states[status["state"]] += 1
        if status["state"] == "rejected":
            self.rejected[status["key"]] = f"{status['reason']}: {status.get('detail', '')}"


def pictures(folder: Path) -> list[Path]:
    """Every file under a folder that is named as a picture; a single file stands for itself.

    A name that is not UTF-8 can be no key: such a file is left out.
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


def upload(
    store: S3Store,
    ref: ObjectRef,
    data: bytes,
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Put one object, unless it is there already; returns the ETag that its status will show."""
    etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
    present = store.head(ref)
    # as S3 gives them back
    wanted = {name.lower(): header_text(text) for name, text in (metadata or {}).items()}
    if present is None or present.etag != etag or dict(present.metadata) != wanted:
        kind = mimetypes.guess_type(ref.key)[0] or "application/octet-stream"
        store.put(ref, data, kind, metadata or {})
    return etag


def wait(client: Client, etags: Mapping[str, str | None], progress: Progress) -> Summary:
    """Until each key is live or rejected, in the version that has its ETag where one is given.

    Gives up on what is left once nothing has moved for two minutes.
    """
    summary, waiting = Summary(), dict(etags)
    pause_s, last_s = _FIRST_PAUSE_S, time.monotonic()
    while waiting and time.monotonic() - last_s < _PATIENCE_S:
        settled = list(_settled(client, waiting))
        for status in settled:
            summary.add(status)
            del waiting[status["key"]]
        if settled:
            progress(len(settled))
            pause_s, last_s = _FIRST_PAUSE_S, time.monotonic()
        else:
            time.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
    summary.pending = list(waiting)
    return summary


def _settled(client: Client, waiting: Mapping[str, str | None]) -> Iterator[dict[str, Any]]:
    """Those of the oldest waiting objects that are done; the queue works roughly in order."""
    for key, etag in list(islice(waiting.items(), _CHUNK)):
        status = client.status(key)
        if status["state"] in ("live", "rejected") and etag in (None, status.get("etag")):
            yield status
