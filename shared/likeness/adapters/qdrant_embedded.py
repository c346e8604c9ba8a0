"""VectorIndex over qdrant-edge: Qdrant's own Rust engine inside this process.

A folder holds one shard for each collection and a small JSON file of aliases. One process may
open it at a time; the engine's write-ahead log keeps what was written when it is killed.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from likeness.adapters.qdrant_mapping import (
    BULKY,
    HNSW_EF,
    NOTE_KIND,
    NOTE_VALUES,
    PATCHES,
    SYSTEM_INDEXES,
    VECTOR,
    Layout,
    Understood,
    by_view,
    check_collection,
    check_unused,
    from_payload,
    merged,
    metadata_of,
    note_point_id,
    oversampling,
    to_numbers,
    to_payload,
    to_vectors,
    tombstones,
    update_filter,
    window,
)
from likeness.errors import IndexMissing, IndexRefused, IndexUnavailable
from likeness.records import (
    Candidate,
    CollectionInfo,
    NearestQuery,
    Page,
    Payload,
    Point,
    PointWrite,
    State,
    ValueCount,
    Vector,
)

_ALIASES = "aliases.json"
_METADATA = "likeness.json"
_INDEX_TYPES = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "datetime": edge.PayloadSchemaType.Datetime,
}
_INDEX_PARAMS: Mapping[str, Any] = {
    "keyword": edge.KeywordIndexParams,
    "integer": edge.IntegerIndexParams,
    "float": edge.FloatIndexParams,
}
# The engine wants a vector of every collection; notes leave it out.
_UNUSED = {"unused": edge.EdgeVectorParams(size=1, distance=edge.Distance.Dot)}
_LIGHT = edge.PayloadSelector.Exclude(BULKY)
_open: dict[str, EmbeddedIndex] = {}
_open_lock = threading.Lock()


def shared_index(folder: str, layout: Layout) -> EmbeddedIndex:
    """This process's one index over a folder: the engine locks it against a second opening."""
    with _open_lock:
        path = str(Path(folder).resolve())
        if path not in _open or _open[path].closed:
            _open[path] = EmbeddedIndex(Path(path), layout)
        return _open[path]


class EmbeddedIndex:
    """Safe to share between threads; close() or process end releases the folder."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self._folder = folder
        self._layout = layout
        self._shards: dict[str, edge.EdgeShard] = {}
        self._reads: str | None = None
        self._lock = threading.RLock()
        self._closed = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def closed(self) -> bool:
        return self._closed.is_set()

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            for shard in self._shards.values():
                shard.close()
            self._shards.clear()

    def reconnect(self) -> None:
        """There is no connection."""

    def for_model(self, model: str) -> EmbeddedIndex:
        view = copy.copy(self)  # with the same shards, under the same lock
        view._reads = self._layout.collection(model)
        return view

    def models(self) -> list[str]:
        found = self._folder.glob(f"*/{_METADATA}")
        return self._layout.models(path.parent.name for path in found)

    def prepare(
        self, model: str, dim: int, patches: int | None = None, create: bool = True
    ) -> None:
        name, wanted = self._layout.collection(model), metadata_of(model, dim, patches)
        with self._lock:
            if create and not (self._folder / name / _METADATA).exists():
                self._create(name, _vectors(wanted), wanted)
            shard = self._shard(name)
            check_collection(name, self._metadata(name), wanted)
            self._index_payload(shard, self._layout.indexes)
            if self._layout.alias not in self._aliases():
                self._point_alias(name)

    def switch(self, model: str) -> None:
        name = self._layout.collection(model)
        with self._lock:
            self._shard(name)
            self._point_alias(name)

    def drop(self, model: str) -> None:
        name = self._layout.collection(model)
        with self._lock:
            check_unused(name, self._aliases().get(self._layout.alias))
            if shard := self._shards.pop(name, None):
                shard.close()
            # renamed first: killed here, we must not leave half of a collection under its name
            dropped = self._folder / f"{name}.dropped"
            shutil.rmtree(dropped, ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                (self._folder / name).rename(dropped)
                shutil.rmtree(dropped)

    def retrieve_payloads(self, model: str, ids: Sequence[str]) -> dict[str, Point]:
        shard = self._shard(self._layout.collection(model))
        with _translated():
            records = shard.retrieve(list(ids), with_payload=_LIGHT, with_vector=False)
            return {str(record.id): from_payload(_payload(record)) for record in records}

    def write(self, model: str, writes: Sequence[PointWrite]) -> None:
        points = [
            edge.Point(write.point.id, {**to_vectors(write.point)}, to_payload(write.point))
            for write in writes
        ]
        operation = edge.UpdateOperation.upsert_points(
            points, condition=_filter(update_filter(writes))
        )
        shard = self._shard(self._layout.collection(model))
        with self._lock, _translated():
            shard.update(operation)

    def delete_tombstones(self, model: str, ids: Sequence[str], before_s: float) -> None:
        old = _filter(tombstones(ids, before_s))
        shard = self._shard(self._layout.collection(model))
        with self._lock, _translated():
            shard.update(edge.UpdateOperation.delete_points_by_filter(old))

    def info(self) -> CollectionInfo:
        name = self._aliased()
        with _translated():
            points = self._shard(name).count(edge.CountRequest(exact=True))
        metadata = self._metadata(name)
        return CollectionInfo(
            name, metadata["model"], metadata["dim"], points, metadata.get("patches")
        )

    def nearest(self, queries: Sequence[NearestQuery]) -> list[list[Candidate]]:
        requests = [
            _request(query, vector, patches)
            for query in queries
            for vector, patches in by_view(query)
        ]
        shard = self._shard(self._aliased())
        with _translated():
            answers = iter(shard.query_batch(edge.QueryBatchRequest(requests)))
            found = [
                merged(query, (_scores(next(answers)) for _ in query.views)) for query in queries
            ]
            return [
                self._candidates(shard, query.full, scores)
                for query, scores in zip(queries, found, strict=True)
            ]

    def retrieve_with_vectors(self, ids: Sequence[str]) -> dict[str, Point]:
        shard = self._shard(self._aliased())
        with _translated():
            records = shard.retrieve(list(ids), with_payload=True, with_vector=[VECTOR])
            return {str(r.id): from_payload(_payload(r), _vector(r)) for r in records}

    def scroll(
        self, limit: int, cursor: str | None = None, filter: Mapping[str, Any] | None = None
    ) -> Page:
        request = edge.ScrollRequest(
            offset=cursor,
            limit=limit,
            filter=_filter(filter) if filter else None,
            with_payload=_LIGHT,
        )
        shard = self._shard(self._aliased())
        with _translated():
            records, next_cursor = shard.scroll(request)
            points = [from_payload(_payload(record)) for record in records]
        return Page(points, None if next_cursor is None else str(next_cursor))

    def facet(
        self, path: str, limit: int, filter: Mapping[str, Any] | None = None
    ) -> list[ValueCount]:
        request = edge.FacetRequest(path, limit, filter=_filter(filter) if filter else None)
        shard = self._shard(self._aliased())
        with _translated():
            return [ValueCount(hit.value, hit.count) for hit in shard.facet(request).hits]

    def put_note(self, kind: str, note_id: str, values: Mapping[str, Any]) -> None:
        point = edge.Point(
            note_point_id(kind, note_id), {}, {NOTE_KIND: kind, NOTE_VALUES: dict(values)}
        )
        name = self._layout.notes
        with self._lock:
            if not (self._folder / name / _METADATA).exists():
                self._create(name, _UNUSED, {})
            shard = self._shard(name)
            self._index_payload(shard, {NOTE_KIND: "keyword"})
            with _translated():
                shard.update(edge.UpdateOperation.upsert_points([point]))

    def delete_note(self, kind: str, note_id: str) -> None:
        with self._lock, contextlib.suppress(IndexMissing), _translated():
            self._shard(self._layout.notes).update(
                edge.UpdateOperation.delete_points([note_point_id(kind, note_id)])
            )

    def list_notes(
        self, kind: str, limit: int, cursor: str | None = None
    ) -> tuple[list[Mapping[str, Any]], str | None]:
        of_kind = {"must": [{"key": NOTE_KIND, "match": {"value": kind}}]}
        request = edge.ScrollRequest(
            offset=cursor, limit=limit, filter=_filter(of_kind), with_payload=True
        )
        try:
            shard = self._shard(self._layout.notes)
        except IndexMissing:
            return [], None
        with _translated():
            records, next_cursor = shard.scroll(request)
            values = [_payload(record)[NOTE_VALUES] for record in records]
        return values, None if next_cursor is None else str(next_cursor)

    def _candidates(
        self, shard: edge.EdgeShard, full: bool, scores: list[tuple[str, float]]
    ) -> list[Candidate]:
        """Read what the merged answers kept: two views of a query find twice as much."""
        records = shard.retrieve(
            [point_id for point_id, _ in scores],
            with_payload=True if full else _LIGHT,
            with_vector=[VECTOR] if full else False,
        )
        points = {str(r.id): from_payload(_payload(r), _vector(r)) for r in records}
        # what was removed since it was found is no neighbour any more
        return [
            Candidate(points[point_id], score)
            for point_id, score in scores
            if point_id in points and points[point_id].state is State.LIVE
        ]

    def _create(
        self, name: str, vectors: dict[str, edge.EdgeVectorParams], metadata: dict[str, Any]
    ) -> None:
        (self._folder / name).mkdir(exist_ok=True)
        with _translated():
            # load, not create: it also completes what a killed process left half-made
            self._shards[name] = edge.EdgeShard.load(
                str(self._folder / name), edge.EdgeConfig(vectors=vectors)
            )
        # Written last: a folder without it was left half-made by a killed process.
        self._write_json(f"{name}/{_METADATA}", metadata)

    def _index_payload(self, shard: edge.EdgeShard, wanted: Mapping[str, str]) -> None:
        with _translated():
            present = shard.info().payload_schema
            for path, kind in wanted.items():
                if path not in present:
                    index: Any = _INDEX_TYPES[kind]
                    if path in SYSTEM_INDEXES:
                        index = _INDEX_PARAMS[kind](enable_hnsw=False)
                    shard.update(edge.UpdateOperation.create_field_index(path, index))

    def _shard(self, name: str) -> edge.EdgeShard:
        with self._lock:
            if self.closed:
                raise IndexUnavailable("the embedded index was closed")
            if name not in self._shards:
                if not (self._folder / name / _METADATA).exists():
                    raise IndexMissing(f"there is no collection {name} yet")
                with _translated():
                    self._shards[name] = edge.EdgeShard.load(str(self._folder / name))
            return self._shards[name]

    def _aliased(self) -> str:
        name = self._reads or self._aliases().get(self._layout.alias)
        if name is None:
            raise IndexMissing("there is no collection yet: index an image first")
        return name

    def _aliases(self) -> dict[str, str]:
        path = self._folder / _ALIASES
        aliases: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return aliases

    def _point_alias(self, name: str) -> None:
        self._write_json(_ALIASES, {**self._aliases(), self._layout.alias: name})

    def _metadata(self, name: str) -> dict[str, Any]:
        try:
            metadata: dict[str, Any] = json.loads((self._folder / name / _METADATA).read_text())
        except FileNotFoundError:
            raise IndexMissing(f"collection {name} was dropped") from None
        return metadata

    def _write_json(self, name: str, value: Any) -> None:
        """Atomically: a reader or a killed process sees the old file or the new one."""
        path = self._folder / name
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(value))
        draft.replace(path)


class _translated(Understood):  # noqa: N801 - reads as a verb
    """The engine raises bare Exception; here it gets its name."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if type(error) is Exception:
            if "WouldBlock" in str(error):
                raise IndexUnavailable("another process has the embedded index open") from error
            if "Shard is not initialized" in str(error):
                raise IndexMissing("the collection was dropped meanwhile") from error
            raise IndexRefused(str(error)) from error
        super().__exit__(kind, error, trace)


def _vectors(metadata: Mapping[str, Any]) -> dict[str, edge.EdgeVectorParams]:
    cosine = edge.Distance.Cosine
    vectors = {
        VECTOR: edge.EdgeVectorParams(
            size=metadata["dim"],
            distance=cosine,
            on_disk=True,
            # as on a server (see qdrant_rest); it takes effect once the shard is optimised
            quantization_config=edge.ScalarQuantizationConfig(
                edge.ScalarType.Int8, always_ram=True
            ),
        )
    }
    if "patches" in metadata:
        vectors[PATCHES] = edge.EdgeVectorParams(
            size=metadata["patches"],
            distance=cosine,
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            datatype=edge.VectorStorageDatatype.Float16,
        )
    return vectors


def _request(query: NearestQuery, vector: Vector, patches: Vector | None) -> edge.QueryRequest:
    """Ids and scores alone. Prefetches are filtered too, or they would fill up with others."""
    limit, offset = window(query)
    taken = limit if patches is None else query.pool
    by_vector: dict[str, Any] = {
        "query": edge.Query.Nearest(to_numbers(vector), using=VECTOR),
        "filter": _filter(query.filter) if query.filter else None,
        "score_threshold": query.score_threshold,
        "params": edge.SearchParams(
            hnsw_ef=HNSW_EF,
            quantization=edge.QuantizationSearchParams(
                rescore=True, oversampling=oversampling(taken)
            ),
        ),
    }
    if patches is not None:
        by_vector = {
            "prefetches": [edge.Prefetch(limit=query.pool, **by_vector)],
            "query": edge.Query.Nearest(to_numbers(patches), using=PATCHES),
        }
    return edge.QueryRequest(
        limit=limit, offset=offset, with_payload=False, with_vector=False, **by_vector
    )


def _scores(found: Any) -> Iterator[tuple[str, float]]:
    return ((str(point.id), point.score) for point in found)


def _vector(record: Any) -> list[float] | None:
    vectors: Any = record.vector
    vector: list[float] | None = (vectors or {}).get(VECTOR)
    return vector


def _payload(record: Any) -> Payload:
    payload: Payload = record.payload
    return payload


def _filter(clauses: Mapping[str, Any]) -> edge.Filter:
    """Filter JSON of `filters.Schema.compile` and `qdrant.update_filter` → the engine's objects."""
    must, should, must_not = (
        [_filter_condition(condition) for condition in clauses.get(name, [])] or None
        for name in ("must", "should", "must_not")
    )
    return edge.Filter(must, should, must_not)


def _filter_condition(condition: Mapping[str, Any]) -> Any:
    if "has_id" in condition:
        return edge.HasIdCondition(set(condition["has_id"]))
    if "is_empty" in condition:
        return edge.IsEmptyCondition(condition["is_empty"]["key"])
    if "key" not in condition:
        return _filter(condition)
    key = condition["key"]
    if "match" in condition:
        return edge.FieldCondition(key, match=_match(condition["match"]))
    bounds = condition["range"]
    dates = any(isinstance(bound, str) for bound in bounds.values())
    return edge.FieldCondition(
        key, range=edge.RangeDateTime(**bounds) if dates else edge.RangeFloat(**bounds)
    )


def _match(match: Mapping[str, Any]) -> Any:
    [(how, value)] = match.items()
    if how == "value":
        return edge.MatchValue(value)
    return edge.MatchAny(value) if how == "any" else edge.MatchExcept(value)
