"""Searcher: a query image, or an image that is indexed already → its nearest neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from msgspec import Struct

from likeness.embedding import Embedder, check_vector
from likeness.errors import (
    ConfigurationError,
    IndexMissing,
    IndexOfOtherModel,
    IndexRefused,
    InvalidRequest,
    ModelMismatch,
    NotIndexed,
)
from likeness.filters import Schema
from likeness.images import decode
from likeness.ports import ObjectStore, VectorIndex
from likeness.records import (
    Candidate,
    CollectionInfo,
    ObjectRef,
    Point,
    State,
    Vector,
)
from likeness.settings import MIB, Limits

# API Gateway passes 10 MB, Lambda 6 MB with base64's third on top: 4.5 MiB of image.
MAX_QUERY_BYTES = int(4.5 * MIB)
_OTHER_MODEL = (
    "the index was made by model {0}, this service embeds with {1}, and their vectors cannot be "
    "compared. To re-embed: `likeness index s3://BUCKET/` fills the collection of {1}; then point "
    "the alias at it (a local service: begin anew with another --data). Or set LIKENESS_MODEL_DIR "
    "to the model that made the index"
)


class ByImage(Struct, frozen=True):
    data: bytes


class ById(Struct, frozen=True):
    id: str


class ByObject(Struct, frozen=True):
    """An object of the bucket, indexed or not."""

    ref: ObjectRef


class ByVector(Struct, frozen=True):
    """A vector the caller embedded; `model` is the fingerprint of what made it."""

    values: tuple[float, ...]
    model: str


Source = ByImage | ById | ByObject | ByVector


class Query(Struct, frozen=True):
    """`filter` is Qdrant filter JSON as the caller wrote it, over declared keys."""

    source: Source
    limit: int = 10
    offset: int = 0
    filter: Mapping[str, Any] | None = None
    score_threshold: float | None = None


class Answer(Struct, frozen=True):
    """`next_offset` is None on the last page; `took_ms` has a key for each stage that ran."""

    results: list[Candidate]
    next_offset: int | None
    took_ms: Mapping[str, float]


class _Stopwatch:
    def __init__(self) -> None:
        self.took_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.took_ms[name] = round((time.perf_counter() - start) * 1000, 2)


class Searcher:
    """Safe to share between threads."""

    def __init__(
        self,
        index: VectorIndex,
        embedder: Embedder,
        open_store: Callable[[], ObjectStore],
        schema: Schema | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`open_store` is only called where a query names an object that is not indexed."""
        self._index = index
        self._embedder = embedder
        self._open_store = open_store
        self._schema = schema or Schema()
        self._limits = limits or Limits()

    @property
    def model(self) -> str:
        return self._embedder.fingerprint

    @property
    def model_name(self) -> str:
        return self._embedder.spec.name

    def search(self, query: Query) -> Answer:
        """Live neighbours, best first; an indexed source is not its own neighbour.

        Raises an InputError for what the caller got wrong, Unavailable where Qdrant or S3 is down.
        """
        watch = _Stopwatch()
        with watch.stage("total"):
            filter = self._schema.compile(query.filter) if query.filter else {}
            vector, own_id = self._vector(query.source, watch)
            if own_id:
                not_itself = {"has_id": [own_id]}
                filter = {**filter, "must_not": [*filter.get("must_not", []), not_itself]}
            with watch.stage("search"):
                found = self._nearest(vector, query, filter)
        more = len(found) > query.limit
        return Answer(
            found[: query.limit], query.offset + query.limit if more else None, watch.took_ms
        )

    def image(self, point_id: str) -> Point:
        """A live or rejected point. Raises NotIndexed for any other id."""
        point = self._index.fetch(point_id)
        if point is None or point.state is State.GONE:
            raise NotIndexed(f"no image with the id {point_id}")
        return point

    def status(self, ref: ObjectRef) -> Point | None:
        """What the index says of an object; None where it knows nothing of it."""
        try:
            return self._index.fetch(ref.point_id)
        except IndexMissing:
            return None

    def ready(self) -> CollectionInfo:
        """The collection that is searched. Raises Unavailable where searches would fail."""
        info = self._index.info()
        if (info.model, info.dim) != (self.model, self._embedder.dim):
            raise IndexOfOtherModel(_OTHER_MODEL.format(info.model, self.model))
        return info

    def _vector(self, source: Source, watch: _Stopwatch) -> tuple[Vector, str | None]:
        """The unit vector to search with, and the id of the point it was taken from."""
        match source:
            case ByImage(data):
                return self._embed(data, watch), None
            case ByVector(values, model):
                return self._given(values, model), None
            case ById(point_id):
                point = self.image(point_id)
                if point.vector is None:
                    raise NotIndexed(f"{point.ref.key} was rejected: {point.detail}")
                return point.vector, point_id
            case ByObject(ref):
                point_or_none = self.status(ref)
                if point_or_none and point_or_none.vector is not None:
                    return point_or_none.vector, ref.point_id
                return self._embed(self._read(ref), watch), None

    def _embed(self, data: bytes, watch: _Stopwatch) -> Vector:
        with watch.stage("decode"):
            image, _ = decode(data, self._limits, self._embedder.decode_size)
            tensor = self._embedder.prepare(image)
        with watch.stage("embed"):
            vector: Vector = self._embedder.embed([tensor])[0]
        check_vector(vector)
        return vector

    def _read(self, ref: ObjectRef) -> bytes:
        store = self._open_store()
        try:
            state = store.head(ref)
            if state is not None:
                return store.read(ref, state.etag, self._limits.max_bytes).data
        except ConfigurationError:
            pass  # forbidden: as good as absent for this caller, whose key it is
        raise NotIndexed(f"the bucket has no object {ref.key} that can be searched with")

    def _given(self, values: tuple[float, ...], model: str) -> Vector:
        if model != self.model:
            raise ModelMismatch(f"the vector is of model {model}, this index of {self.model}")
        if len(values) != self._embedder.dim:
            raise InvalidRequest(
                f"vector: {self._embedder.dim} values expected, {len(values)} given"
            )
        vector = np.array(values, np.float64)
        length = np.linalg.norm(vector)
        if not np.isfinite(length) or length == 0:
            raise InvalidRequest("vector: all values must be finite, and not all zero")
        return np.asarray(vector / length, np.float32)

    def _nearest(self, vector: Vector, query: Query, filter: dict[str, Any]) -> list[Candidate]:
        """One more than asked for, which tells whether there is a next page.

        A vector compared with another model's is noise: that raises IndexOfOtherModel.
        """
        try:
            found = self._index.nearest(
                vector, query.limit + 1, query.offset, filter or None, query.score_threshold
            )
        except IndexRefused:
            self.ready()  # another model's dimension is the likeliest reason, and says so itself
            raise
        if not found:
            self.ready()
        for candidate in found:
            if candidate.point.model != self.model:
                raise IndexOfOtherModel(_OTHER_MODEL.format(candidate.point.model, self.model))
        return found
