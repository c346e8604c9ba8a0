"""What the library asks of the outside world."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from likeness.records import (
    Candidate,
    CollectionInfo,
    ObjectBody,
    ObjectRef,
    ObjectState,
    Page,
    Point,
    PointWrite,
    Vector,
)


class VectorIndex(Protocol):
    """A Qdrant collection behind an alias: writers name a model, readers the alias.

    Every method raises IndexUnavailable when the index cannot be reached or does not confirm.
    `filter` is Qdrant filter JSON as `filters.Schema.compile` returns it.
    """

    def reconnect(self) -> None:
        """Open connections anew: those in a restored snapshot are dead."""

    def close(self) -> None:
        """Release connections or files; the index is not used after it."""

    def prepare(self, model: str, dim: int) -> None:
        """Create the model's collection, its payload indexes and the alias, where missing.

        Raises ConfigurationError where the collection exists with another dimension or model.
        """

    def retrieve(self, model: str, ids: Sequence[str]) -> dict[str, Point]:
        """The stored points of these ids, without vectors; unknown ids are left out."""

    def write(self, model: str, writes: Sequence[PointWrite]) -> None:
        """Apply the conditional writes in one request; returns once they are durable.

        A write whose condition does not hold is left out silently: read again to see.
        """

    def info(self) -> CollectionInfo:
        """The collection behind the alias. Raises IndexMissing where there is none."""

    def nearest(
        self,
        vector: Vector,
        limit: int,
        offset: int = 0,
        filter: Mapping[str, Any] | None = None,
        score_threshold: float | None = None,
    ) -> list[Candidate]:
        """Live neighbours of a unit vector, float32 (D,), best first."""

    def fetch(self, point_id: str) -> Point | None:
        """One point of the collection behind the alias, with its vector."""

    def scroll(
        self,
        limit: int,
        cursor: str | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Page:
        """Points in id order, without vectors."""


class ObjectStore(Protocol):
    """A bucket. Every method raises StoreUnavailable for throttling, 5xx and lost connections."""

    def head(self, ref: ObjectRef) -> ObjectState | None:
        """The object's present state; None where it is absent or hidden by a delete marker."""

    def read(self, ref: ObjectRef, etag: str, max_bytes: int) -> ObjectBody:
        """The object's bytes, if they still have this etag.

        Raises ObjectChanged where they do not, ImageTooLarge where there are more than max_bytes.
        """

    def list(self, bucket: str, prefix: str, start_after: str = "") -> Iterator[ObjectRef]:
        """Every object under a prefix, in key order."""

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
