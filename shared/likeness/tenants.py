"""Tenants: which one owns an object, and what one of them may see.

A tenant owns the objects in its folder: the first segment of a key after the prefix is the tenant's
name. Objects outside such folders have no owner. A search for a tenant is given these views of the
index and the bucket, in which nothing of other tenants exists: no operation has to remember that
there are tenants.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from likeness.errors import NotIndexed
from likeness.ports import IndexView, ObjectStore
from likeness.records import (
    Candidate,
    CollectionInfo,
    NearestQuery,
    ObjectBody,
    ObjectRef,
    ObjectState,
    Page,
    Point,
    ValueCount,
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:=+-]{0,127}")
# Stored with a note's own values, so that the operator can still read all notes.
_TENANT = "tenant"


def is_name(text: str) -> bool:
    """Whether this is a valid tenant name: one segment of a key, with only one spelling."""
    return _NAME.fullmatch(text) is not None


class Tenants(Struct, frozen=True):
    """How keys name tenants: `prefix`, the tenant's name, a slash, the rest."""

    prefix: str = ""

    def folder(self, tenant: str) -> str:
        """The common prefix of all keys of a tenant."""
        return f"{self.prefix}{tenant}/"

    def owner(self, key: str) -> str | None:
        """The tenant that owns an object; None where it has no owner."""
        name, slash, _ = key.removeprefix(self.prefix).partition("/")
        return name if key.startswith(self.prefix) and slash and is_name(name) else None


class TenantIndex:
    """A view of an index with only one tenant's points and notes."""

    def __init__(self, index: IndexView, tenant: str) -> None:
        self._index = index
        self._tenant = tenant

    def info(self) -> CollectionInfo:
        """Without the number of points, which includes other tenants'."""
        return structs.replace(self._index.info(), points=None)

    def nearest(self, queries: Sequence[NearestQuery]) -> list[list[Candidate]]:
        return self._index.nearest(
            [structs.replace(query, filter=self._own(query.filter)) for query in queries]
        )

    def retrieve_with_vectors(self, ids: Sequence[str], patches: bool = False) -> dict[str, Point]:
        found = self._index.retrieve_with_vectors(ids, patches)
        return {id: point for id, point in found.items() if point.tenant == self._tenant}

    def scroll(
        self,
        limit: int,
        cursor: str | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Page:
        return self._index.scroll(limit, cursor, self._own(filter))

    def facet(
        self, path: str, limit: int, filter: Mapping[str, Any] | None = None
    ) -> list[ValueCount]:
        return self._index.facet(path, limit, self._own(filter))

    def put_note(self, kind: str, note_id: str, values: Mapping[str, Any]) -> None:
        self._index.put_note(kind, self._own_note(note_id), {**values, _TENANT: self._tenant})

    def delete_note(self, kind: str, note_id: str) -> None:
        self._index.delete_note(kind, self._own_note(note_id))

    def list_notes(
        self, kind: str, limit: int, cursor: str | None = None
    ) -> tuple[list[Mapping[str, Any]], str | None]:
        found, next_cursor = self._index.list_notes(kind, limit, cursor)
        return [note for note in found if note.get(_TENANT) == self._tenant], next_cursor

    def _own(self, filter: Mapping[str, Any] | None) -> dict[str, Any]:
        """The caller's filter as a further condition: it cannot widen the tenant's."""
        return {"must": [owned_by(self._tenant), *([filter] if filter else [])]}

    def _own_note(self, note_id: str) -> str:
        return f"{self._tenant}/{note_id}"  # names of tenants have no slash


class TenantStore:
    """A view of a bucket with only one tenant's objects."""

    def __init__(self, store: ObjectStore, tenants: Tenants, tenant: str) -> None:
        self._store = store
        self._folder = tenants.folder(tenant)

    def head(self, ref: ObjectRef) -> ObjectState | None:
        return self._store.head(ref) if self._has(ref) else None

    def read(self, ref: ObjectRef, etag: str, max_bytes: int) -> ObjectBody:
        return self._store.read(self._own(ref), etag, max_bytes)

    def delete(self, ref: ObjectRef) -> None:
        self._store.delete(self._own(ref))

    def presign_upload(
        self,
        ref: ObjectRef,
        content_type: str,
        metadata: Mapping[str, str],
        max_bytes: int,
        expires_s: int,
    ) -> tuple[str, dict[str, str]]:
        return self._store.presign_upload(
            self._own(ref), content_type, metadata, max_bytes, expires_s
        )

    def presign_download(self, ref: ObjectRef, expires_s: int) -> str:
        return self._store.presign_download(self._own(ref), expires_s)

    def _has(self, ref: ObjectRef) -> bool:
        return ref.key.startswith(self._folder)

    def _own(self, ref: ObjectRef) -> ObjectRef:
        """Raises NotIndexed for an object outside the tenant's folder."""
        if not self._has(ref):
            raise NotIndexed(f"the bucket has no object {ref.key}")
        return ref


def owned_by(tenant: str) -> dict[str, Any]:
    """The Qdrant filter condition for a tenant's points."""
    return {"key": "tenant", "match": {"value": tenant}}
