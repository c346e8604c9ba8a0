"""VectorIndex over qdrant-edge: Qdrant's own Rust engine inside this process.

A folder holds one shard for each collection and a small JSON file of aliases. Only one process
may open it at a time. If the process is killed, the engine's write-ahead log keeps every
completed write.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import qdrant_edge as edge

from likeness.adapters.qdrant_edge_requests import (
    engine_filter,
    payload_index,
    query_request,
    vector_params,
)
from likeness.adapters.qdrant_layout import (
    NOTE_KIND,
    NOTE_VALUES,
    PATCHES,
    VECTOR,
    Layout,
    check_collection,
    check_droppable,
    collection_metadata,
)
from likeness.adapters.qdrant_points import (
    BULKY,
    PayloadChange,
    annotating_changes,
    from_payload,
    note_payload,
    note_point_id,
    regrouping_changes,
    response_parsing,
    to_payload,
    to_vectors,
    tombstone_filter,
    update_filter,
)
from likeness.adapters.qdrant_queries import merged, page_of, view_inputs
from likeness.errors import IndexMissing, IndexRefused, IndexUnavailable
from likeness.records import (
    Candidate,
    CollectionInfo,
    NearestQuery,
    Page,
    Payload,
    Point,
    Regrouping,
    StoredPoints,
    ValueCount,
)

_ALIASES = "aliases.json"
_METADATA = "likeness.json"
# Every collection of the engine must declare a vector; notes have none.
_NOTE_VECTORS = {"unused": edge.EdgeVectorParams(size=1, distance=edge.Distance.Dot)}
_WITHOUT_BULKY = edge.PayloadSelector.Exclude(BULKY)
_open: dict[str, EmbeddedIndex] = {}
_open_lock = threading.Lock()


def shared_index(folder: str, layout: Layout) -> EmbeddedIndex:
    """The index of this folder, one for each process: the engine locks the folder."""
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
        self._read_collection: str | None = None
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
        """Nothing to do: there is no connection."""

    def for_model(self, model: str) -> EmbeddedIndex:
        view = copy.copy(self)  # shares the shards and the lock
        view._read_collection = self._layout.collection(model)
        return view

    def models(self) -> list[str]:
        found = self._folder.glob(f"*/{_METADATA}")
        return self._layout.models(path.parent.name for path in found)

    def prepare(
        self, model: str, dim: int, patches: int | None = None, create: bool = True
    ) -> None:
        name, expected = self._layout.collection(model), collection_metadata(model, dim, patches)
        with self._lock:
            if create and not (self._folder / name / _METADATA).exists():
                self._create(name, vector_params(expected), expected)
            shard = self._shard(name)
            check_collection(name, self._metadata(name), expected)
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
            check_droppable(name, self._aliases().get(self._layout.alias))
            self._delete(name)

    def clear(self) -> list[str]:
        with self._lock:
            aliases = self._aliases()
            if aliases.pop(self._layout.alias, None):
                self._write_json(_ALIASES, aliases)
            found = self._folder.glob(f"*/{_METADATA}")
            names = self._layout.own(path.parent.name for path in found)
            for name in names:
                self._delete(name)
            return names

    def _delete(self, name: str) -> None:
        if shard := self._shards.pop(name, None):
            shard.close()
        # renamed first, so that a killed process never leaves a partial collection
        dropped = self._folder / f"{name}.dropped"
        shutil.rmtree(dropped, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            (self._folder / name).rename(dropped)
            shutil.rmtree(dropped)

    def check_server(self) -> str:
        return version("qdrant-edge-py")

    def retrieve_payloads(self, model: str, ids: Sequence[str]) -> StoredPoints:
        shard = self._shard(self._layout.collection(model))
        with _engine_errors():
            records = shard.retrieve(list(ids), with_payload=_WITHOUT_BULKY, with_vector=False)
            return StoredPoints({str(r.id): from_payload(_payload(r)) for r in records})

    def write(self, model: str, points: Sequence[Point]) -> None:
        operation = edge.UpdateOperation.upsert_points(
            [edge.Point(p.id, {**to_vectors(p)}, to_payload(p)) for p in points],
            condition=engine_filter(update_filter(points)),
        )
        shard = self._shard(self._layout.collection(model))
        with self._lock, _engine_errors():
            shard.update(operation)

    def annotate(self, model: str, points: Sequence[Point]) -> None:
        self._change(model, annotating_changes(points))

    def regroup(self, model: str, regroupings: Sequence[Regrouping]) -> None:
        self._change(model, chain.from_iterable(map(regrouping_changes, regroupings)))

    def _change(self, model: str, changes: Iterable[PayloadChange]) -> None:
        shard = self._shard(self._layout.collection(model))
        with self._lock, _engine_errors():
            for payload, found_by in changes:
                where = engine_filter(found_by)
                shard.update(edge.UpdateOperation.set_payload_by_filter(where, payload))

    def delete_tombstones(self, model: str, ids: Sequence[str], before_s: float) -> None:
        old = engine_filter(tombstone_filter(ids, before_s))
        shard = self._shard(self._layout.collection(model))
        with self._lock, _engine_errors():
            shard.update(edge.UpdateOperation.delete_points_by_filter(old))

    def info(self) -> CollectionInfo:
        name = self._searched_collection()
        with _engine_errors():
            points = self._shard(name).count(edge.CountRequest(exact=True))
        metadata = self._metadata(name)
        return CollectionInfo(
            name, metadata["model"], metadata["dim"], points, metadata.get("patches")
        )

    def nearest(self, queries: Sequence[NearestQuery]) -> list[list[Candidate]]:
        requests = [
            query_request(query, vector, patches)
            for query in queries
            for vector, patches in view_inputs(query)
        ]
        shard = self._shard(self._searched_collection())
        with _engine_errors():
            answers = iter(shard.query_batch(edge.QueryBatchRequest(requests)))
            found = [merged(_scores(next(answers)) for _ in query.views) for query in queries]
            return [
                page_of(query, scores, partial(self._read, shard, query.full))
                for query, scores in zip(queries, found, strict=True)
            ]

    def retrieve_with_vectors(self, ids: Sequence[str], patches: bool = False) -> dict[str, Point]:
        shard = self._shard(self._searched_collection())
        names = [VECTOR, PATCHES] if patches else [VECTOR]
        with _engine_errors():
            records = shard.retrieve(list(ids), with_payload=True, with_vector=names)
            return {
                str(r.id): from_payload(_payload(r), _vector(r), _vector(r, PATCHES))
                for r in records
            }

    def scroll(
        self, limit: int, cursor: str | None = None, filter: Mapping[str, Any] | None = None
    ) -> Page:
        request = edge.ScrollRequest(
            offset=cursor,
            limit=limit,
            filter=engine_filter(filter) if filter else None,
            with_payload=_WITHOUT_BULKY,
        )
        shard = self._shard(self._searched_collection())
        with _engine_errors():
            records, next_cursor = shard.scroll(request)
            points = [from_payload(_payload(record)) for record in records]
        return Page(points, None if next_cursor is None else str(next_cursor))

    def facet(
        self, path: str, limit: int, filter: Mapping[str, Any] | None = None
    ) -> list[ValueCount]:
        request = edge.FacetRequest(path, limit, filter=engine_filter(filter) if filter else None)
        shard = self._shard(self._searched_collection())
        with _engine_errors():
            return [ValueCount(hit.value, hit.count) for hit in shard.facet(request).hits]

    def put_note(self, kind: str, note_id: str, values: Mapping[str, Any]) -> None:
        point = edge.Point(note_point_id(kind, note_id), {}, note_payload(kind, values))
        name = self._layout.notes
        with self._lock:
            if not (self._folder / name / _METADATA).exists():
                self._create(name, _NOTE_VECTORS, {})
            shard = self._shard(name)
            self._index_payload(shard, {NOTE_KIND: "keyword"})
            with _engine_errors():
                shard.update(edge.UpdateOperation.upsert_points([point]))

    def delete_note(self, kind: str, note_id: str) -> None:
        with self._lock, contextlib.suppress(IndexMissing), _engine_errors():
            self._shard(self._layout.notes).update(
                edge.UpdateOperation.delete_points([note_point_id(kind, note_id)])
            )

    def list_notes(
        self, kind: str, limit: int, cursor: str | None = None
    ) -> tuple[list[Mapping[str, Any]], str | None]:
        of_kind = {"must": [{"key": NOTE_KIND, "match": {"value": kind}}]}
        request = edge.ScrollRequest(
            offset=cursor, limit=limit, filter=engine_filter(of_kind), with_payload=True
        )
        try:
            shard = self._shard(self._layout.notes)
        except IndexMissing:
            return [], None
        with _engine_errors():
            records, next_cursor = shard.scroll(request)
            values = [_payload(record)[NOTE_VALUES] for record in records]
        return values, None if next_cursor is None else str(next_cursor)

    def _read(self, shard: edge.EdgeShard, full: bool, ids: Sequence[str]) -> dict[str, Point]:
        """Only points that an answer needs: each view finds a page of its own."""
        records = shard.retrieve(
            list(ids),
            with_payload=True if full else _WITHOUT_BULKY,
            with_vector=[VECTOR] if full else False,
        )
        return {str(r.id): from_payload(_payload(r), _vector(r)) for r in records}

    def _create(
        self, name: str, vectors: dict[str, edge.EdgeVectorParams], metadata: dict[str, Any]
    ) -> None:
        (self._folder / name).mkdir(exist_ok=True)
        with _engine_errors():
            # `load` also completes a shard that a killed process left incomplete
            self._shards[name] = edge.EdgeShard.load(
                str(self._folder / name), edge.EdgeConfig(vectors=vectors)
            )
        # Written last: a folder without it is incomplete and is created again.
        self._write_json(f"{name}/{_METADATA}", metadata)

    def _index_payload(self, shard: edge.EdgeShard, wanted: Mapping[str, str]) -> None:
        with _engine_errors():
            present = shard.info().payload_schema
            for path, kind in wanted.items():
                if path not in present:
                    index = payload_index(path, kind)
                    shard.update(edge.UpdateOperation.create_field_index(path, index))

    def _shard(self, name: str) -> edge.EdgeShard:
        with self._lock:
            if self.closed:
                raise IndexUnavailable("the embedded index is closed")
            if name not in self._shards:
                if not (self._folder / name / _METADATA).exists():
                    raise IndexMissing(f"collection {name} does not exist yet")
                with _engine_errors():
                    self._shards[name] = edge.EdgeShard.load(str(self._folder / name))
            return self._shards[name]

    def _searched_collection(self) -> str:
        name = self._read_collection or self._aliases().get(self._layout.alias)
        if name is None:
            raise IndexMissing("no collection exists yet: index an image first")
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
        """Write atomically: readers see the old file or the new one, never a part."""
        path = self._folder / name
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(value))
        draft.replace(path)


@contextlib.contextmanager
def _engine_errors() -> Iterator[None]:
    """Translates the engine's errors, which are all plain Exception, and malformed responses."""
    try:
        with response_parsing():
            yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        if "WouldBlock" in str(error):
            raise IndexUnavailable("another process has the embedded index open") from error
        if "Shard is not initialized" in str(error):
            raise IndexMissing("the collection was removed in the meantime") from error
        raise IndexRefused(str(error)) from error


def _scores(found: Any) -> Iterator[tuple[str, float]]:
    return ((str(point.id), point.score) for point in found)


def _vector(record: Any, name: str = VECTOR) -> list[Any] | None:
    vectors: Any = record.vector
    vector: list[Any] | None = (vectors or {}).get(name)
    return vector


def _payload(record: Any) -> Payload:
    payload: Payload = record.payload
    return payload
