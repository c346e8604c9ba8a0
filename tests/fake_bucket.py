"""An ObjectStore in memory that behaves like S3, with or without versioning, and emits events."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from likeness.errors import ImageTooLarge, ObjectChanged, StoreUnavailable
from likeness.records import Hint, ListedObject, ObjectBody, ObjectRef, ObjectState


@dataclass
class Stored:
    """One version of an object; `data` is None for a delete marker."""

    data: bytes | None
    state: ObjectState | None
    tags: Mapping[str, str] = field(default_factory=dict)


class FakeBucket:
    """`events` collects one hint for each change, in order; nothing delivers them. While it is
    `down`, no object can be read.
    """

    def __init__(self, name: str = "photos", versioned: bool = True) -> None:
        self.name = name
        self.versioned = versioned
        self.down = False
        self.events: list[Hint] = []
        self._versions: dict[str, list[Stored]] = {}
        self._clock = itertools.count(1)

    # changes by the owner of the bucket

    def put(
        self,
        key: str,
        data: bytes,
        metadata: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        tick = next(self._clock)
        state = ObjectState(
            etag=hashlib.md5(data).hexdigest(),
            version_id=f"v{tick}" if self.versioned else None,
            size=len(data),
            content_type="image/png",
            last_modified_s=float(tick),
            metadata=metadata or {},
        )
        self._push(key, Stored(data, state, tags or {}), tick)

    def remove(self, key: str) -> None:
        """A delete: on a versioned bucket it puts a delete marker on top."""
        if self.head(self.ref(key)) is not None:
            self._push(key, Stored(None, None), next(self._clock))

    def undelete(self, key: str) -> None:
        """Remove the delete marker: the object is live again, yet the event says “removed”."""
        versions = self._versions.get(key, [])
        if self.versioned and versions and versions[-1].data is None:
            versions.pop()
            self._emit(key, next(self._clock))

    def purge(self, key: str) -> None:
        """Delete an old version for good: the event says “removed” of an object that is live."""
        versions = self._versions.get(key, [])
        if self.versioned and len(versions) > 1:
            versions.pop(0)
            self._emit(key, next(self._clock))

    # ObjectStore

    def head(self, ref: ObjectRef) -> ObjectState | None:
        return self._current(ref).state

    def read(self, ref: ObjectRef, etag: str, max_bytes: int) -> ObjectBody:
        if self.down:
            raise StoreUnavailable("S3 answered with the error SlowDown")
        current = self._current(ref)
        if current.data is None or current.state is None or current.state.etag != etag:
            raise ObjectChanged(ref.key)
        if len(current.data) > max_bytes:
            raise ImageTooLarge(ref.key)
        return ObjectBody(current.data, current.tags)

    def list(self, bucket: str, prefix: str, start_after: str = "") -> Iterator[ObjectRef]:
        return (entry.ref for entry in self.entries(bucket, prefix, start_after))

    def entries(self, bucket: str, prefix: str, start_after: str = "") -> Iterator[ListedObject]:
        for key in sorted(self._versions):
            state = self.head(self.ref(key))
            if key.startswith(prefix) and key > start_after and state:
                yield ListedObject(self.ref(key), state.etag, state.size, state.last_modified_s)

    def delete(self, ref: ObjectRef) -> None:
        self.remove(ref.key)

    def presign_upload(
        self,
        ref: ObjectRef,
        content_type: str,
        metadata: Mapping[str, str],
        max_bytes: int,
        expires_s: int,
    ) -> tuple[str, dict[str, str]]:
        return "https://upload.test/", {"key": ref.key, "Content-Type": content_type}

    def presign_download(self, ref: ObjectRef, expires_s: int) -> str:
        return f"https://download.test/{ref.key}"

    def ref(self, key: str) -> ObjectRef:
        return ObjectRef(self.name, key)

    def _current(self, ref: ObjectRef) -> Stored:
        versions = self._versions.get(ref.key)
        return versions[-1] if versions else Stored(None, None)

    def _push(self, key: str, version: Stored, tick: int) -> None:
        versions = self._versions.setdefault(key, [])
        if not self.versioned:
            versions.clear()
        versions.append(version)
        self._emit(key, tick)

    def _emit(self, key: str, tick: int) -> None:
        self.events.append(Hint(self.ref(key), sequencer=tick * 16))
