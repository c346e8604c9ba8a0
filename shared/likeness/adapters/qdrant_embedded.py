"""VectorIndex over qdrant-edge: Qdrant's own Rust engine inside this process.

A folder holds one shard for each collection and a small JSON file of aliases. One process may
open it at a time; the engine's write-ahead log keeps what was written when it is killed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from likeness.adapters.qdrant import (
    VECTOR,
    Layout,
    Understood,
    check_collection,
    from_payload,
    to_payload,
    to_vectors,
    update_filter,
)
from likeness.errors import IndexMissing, IndexRefused, IndexUnavailable
from likeness.records import (
    Candidate,
    CollectionInfo,
    Page,
    Payload,
    Point,
    PointWrite,
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
        self._lock = threading.RLock()
        self.closed = False
        folder.mkdir(parents=True, exist_ok=True)

    def close(self) -> None:
        with self._lock:
            self.closed = True
            for shard in self._shards.values():
                shard.close()
            self._shards.clear()

    def reconnect(self) -> None:
        """There is no connection."""

    def prepare(self, model: str, dim: int) -> None:
        name = self._layout.collection(model)
        with self._lock:
            if not (self._folder / name / _METADATA).exists():
                self._create(name, model, dim)
            check_collection(name, self._metadata(name), dim, model)
            shard = self._shard(name)
            with _translated():
                self._index_payload(shard)
            aliases = self._aliases()
            if self._layout.alias not in aliases:
                self._write_json(_ALIASES, {**aliases, self._layout.alias: name})

    def retrieve(self, model: str, ids: Sequence[str]) -> dict[str, Point]:
        shard = self._shard(self._layout.collection(model))
        with _translated():
            records = shard.retrieve(list(ids), with_payload=True, with_vector=False)
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

    def info(self) -> CollectionInfo:
        name = self._aliased()
        with _translated():
            points = self._shard(name).count(edge.CountRequest(exact=True))
        metadata = self._metadata(name)
        return CollectionInfo(name, metadata["model"], metadata["dim"], points)

    def nearest(
        self,
        vector: Vector,
        limit: int,
        offset: int = 0,
        filter: Mapping[str, Any] | None = None,
        score_threshold: float | None = None,
    ) -> list[Candidate]:
        request = edge.QueryRequest(
            limit=limit,
            offset=offset,
            query=edge.Query.Nearest(vector.tolist(), using=VECTOR),
            filter=_filter(filter) if filter else None,
            score_threshold=score_threshold,
            with_payload=True,
        )
        shard = self._shard(self._aliased())
        with _translated():
            return [Candidate(from_payload(_payload(p)), p.score) for p in shard.query(request)]

    def fetch(self, point_id: str) -> Point | None:
        shard = self._shard(self._aliased())
        with _translated():
            records = shard.retrieve([point_id], with_payload=True, with_vector=True)
            if not records:
                return None
            vectors: Any = records[0].vector
            return from_payload(_payload(records[0]), (vectors or {}).get(VECTOR))

    def scroll(
        self, limit: int, cursor: str | None = None, filter: Mapping[str, Any] | None = None
    ) -> Page:
        request = edge.ScrollRequest(
            offset=cursor,
            limit=limit,
            filter=_filter(filter) if filter else None,
            with_payload=True,
        )
        shard = self._shard(self._aliased())
        with _translated():
            records, next_cursor = shard.scroll(request)
            points = [from_payload(_payload(record)) for record in records]
        return Page(points, None if next_cursor is None else str(next_cursor))

    def _create(self, name: str, model: str, dim: int) -> None:
        (self._folder / name).mkdir(exist_ok=True)
        config = edge.EdgeConfig(
            vectors={VECTOR: edge.EdgeVectorParams(size=dim, distance=edge.Distance.Cosine)}
        )
        with _translated():
            # load, not create: it also completes what a killed process left half-made
            self._shards[name] = edge.EdgeShard.load(str(self._folder / name), config)
        # Written last: a folder without it was left half-made by a killed process.
        self._write_json(f"{name}/{_METADATA}", {"model": model, "dim": dim})

    def _index_payload(self, shard: edge.EdgeShard) -> None:
        present = shard.info().payload_schema
        for path, kind in self._layout.indexes.items():
            if path not in present:
                shard.update(edge.UpdateOperation.create_field_index(path, _INDEX_TYPES[kind]))

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
        name = self._aliases().get(self._layout.alias)
        if name is None:
            raise IndexMissing("there is no collection yet: index an image first")
        return name

    def _aliases(self) -> dict[str, str]:
        path = self._folder / _ALIASES
        aliases: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return aliases

    def _metadata(self, name: str) -> dict[str, Any]:
        metadata: dict[str, Any] = json.loads((self._folder / name / _METADATA).read_text())
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
            raise IndexRefused(str(error)) from error
        super().__exit__(kind, error, trace)


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
