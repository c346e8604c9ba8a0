"""Protocols of the services that the library depends on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from likeness.records import (
    Candidate,
    CollectionInfo,
    ListedObject,
    NearestQuery,
    ObjectBody,
    ObjectRef,
    ObjectState,
    Page,
    Point,
    Regrouping,
    StoredPoints,
    ValueCount,
)


class IndexView(Protocol):
    """A reader's view of the index: the collection behind the alias, and notes.

    Every method raises IndexUnavailable where the index cannot be reached, or does not confirm a
    write.
    `filter` is Qdrant filter JSON as returned by `filters.Schema.compile`.
    """

    def info(self) -> CollectionInfo:
        """The collection behind the alias. Raises IndexMissing where there is none."""

    def nearest(self, queries: Sequence[NearestQuery]) -> list[list[Candidate]]:
        """The neighbours of each query, best first, all in one round trip.

        Up to 16 equal scores at the edge of a page are sorted by id, so that pages neither overlap
        nor leave gaps.
        """

    def retrieve_with_vectors(self, ids: Sequence[str], patches: bool = False) -> dict[str, Point]:
        """Points of the collection behind the alias, with vectors and descriptors.

        Unknown ids are omitted. `patches`: with the patches too, of a collection that stores them.
        """

    def scroll(
        self,
        limit: int,
        cursor: str | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Page:
        """A page of points in id order, without vectors and descriptors."""

    def facet(
        self, path: str, limit: int, filter: Mapping[str, Any] | None = None
    ) -> list[ValueCount]:
        """The most frequent values of an indexed keyword or integer field.

        `path` is a path of the stored payload, as returned by `filters.Schema.countable`.
        """

    def put_note(self, kind: str, note_id: str, values: Mapping[str, Any]) -> None:
        """Store a note of a kind; replaces one with the same id."""

    def delete_note(self, kind: str, note_id: str) -> None:
        """Delete a note, if it exists."""

    def list_notes(
        self, kind: str, limit: int, cursor: str | None = None
    ) -> tuple[list[Mapping[str, Any]], str | None]:
        """A page of notes of a kind in id order, and the cursor of the next page."""


class SearchIndex(IndexView, Protocol):
    """An index with a collection for each model, for searches."""

    def reconnect(self) -> None:
        """Discard connections: those in a restored snapshot are dead."""

    def close(self) -> None:
        """Release connections or files; the index must not be used afterwards."""

    def for_model(self, model: str) -> SearchIndex:
        """The same index, whose readers see this model's collection instead of the alias."""


class VectorIndex(SearchIndex, Protocol):
    """The same index with its writers, which name a model, while readers use the alias."""

    def for_model(self, model: str) -> VectorIndex:
        """The same index, whose readers see this model's collection instead of the alias."""

    def models(self) -> list[str]:
        """The models that have a collection, in no particular order."""

    def prepare(
        self, model: str, dim: int, patches: int | None = None, create: bool = True
    ) -> None:
        """Create the model's collection, its payload indexes and the alias, where missing.

        `patches`: the dimension of the patches for late interaction, where they are stored.

        Raises ConfigurationError where the collection exists with another dimension or model,
        IndexMissing where it does not exist and `create` is false.
        """

    def switch(self, model: str) -> None:
        """Point the alias at a model's collection, atomically.

        Raises IndexMissing where the model has no collection.
        """

    def drop(self, model: str) -> None:
        """Delete a model's collection, if it exists.

        Raises ConfigurationError where the alias points at it.
        """

    def clear(self) -> list[str]:
        """Delete the alias and all its collections, notes included; returns the collections' names.

        May be repeated, also after a failure in between.
        """

    def check_server(self) -> str:
        """The server's version, which is read before the first write.

        Raises ConfigurationError for one that would write unconditionally or lose conditions after
        a crash, IndexUnavailable where no version can be read.
        """

    def retrieve_payloads(self, model: str, ids: Sequence[str]) -> StoredPoints:
        """Points of a model's collection, without vectors and descriptors, from all replicas."""

    def write(self, model: str, points: Sequence[Point]) -> None:
        """Store points, each unless its id has an equal or newer version; returns once they are
        durable.

        A point that is not newer is skipped silently: read it again to know.
        """

    def annotate(self, model: str, points: Sequence[Point]) -> None:
        """Store the `partners` and `variants` of points, and that they were compared; each unless
        another version of it is stored, or it was compared before. Returns once it is durable.
        """

    def regroup(self, model: str, regroupings: Sequence[Regrouping]) -> None:
        """Give images another group, one regrouping after the other; returns once it is durable.

        An image that was written or regrouped meanwhile is skipped silently: read it again to know.
        """

    def delete_tombstones(self, model: str, ids: Sequence[str], before_s: float) -> None:
        """Delete those of these points that are tombstones written before a time.

        Qdrant checks the condition as it deletes: a point that became live meanwhile stays.
        """


class ObjectReader(Protocol):
    """A bucket for indexing.

    Every method raises StoreUnavailable for throttling, 5xx and lost connections.
    """

    def head(self, ref: ObjectRef) -> ObjectState | None:
        """The object's current state; None where it is absent or hidden by a delete marker."""

    def read(self, ref: ObjectRef, etag: str, max_bytes: int) -> ObjectBody:
        """The object's content, if it still has this etag.

        Raises ObjectChanged where it does not, ImageTooLarge for more than max_bytes.
        """


class ObjectListing(Protocol):
    """A bucket's listing, for reconciliation and backfill."""

    def entries(self, bucket: str, prefix: str, start_after: str = "") -> Iterator[ListedObject]:
        """All objects under a prefix, in key order. Raises StoreUnavailable, as ObjectReader."""


class ObjectStore(ObjectReader, Protocol):
    """A bucket for the search function."""

    def delete(self, ref: ObjectRef) -> None:
        """Delete an object, if it exists."""

    def presign_upload(
        self,
        ref: ObjectRef,
        content_type: str,
        metadata: Mapping[str, str],
        max_bytes: int,
        expires_s: int,
    ) -> tuple[str, dict[str, str]]:
        """URL and fields of a presigned POST for exactly this key, type, metadata and size."""

    def presign_download(self, ref: ObjectRef, expires_s: int) -> str:
        """A presigned URL of the object."""


class HintQueue(Protocol):
    """The queue of S3 events and of our own hints."""

    def send(self, refs: Iterable[ObjectRef]) -> int:
        """Enqueue one hint for each object; returns their number."""

    def depth(self) -> int:
        """The approximate number of waiting messages, at most a minute old."""
