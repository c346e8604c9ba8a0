"""What the library asks of the outside world."""

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
    PointWrite,
    ValueCount,
)


class IndexView(Protocol):
    """What the search function needs of an index: the collection behind the alias, and notes.

    Every method raises IndexUnavailable when the index cannot be reached or does not confirm.
    `filter` is Qdrant filter JSON as `filters.Schema.compile` returns it.
    """

    def info(self) -> CollectionInfo:
        """The collection behind the alias. Raises IndexMissing where there is none."""

    def nearest(self, queries: Sequence[NearestQuery]) -> list[list[Candidate]]:
        """The answer to each query, best first, all in one round trip.

        Up to 16 equals at an edge of an answer come by their ids: pages join.
        """

    def retrieve_with_vectors(self, ids: Sequence[str]) -> dict[str, Point]:
        """Points of the collection behind the alias, with all that is stored of them; unknown ids
        are left out.
        """

    def scroll(
        self,
        limit: int,
        cursor: str | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Page:
        """Points in id order, without vectors and descriptors."""

    def facet(
        self, path: str, limit: int, filter: Mapping[str, Any] | None = None
    ) -> list[ValueCount]:
        """The most frequent values of an indexed keyword or integer; others are not counted.

        `path` is that of the stored payload, as `filters.Schema.countable` gives it.
        """

    def put_note(self, kind: str, note_id: str, values: Mapping[str, Any]) -> None:
        """Keep a note of some kind beside the collections; one with the same id is replaced."""

    def delete_note(self, kind: str, note_id: str) -> None:
        """Remove a note; harmless where there is none."""

    def list_notes(
        self, kind: str, limit: int, cursor: str | None = None
    ) -> tuple[list[Mapping[str, Any]], str | None]:
        """Notes of a kind in id order, and the cursor of the next page."""


class VectorIndex(IndexView, Protocol):
    """A Qdrant collection behind an alias: writers name a model, readers the alias."""

    def reconnect(self) -> None:
        """Open connections anew: those in a restored snapshot are dead."""

    def close(self) -> None:
        """Release connections or files; the index is not used after it."""

    def for_model(self, model: str) -> VectorIndex:
        """The same index, whose readers see this model's collection, wherever the alias points."""

    def models(self) -> list[str]:
        """The models that have a collection, in no order."""

    def prepare(
        self, model: str, dim: int, patches: int | None = None, create: bool = True
    ) -> None:
        """Create the model's collection, its payload indexes and the alias, where missing.

        `patches`: the dimension of the rows that late interaction compares, where they are kept.

        Raises ConfigurationError where the collection exists with another dimension or model,
        IndexMissing where it does not exist and is not to be created.
        """

    def switch(self, model: str) -> None:
        """Point the alias at a model's collection: each reader sees the old one or the new one.

        Raises IndexMissing where the model has none.
        """

    def drop(self, model: str) -> None:
        """Remove a model's collection; harmless where there is none.

        Raises ConfigurationError where the alias points at it.
        """

    def retrieve_payloads(self, model: str, ids: Sequence[str]) -> dict[str, Point]:
        """The stored points of these ids, without vectors and descriptors; unknown ids
        are left out.
        """

    def write(self, model: str, writes: Sequence[PointWrite]) -> None:
        """Apply the conditional writes in one request; returns once they are durable.

        A write whose condition does not hold is left out silently: read again to see.
        """

    def delete_tombstones(self, model: str, ids: Sequence[str], before_s: float) -> None:
        """Delete those of these points that are tombstones written before a time, for good.

        The condition is checked where it is deleted: what came alive meanwhile stays.
        """


class ObjectReader(Protocol):
    """What indexing asks of a bucket.

    Every method raises StoreUnavailable for throttling, 5xx and lost connections.
    """

    def head(self, ref: ObjectRef) -> ObjectState | None:
        """The object's present state; None where it is absent or hidden by a delete marker."""

    def read(self, ref: ObjectRef, etag: str, max_bytes: int) -> ObjectBody:
        """The object's bytes, if they still have this etag.

        Raises ObjectChanged where they do not, ImageTooLarge where there are more than max_bytes.
        """


class ObjectListing(Protocol):
    """What those ask of a bucket who look at all of it."""

    def entries(self, bucket: str, prefix: str, start_after: str = "") -> Iterator[ListedObject]:
        """Every object under a prefix, in key order. Raises StoreUnavailable, as ObjectReader."""


class ObjectStore(ObjectReader, Protocol):
    """What searching asks of a bucket."""

    def delete(self, ref: ObjectRef) -> None:
        """Delete an object; harmless where there is none."""

    def presign_upload(
        self,
        ref: ObjectRef,
        content_type: str,
        metadata: Mapping[str, str],
        max_bytes: int,
        expires_s: int,
    ) -> tuple[str, dict[str, str]]:
        """URL and fields of a presigned POST that accepts just this key, type, metadata, size."""

    def presign_download(self, ref: ObjectRef, expires_s: int) -> str:
        """A short-lived URL of the object."""


class HintQueue(Protocol):
    """The queue that S3's events go to, and our own hints with them."""

    def send(self, refs: Iterable[ObjectRef]) -> int:
        """Enqueue one hint for each object; returns how many."""

    def depth(self) -> int:
        """How many messages wait, approximately: those of a minute ago at the latest."""
