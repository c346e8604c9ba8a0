"""VectorIndex over a Qdrant server's REST API (≥ 1.19).

Importing qdrant-client would add .6 s to a cold start, for ten calls. Instead, the tests validate
every request body with qdrant-client's own models.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from likeness.adapters.qdrant_layout import (
    NOTE_KIND,
    NOTE_VALUES,
    PATCHES,
    SYSTEM_INDEXES,
    VECTOR,
    Layout,
    check_collection,
    check_droppable,
    collection_metadata,
)
from likeness.adapters.qdrant_points import (
    BULKY,
    from_payload,
    note_point_id,
    response_parsing,
    to_numbers,
    to_payload,
    to_vectors,
    tombstone_filter,
    update_filter,
)
from likeness.adapters.qdrant_queries import HNSW_EF, merged, oversampling, view_inputs, window
from likeness.adapters.qdrant_transport import Transport
from likeness.errors import IndexMissing, IndexUnavailable
from likeness.records import (
    Candidate,
    CollectionInfo,
    Exactly,
    NearestQuery,
    Page,
    Point,
    PointWrite,
    ValueCount,
    Vector,
)

_WITHOUT_BULKY = {"exclude": BULKY}


class RestIndex:
    """Safe to share between threads."""

    def __init__(
        self, transport: Transport, layout: Layout, read_collection: str | None = None
    ) -> None:
        """`read_collection`: what readers search, by default the collection behind the alias."""
        self._transport = transport
        self._layout = layout
        self._read_collection = read_collection or layout.alias

    def reconnect(self) -> None:
        self._transport.reconnect()

    def close(self) -> None:
        self._transport.close()

    def for_model(self, model: str) -> RestIndex:
        return RestIndex(self._transport, self._layout, self._layout.collection(model))

    def models(self) -> list[str]:
        found = self._transport.call("GET", "/collections")
        with response_parsing():
            return self._layout.models(item["name"] for item in found["collections"])

    def prepare(
        self, model: str, dim: int, patches: int | None = None, create: bool = True
    ) -> None:
        name, expected = self._layout.collection(model), collection_metadata(model, dim, patches)
        try:
            found = self._describe(name)
        except IndexMissing:
            if not create:
                raise
            self._create(name, expected)
            found = self._describe(name)
        check_collection(name, found["config"].get("metadata"), expected)
        self._index_payload(name, found.get("payload_schema", {}), self._layout.indexes)
        if self._aliased() is None:
            self._point_alias(name, [])
        self._prepare_notes()  # the search function writes notes, but its key may not create them

    def switch(self, model: str) -> None:
        name = self._layout.collection(model)
        self._describe(name)
        # both in one call, or readers would find no alias for a moment
        self._point_alias(name, [self._unalias()] if self._aliased() else [])

    def drop(self, model: str) -> None:
        name = self._layout.collection(model)
        check_droppable(name, self._aliased())
        self._delete(name)

    def clear(self) -> list[str]:
        if self._aliased():
            self._change_aliases(self._unalias())
        found = self._transport.call("GET", "/collections")
        with response_parsing():
            names = self._layout.own(item["name"] for item in found["collections"])
        for name in names:
            self._delete(name)
        return names

    def _delete(self, name: str) -> None:
        with contextlib.suppress(IndexMissing):
            self._transport.call("DELETE", f"/collections/{name}")

    def retrieve_payloads(self, model: str, ids: Sequence[str]) -> dict[str, Point]:
        path = f"/collections/{self._layout.collection(model)}/points?consistency=majority"
        body = {"ids": list(ids), "with_payload": _WITHOUT_BULKY, "with_vector": False}
        found = self._transport.call("POST", path, body)
        with response_parsing():
            return {point["id"]: from_payload(point["payload"]) for point in found}

    def write(self, model: str, writes: Sequence[PointWrite]) -> None:
        # compare-and-set needs one leader that orders the writes
        strong = any(isinstance(write.condition, Exactly) for write in writes)
        ordering = "strong" if strong else "weak"
        name = self._layout.collection(model)
        body = {
            "points": [
                {
                    "id": write.point.id,
                    "vector": to_vectors(write.point),
                    "payload": to_payload(write.point),
                }
                for write in writes
            ],
            "update_filter": update_filter(writes),
        }
        self._change("PUT", f"{name}/points?wait=true&ordering={ordering}", body)

    def delete_tombstones(self, model: str, ids: Sequence[str], before_s: float) -> None:
        path = f"{self._layout.collection(model)}/points/delete?wait=true&ordering=strong"
        self._change("POST", path, {"filter": tombstone_filter(ids, before_s)})

    def _change(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        result = self._transport.call(method, f"/collections/{path}", body)
        with response_parsing():
            status = result["status"]
        if status != "completed":
            raise IndexUnavailable(f"write not completed: status {status!r}")

    def info(self) -> CollectionInfo:
        found = self._describe(self._read_collection)
        with response_parsing():
            metadata = found["config"].get("metadata") or {}
            model, dim = metadata.get("model", ""), metadata.get("dim", 0)
            points = found.get("points_count") or 0
            patches = metadata.get("patches")
        return CollectionInfo(self._layout.collection(model), model, dim, points, patches)

    def nearest(self, queries: Sequence[NearestQuery]) -> list[list[Candidate]]:
        searches = [
            _search(query, vector, patches)
            for query in queries
            for vector, patches in view_inputs(query)
        ]
        answers = self._transport.call("POST", self._points("query/batch"), {"searches": searches})
        with response_parsing():
            by_view = iter([answer["points"] for answer in answers])
            return [
                _candidates(query, list(islice(by_view, len(query.views)))) for query in queries
            ]

    def retrieve_with_vectors(self, ids: Sequence[str]) -> dict[str, Point]:
        body = {"ids": list(ids), "with_payload": True, "with_vector": [VECTOR]}
        found = self._transport.call("POST", f"/collections/{self._read_collection}/points", body)
        with response_parsing():
            return {p["id"]: from_payload(p["payload"], _vector(p)) for p in found}

    def scroll(
        self, limit: int, cursor: str | None = None, filter: Mapping[str, Any] | None = None
    ) -> Page:
        body: dict[str, Any] = {
            "limit": limit,
            "with_payload": _WITHOUT_BULKY,
            "with_vector": False,
        }
        if cursor:
            body["offset"] = cursor
        if filter:
            body["filter"] = filter
        found = self._transport.call("POST", self._points("scroll"), body)
        with response_parsing():
            points = [from_payload(p["payload"]) for p in found["points"]]
            return Page(points, found["next_page_offset"])

    def facet(
        self, path: str, limit: int, filter: Mapping[str, Any] | None = None
    ) -> list[ValueCount]:
        body: dict[str, Any] = {"key": path, "limit": limit}
        if filter:
            body["filter"] = filter
        found = self._transport.call("POST", f"/collections/{self._read_collection}/facet", body)
        with response_parsing():
            return [ValueCount(hit["value"], hit["count"]) for hit in found["hits"]]

    def put_note(self, kind: str, note_id: str, values: Mapping[str, Any]) -> None:
        payload = {NOTE_KIND: kind, NOTE_VALUES: values}
        body = {"points": [{"id": note_point_id(kind, note_id), "vector": {}, "payload": payload}]}
        path = f"/collections/{self._layout.notes}/points?wait=true"
        try:
            self._transport.call("PUT", path, body)
        except IndexMissing:
            self._prepare_notes()
            self._transport.call("PUT", path, body)

    def delete_note(self, kind: str, note_id: str) -> None:
        path = f"/collections/{self._layout.notes}/points/delete?wait=true"
        with contextlib.suppress(IndexMissing):
            self._transport.call("POST", path, {"points": [note_point_id(kind, note_id)]})

    def list_notes(
        self, kind: str, limit: int, cursor: str | None = None
    ) -> tuple[list[Mapping[str, Any]], str | None]:
        body: dict[str, Any] = {
            "limit": limit,
            "with_payload": True,
            "filter": {"must": [{"key": NOTE_KIND, "match": {"value": kind}}]},
        }
        if cursor:
            body["offset"] = cursor
        path = f"/collections/{self._layout.notes}/points/scroll"
        try:
            found = self._transport.call("POST", path, body)
        except IndexMissing:
            return [], None
        with response_parsing():
            values = [p["payload"][NOTE_VALUES] for p in found["points"]]
            return values, found["next_page_offset"]

    def _points(self, verb: str) -> str:
        return f"/collections/{self._read_collection}/points/{verb}"

    def _index_payload(
        self, name: str, present: Mapping[str, Any], wanted: Mapping[str, str]
    ) -> None:
        for path, kind in wanted.items():
            if path not in present:
                schema = {"type": kind, "enable_hnsw": False} if path in SYSTEM_INDEXES else kind
                body = {"field_name": path, "field_schema": schema}
                self._transport.call("PUT", f"/collections/{name}/index?wait=true", body)

    def _describe(self, name: str) -> Any:
        return self._transport.call("GET", f"/collections/{name}")

    def _create(self, name: str, metadata: dict[str, Any]) -> None:
        vectors: dict[str, Any] = {
            VECTOR: {
                "size": metadata["dim"],
                "distance": "Cosine",
                "on_disk": True,
                # int8 in memory, originals on disk: measured in benchmarks/scale.py
                "quantization_config": {"scalar": {"type": "int8", "always_ram": True}},
            }
        }
        if "patches" in metadata:
            vectors[PATCHES] = {
                "size": metadata["patches"],
                "distance": "Cosine",
                "on_disk": True,
                "datatype": "float16",
                "multivector_config": {"comparator": "max_sim"},
                "hnsw_config": {"m": 0},  # no graph: patches only reorder candidates
            }
        self._put_collection(name, {"vectors": vectors, "metadata": metadata})

    def _prepare_notes(self) -> None:
        name, present = self._layout.notes, {}
        try:
            present = self._describe(name).get("payload_schema", {})
        except IndexMissing:
            self._put_collection(name, {"vectors": {}})
        self._index_payload(name, present, {NOTE_KIND: "keyword"})

    def _put_collection(self, name: str, body: Mapping[str, Any]) -> None:
        try:
            self._transport.call("PUT", f"/collections/{name}", body)
        except IndexUnavailable as error:
            # another function may have created it, or our first attempt, whose response was lost
            try:
                self._describe(name)
            except IndexMissing:
                raise error from None

    def _aliased(self) -> str | None:
        """The collection that the alias points at."""
        aliases = self._transport.call("GET", "/aliases")["aliases"]
        named = {alias["alias_name"]: alias["collection_name"] for alias in aliases}
        return named.get(self._layout.alias)

    def _point_alias(self, name: str, first: list[dict[str, Any]]) -> None:
        create = {"create_alias": {"collection_name": name, "alias_name": self._layout.alias}}
        self._change_aliases(*first, create)

    def _unalias(self) -> dict[str, Any]:
        return {"delete_alias": {"alias_name": self._layout.alias}}

    def _change_aliases(self, *actions: Mapping[str, Any]) -> None:
        self._transport.call("POST", "/collections/aliases", {"actions": actions})


def _candidates(query: NearestQuery, answers: Sequence[Sequence[Any]]) -> list[Candidate]:
    if len(answers) != len(query.views):
        raise ValueError(len(answers))
    points = {point["id"]: point for answer in answers for point in answer}
    found = merged(query, (((p["id"], p["score"]) for p in answer) for answer in answers))
    return [
        Candidate(from_payload(points[id_]["payload"], _vector(points[id_])), score)
        for id_, score in found
    ]


def _search(query: NearestQuery, vector: Vector, patches: Vector | None) -> dict[str, Any]:
    """One search of a batch, for one view.

    The prefetch is filtered too, or points outside the filter would fill it.
    """
    limit, offset = window(query)
    rescored = limit if patches is None else query.pool
    by_vector: dict[str, Any] = {
        "query": to_numbers(vector),
        "using": VECTOR,
        "params": {
            "hnsw_ef": HNSW_EF,
            "quantization": {"rescore": True, "oversampling": oversampling(rescored)},
        },
    }
    if query.filter:
        by_vector["filter"] = query.filter
    if query.score_threshold is not None:
        by_vector["score_threshold"] = query.score_threshold
    if patches is not None:
        by_vector = {
            "prefetch": {**by_vector, "limit": query.pool},
            "query": to_numbers(patches),
            "using": PATCHES,
        }
    return {
        **by_vector,
        "limit": limit,
        "offset": offset,
        "with_payload": True if query.full else _WITHOUT_BULKY,
        "with_vector": [VECTOR] if query.full else False,
    }


def _vector(point: Any) -> list[float] | None:
    vector: list[float] | None = (point.get("vector") or {}).get(VECTOR)
    return vector
