"""IndexView over a Qdrant server's REST API (≥ 1.19): what a search needs, and no more.

Importing qdrant-client would add .6 s or more to a search's cold start, for six calls. What writes
points and manages collections uses it: qdrant_index.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from likeness.adapters.qdrant_layout import (
    NOTE_KIND,
    NOTE_VALUES,
    PATCHES,
    VECTOR,
    Layout,
    read_metadata,
)
from likeness.adapters.qdrant_limits import UNLIMITED, StrictLimits
from likeness.adapters.qdrant_points import (
    BULKY,
    from_payload,
    note_payload,
    note_point_id,
    response_parsing,
    to_numbers,
)
from likeness.adapters.qdrant_queries import merged, oversampling, page_of, view_inputs, window
from likeness.adapters.qdrant_transport import Transport
from likeness.errors import IndexMissing, IndexRefused, IndexUnavailable
from likeness.records import (
    Candidate,
    CollectionInfo,
    NearestQuery,
    Page,
    Point,
    ValueCount,
)

T = TypeVar("T")

WITHOUT_BULKY = {"exclude": BULKY}
# Writes of one point keep one order on all replicas, also through several nodes (decision 0107).
NOTE_ORDERING = "medium"


class QdrantView:
    """Safe to share between threads."""

    def __init__(
        self,
        transport: Transport,
        layout: Layout,
        collection: str | None = None,
        report: Callable[[str], None] = lambda restriction: None,
    ) -> None:
        """`collection`: what is searched, by default the collection behind the alias. `report` gets
        each limit of the server that makes searches worse, whenever the limits are read.
        """
        self._transport = transport
        self._layout = layout
        self._collection = collection or layout.alias
        self._report = report
        self._limits = UNLIMITED

    def reconnect(self) -> None:
        self._transport.reconnect()

    def close(self) -> None:
        self._transport.close()

    def for_model(self, model: str) -> QdrantView:
        name = self._layout.collection(model)
        return QdrantView(self._transport, self._layout, name, self._report)

    def info(self) -> CollectionInfo:
        found = self._transport.call("GET", f"/collections/{self._collection}")
        with response_parsing():
            metadata = read_metadata(self._collection, found)
            self._limits = StrictLimits.of(found)
            restrictions = list(self._limits.restrictions())
            for restriction in restrictions:
                self._report(restriction)
            return CollectionInfo(
                self._layout.collection(metadata["model"]),
                metadata["model"],
                metadata["dim"],
                found.get("points_count") or 0,
                metadata.get("patches"),
                found["config"].get("params", {}).get("replication_factor") or 1,
                restrictions,
            )

    def nearest(self, queries: Sequence[NearestQuery]) -> list[list[Candidate]]:
        return self._within_limits(lambda limits: self._nearest(queries, limits))

    def _within_limits(self, call: Callable[[StrictLimits], T]) -> T:
        """Strict mode's limits are read once a call exceeds them, not before each first search
        (decision 0109).
        """
        known = self._limits
        try:
            return call(known)
        except IndexRefused:
            with contextlib.suppress(IndexMissing):  # before the first image there are only notes
                self.info()
            if self._limits == known:
                raise
            return call(self._limits)

    def _nearest(
        self, queries: Sequence[NearestQuery], limits: StrictLimits
    ) -> list[list[Candidate]]:
        searches = [list(_searches(query, limits)) for query in queries]
        answers = self._search([each for of_query in searches for each in of_query], limits)
        with response_parsing():
            by_search = iter([answer["points"] for answer in answers])
            return [
                _candidates(query, list(islice(by_search, len(of_query))))
                for query, of_query in zip(queries, searches, strict=True)
            ]

    def _search(self, searches: list[dict[str, Any]], limits: StrictLimits) -> list[Any]:
        path, answers = self._points("query/batch"), list[Any]()
        for at in range(0, len(searches), limits.searches):
            part = searches[at : at + limits.searches]
            found = self._transport.call("POST", path, {"searches": part})
            if not isinstance(found, list) or len(found) != len(part):
                raise IndexUnavailable("unexpected response from Qdrant")
            answers += found
        return answers

    def retrieve_with_vectors(self, ids: Sequence[str], patches: bool = False) -> dict[str, Point]:
        names = [VECTOR, PATCHES] if patches else [VECTOR]
        body = {"ids": list(ids), "with_payload": True, "with_vector": names}
        found = self._transport.call("POST", f"/collections/{self._collection}/points", body)
        with response_parsing():
            return {
                p["id"]: from_payload(p["payload"], _vector(p), _vector(p, PATCHES)) for p in found
            }

    def scroll(
        self, limit: int, cursor: str | None = None, filter: Mapping[str, Any] | None = None
    ) -> Page:
        body: dict[str, Any] = {"with_payload": WITHOUT_BULKY, "with_vector": False}
        if filter:
            body["filter"] = filter
        found, next_cursor = self._within_limits(
            lambda limits: self._scroll(self._collection, body, limit, cursor, limits.page)
        )
        with response_parsing():
            return Page([from_payload(point["payload"]) for point in found], next_cursor)

    def facet(
        self, path: str, limit: int, filter: Mapping[str, Any] | None = None
    ) -> list[ValueCount]:
        body: dict[str, Any] = {"key": path, **({"filter": filter} if filter else {})}
        route = f"/collections/{self._collection}/facet"

        def call(limits: StrictLimits) -> Any:
            return self._transport.call("POST", route, {**body, "limit": min(limit, limits.page)})

        found = self._within_limits(call)
        with response_parsing():
            return [ValueCount(hit["value"], hit["count"]) for hit in found["hits"]]

    def put_note(self, kind: str, note_id: str, values: Mapping[str, Any]) -> None:
        point = {"id": note_point_id(kind, note_id), "vector": {}}
        body = {"points": [{**point, "payload": note_payload(kind, values)}]}
        self._transport.call("PUT", self._notes(""), body)

    def delete_note(self, kind: str, note_id: str) -> None:
        with contextlib.suppress(IndexMissing):
            self._transport.call(
                "POST", self._notes("/delete"), {"points": [note_point_id(kind, note_id)]}
            )

    def list_notes(
        self, kind: str, limit: int, cursor: str | None = None
    ) -> tuple[list[Mapping[str, Any]], str | None]:
        of_kind = {"must": [{"key": NOTE_KIND, "match": {"value": kind}}]}
        body = {"with_payload": True, "filter": of_kind}
        try:
            found, next_cursor = self._within_limits(
                lambda limits: self._scroll(self._layout.notes, body, limit, cursor, limits.page)
            )
        except IndexMissing:
            return [], None
        with response_parsing():
            return [point["payload"][NOTE_VALUES] for point in found], next_cursor

    def _scroll(
        self,
        collection: str,
        body: Mapping[str, Any],
        limit: int,
        cursor: str | None,
        most: int,
    ) -> tuple[list[Any], str | None]:
        """Points in id order, in requests for at most so many."""
        path, points = f"/collections/{collection}/points/scroll", list[Any]()
        while True:
            size = min(limit - len(points), most)
            page = {**body, "limit": size, **({"offset": cursor} if cursor else {})}
            found = self._transport.call("POST", path, page)
            with response_parsing():
                points += found["points"]
                cursor = found["next_page_offset"]
            if cursor is None or len(points) >= limit:
                return points, cursor

    def _points(self, verb: str) -> str:
        return f"/collections/{self._collection}/points/{verb}"

    def _notes(self, verb: str) -> str:
        query = f"wait=true&ordering={NOTE_ORDERING}"
        return f"/collections/{self._layout.notes}/points{verb}?{query}"


def _candidates(query: NearestQuery, answers: Sequence[Sequence[Any]]) -> list[Candidate]:
    points = {point["id"]: point for answer in answers for point in answer}
    found = merged(((p["id"], p["score"]) for p in answer) for answer in answers)

    def read(ids: Sequence[str]) -> dict[str, Point]:
        return {id_: from_payload(points[id_]["payload"], _vector(points[id_])) for id_ in ids}

    return page_of(query, found, read)


def _searches(query: NearestQuery, limits: StrictLimits) -> Iterator[dict[str, Any]]:
    """The searches of a query in a batch: for each view one, or more for a window over the limit.

    The prefetch is filtered too, or points outside the filter would fill it.
    """
    size, first = window(query)
    pool = min(query.pool, limits.page)
    for vector, patches in view_inputs(query):
        rescored = size if patches is None else pool
        by_vector: dict[str, Any] = {
            "query": to_numbers(vector),
            "using": VECTOR,
            "params": {
                "hnsw_ef": limits.hnsw_ef,
                "quantization": {
                    "rescore": True,
                    "oversampling": limits.oversampling(oversampling(rescored)),
                },
            },
        }
        if query.filter:
            by_vector["filter"] = query.filter
        if query.score_threshold is not None:
            by_vector["score_threshold"] = query.score_threshold
        if patches is not None:
            by_vector = {
                "prefetch": {**by_vector, "limit": pool},
                "query": to_numbers(patches),
                "using": PATCHES,
            }
        for offset in range(first, first + size, limits.page):
            yield {
                **by_vector,
                "limit": min(limits.page, first + size - offset),
                "offset": offset,
                "with_payload": True if query.full else WITHOUT_BULKY,
                "with_vector": [VECTOR] if query.full else False,
            }


def _vector(point: Any, name: str = VECTOR) -> list[Any] | None:
    vector: list[Any] | None = (point.get("vector") or {}).get(name)
    return vector
