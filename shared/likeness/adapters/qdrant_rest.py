"""VectorIndex over a Qdrant server's REST API (≥ 1.19).

qdrant-client costs .6 s at a cold start; we need ten calls of it. The tests hold every
body that is sent here against qdrant-client's own models.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from itertools import islice
from typing import Any

import msgspec

from likeness.adapters.connections import Pool
from likeness.adapters.qdrant import (
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
from likeness.errors import ConfigurationError, IndexMissing, IndexRefused, IndexUnavailable
from likeness.records import (
    Candidate,
    CollectionInfo,
    Exactly,
    Lookup,
    Page,
    Point,
    PointWrite,
    ValueCount,
    Vector,
)

_ATTEMPTS = 3
_BACKOFF_S = 0.1
_RETRIED = {429, 500, 502, 503, 504}
_NOT_FOUND = 404
_REFUSED = {401, 403}
_COLLECTION = re.compile(r"/collections/([^/?]+)")
_NO_ANSWER = (OSError, HTTPException, msgspec.DecodeError, ValueError, RecursionError)
_FAILURES_TO_OPEN = 5
_OPEN_S = 5.0
_LIGHT = {"exclude": BULKY}


class CircuitBreaker:
    """After some failures in a row, fail at once for a while instead of waiting each time.

    Nygard, Release It! (2nd ed., 2018), chapter 5. One call at a time may probe a dependency
    that failed; its success closes the circuit.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, probe_s: float = _OPEN_S
    ) -> None:
        """`probe_s` is how long a call may take: the next probe waits for this one."""
        self._clock = clock
        self._probe_s = max(probe_s, _OPEN_S)
        self._failures = 0
        self._open_until_s = 0.0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises IndexUnavailable while the circuit is open."""
        with self._lock:
            if self._failures < _FAILURES_TO_OPEN:
                return
            left_s = self._open_until_s - self._clock()
            if left_s > 0:
                raise IndexUnavailable(
                    "Qdrant failed repeatedly; calls are paused for seconds", left_s
                )
            # let this call probe, and hold the others back until it has ended
            self._open_until_s = self._clock() + self._probe_s

    def succeeded(self) -> None:
        with self._lock:
            self._failures = 0

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._open_until_s = self._clock() + _OPEN_S


class Transport:
    """JSON over HTTP with a time budget, retries with full jitter and a circuit breaker.

    Every call we make may be repeated: reads, idempotent creations and conditional writes.
    """

    def __init__(
        self,
        url: str,
        read_key: Callable[[], str | None] = lambda: None,
        timeout_s: float = 5.0,
        breaker: CircuitBreaker | None = None,
        sleep: Callable[[float], None] = time.sleep,
        wall_clock: Callable[[], float] = time.time,
        patient: bool = False,
    ) -> None:
        """One call, retries included, is given `timeout_s`, but for the look-up of a name.

        `read_key` is asked for the API key now, after a restore and after a refusal. `wall_clock`:
        see Pool. `patient` waits out the pause of an open circuit, where others fail at once.
        Raises ConfigurationError where the URL names no server.
        """
        try:
            self._pool = Pool(url, wall_clock)
        except ValueError as error:  # without the URL, which may hold a password
            raise ConfigurationError(
                f"QDRANT_URL is not the address of a server: {error}"
            ) from None
        self._read_key = read_key
        self._timeout_s = timeout_s
        self._breaker = breaker or CircuitBreaker(probe_s=timeout_s + 1)
        self._sleep = sleep
        self._patient = patient
        self.reconnect()

    def reconnect(self) -> None:
        """Open connections and read the key anew: a restored snapshot's are dead and old, and
        what failed before it was taken says nothing of now.
        """
        self._pool.clear()
        headers = {"content-type": "application/json", "user-agent": "likeness"}
        if key := (self._read_key() or "").strip():  # a newline would make an invalid header
            headers["api-key"] = key
        self._headers = headers
        self._breaker.succeeded()

    def close(self) -> None:
        self._pool.clear()

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer's `result`.

        Raises IndexMissing for 404, IndexUnavailable for all else that is not success.
        """
        encoded = None if body is None else json.dumps(body, allow_nan=False).encode()
        self._pass_circuit()
        deadline_s = time.monotonic() + self._timeout_s
        for attempt in range(_ATTEMPTS):
            try:
                status, answer = self._attempt(method, path, encoded, deadline_s)
            except _NO_ANSWER as error:
                failure = f"{type(error).__name__}: no complete answer"
            else:
                if status not in _RETRIED:
                    self._breaker.succeeded()
                    if status in _REFUSED:
                        self.reconnect()  # the key may have been rotated: the next call has it
                    return _result(status, answer, method, path)
                failure = f"HTTP {status}"
            pause_s = random.uniform(0, _BACKOFF_S * 2**attempt)  # noqa: S311 - jitter, no secret
            if time.monotonic() + pause_s >= deadline_s or attempt + 1 == _ATTEMPTS:
                break
            self._sleep(pause_s)
        self._breaker.failed()
        raise IndexUnavailable(f"Qdrant is not answering ({failure})")

    def _pass_circuit(self) -> None:
        try:
            self._breaker.check()
        except IndexUnavailable as paused:
            if not self._patient or paused.retry_after_s is None:
                raise
            self._sleep(paused.retry_after_s)
            self._breaker.check()

    def _attempt(
        self, method: str, path: str, body: bytes | None, deadline_s: float
    ) -> tuple[int, Any]:
        status, data = self._pool.exchange(method, path, self._headers, body, deadline_s)
        if status in _RETRIED | _REFUSED:  # Qdrant refuses a key in plain text
            return status, None
        return status, msgspec.json.decode(data)


def _result(status: int, answer: Any, method: str, path: str) -> Any:
    if status in _REFUSED:
        raise IndexUnavailable(f"Qdrant refused the API key (HTTP {status})")
    message = answer.get("status") if isinstance(answer, dict) else None
    if status == _NOT_FOUND and (of_collection := _COLLECTION.match(path)):
        raise IndexMissing(f"Qdrant knows no {of_collection[1]}: index an image first")
    if status >= 400:
        raise IndexRefused(f"Qdrant refused {method} {path} (HTTP {status}): {message}")
    if not isinstance(answer, dict) or "result" not in answer:
        raise IndexUnavailable(f"{method} {path} did not answer as Qdrant does")
    return answer["result"]


class RestIndex:
    """Safe to share between threads."""

    def __init__(self, transport: Transport, layout: Layout, reads: str | None = None) -> None:
        """`reads`: the collection that readers see, by default the one behind the alias."""
        self._transport = transport
        self._layout = layout
        self._reads = reads or layout.alias

    def reconnect(self) -> None:
        self._transport.reconnect()

    def close(self) -> None:
        self._transport.close()

    def of(self, model: str) -> RestIndex:
        return RestIndex(self._transport, self._layout, self._layout.collection(model))

    def models(self) -> list[str]:
        found = self._transport.call("GET", "/collections")
        with Understood():
            return self._layout.models(item["name"] for item in found["collections"])

    def prepare(
        self, model: str, dim: int, patches: int | None = None, create: bool = True
    ) -> None:
        name, wanted = self._layout.collection(model), metadata_of(model, dim, patches)
        try:
            found = self._describe(name)
        except IndexMissing:
            if not create:
                raise
            self._create(name, wanted)
            found = self._describe(name)
        check_collection(name, found["config"].get("metadata"), wanted)
        self._index_payload(name, found.get("payload_schema", {}), self._layout.indexes)
        if self._aliased() is None:
            self._point_alias(name, [])
        self._prepare_notes()  # now: who writes notes may have a key that cannot

    def switch(self, model: str) -> None:
        name = self._layout.collection(model)
        self._describe(name)
        # one call, or readers would find no alias for a moment
        forget = {"delete_alias": {"alias_name": self._layout.alias}}
        self._point_alias(name, [forget] if self._aliased() else [])

    def drop(self, model: str) -> None:
        name = self._layout.collection(model)
        check_unused(name, self._aliased())
        with contextlib.suppress(IndexMissing):
            self._transport.call("DELETE", f"/collections/{name}")

    def retrieve(self, model: str, ids: Sequence[str]) -> dict[str, Point]:
        path = f"/collections/{self._layout.collection(model)}/points?consistency=majority"
        body = {"ids": list(ids), "with_payload": _LIGHT, "with_vector": False}
        found = self._transport.call("POST", path, body)
        with Understood():
            return {point["id"]: from_payload(point["payload"]) for point in found}

    def write(self, model: str, writes: Sequence[PointWrite]) -> None:
        # compare-and-set is only sound where one leader orders the writes
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

    def sweep(self, model: str, ids: Sequence[str], before_s: float) -> None:
        path = f"{self._layout.collection(model)}/points/delete?wait=true&ordering=strong"
        self._change("POST", path, {"filter": tombstones(ids, before_s)})

    def _change(self, method: str, path: str, body: Mapping[str, Any]) -> None:
        done = self._transport.call(method, f"/collections/{path}", body)
        with Understood():
            status = done["status"]
        if status != "completed":
            raise IndexUnavailable(f"Qdrant only said {status!r} to a write")

    def info(self) -> CollectionInfo:
        found = self._describe(self._reads)
        with Understood():
            metadata = found["config"].get("metadata") or {}
            model, dim = metadata.get("model", ""), metadata.get("dim", 0)
            points = found.get("points_count") or 0
            patches = metadata.get("patches")
        return CollectionInfo(self._layout.collection(model), model, dim, points, patches)

    def nearest(self, lookups: Sequence[Lookup]) -> list[list[Candidate]]:
        searches = [
            _search(lookup, vector, patches)
            for lookup in lookups
            for vector, patches in by_view(lookup)
        ]
        answers = self._transport.call("POST", self._points("query/batch"), {"searches": searches})
        with Understood():
            each = iter([answer["points"] for answer in answers])
            return [
                _candidates(lookup, list(islice(each, len(lookup.views)))) for lookup in lookups
            ]

    def fetch(self, ids: Sequence[str]) -> dict[str, Point]:
        body = {"ids": list(ids), "with_payload": True, "with_vector": [VECTOR]}
        found = self._transport.call("POST", f"/collections/{self._reads}/points", body)
        with Understood():
            return {p["id"]: from_payload(p["payload"], _vector(p)) for p in found}

    def scroll(
        self, limit: int, cursor: str | None = None, filter: Mapping[str, Any] | None = None
    ) -> Page:
        body: dict[str, Any] = {"limit": limit, "with_payload": _LIGHT, "with_vector": False}
        if cursor:
            body["offset"] = cursor
        if filter:
            body["filter"] = filter
        found = self._transport.call("POST", self._points("scroll"), body)
        with Understood():
            points = [from_payload(p["payload"]) for p in found["points"]]
            return Page(points, found["next_page_offset"])

    def facet(
        self, path: str, limit: int, filter: Mapping[str, Any] | None = None
    ) -> list[ValueCount]:
        body: dict[str, Any] = {"key": path, "limit": limit}
        if filter:
            body["filter"] = filter
        found = self._transport.call("POST", f"/collections/{self._reads}/facet", body)
        with Understood():
            return [ValueCount(hit["value"], hit["count"]) for hit in found["hits"]]

    def note(self, kind: str, note_id: str, values: Mapping[str, Any]) -> None:
        payload = {NOTE_KIND: kind, NOTE_VALUES: values}
        body = {"points": [{"id": note_point_id(kind, note_id), "vector": {}, "payload": payload}]}
        path = f"/collections/{self._layout.notes}/points?wait=true"
        try:
            self._transport.call("PUT", path, body)
        except IndexMissing:
            self._prepare_notes()
            self._transport.call("PUT", path, body)

    def forget(self, kind: str, note_id: str) -> None:
        path = f"/collections/{self._layout.notes}/points/delete?wait=true"
        with contextlib.suppress(IndexMissing):
            self._transport.call("POST", path, {"points": [note_point_id(kind, note_id)]})

    def notes(
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
        with Understood():
            values = [p["payload"][NOTE_VALUES] for p in found["points"]]
            return values, found["next_page_offset"]

    def _points(self, verb: str) -> str:
        return f"/collections/{self._reads}/points/{verb}"

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
                "hnsw_config": {"m": 0},  # only ever compared with what the vector has found
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
            # Another function created it first, or our own first try did and lost its answer.
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
        self._transport.call("POST", "/collections/aliases", {"actions": [*first, create]})


def _candidates(lookup: Lookup, answers: Sequence[Sequence[Any]]) -> list[Candidate]:
    if len(answers) != len(lookup.views):
        raise ValueError(len(answers))
    points = {point["id"]: point for answer in answers for point in answer}
    found = merged(lookup, (((p["id"], p["score"]) for p in answer) for answer in answers))
    return [
        Candidate(from_payload(points[id_]["payload"], _vector(points[id_])), score)
        for id_, score in found
    ]


def _search(lookup: Lookup, vector: Vector, patches: Vector | None) -> dict[str, Any]:
    """One of a batch's searches. Prefetches are filtered too, or they would fill up with others."""
    limit, offset = window(lookup)
    taken = limit if patches is None else lookup.pool
    by_vector: dict[str, Any] = {
        "query": to_numbers(vector),
        "using": VECTOR,
        "params": {
            "hnsw_ef": HNSW_EF,
            "quantization": {"rescore": True, "oversampling": oversampling(taken)},
        },
    }
    if lookup.filter:
        by_vector["filter"] = lookup.filter
    if lookup.score_threshold is not None:
        by_vector["score_threshold"] = lookup.score_threshold
    if patches is not None:
        by_vector = {
            "prefetch": {**by_vector, "limit": lookup.pool},
            "query": to_numbers(patches),
            "using": PATCHES,
        }
    return {
        **by_vector,
        "limit": limit,
        "offset": offset,
        "with_payload": True if lookup.full else _LIGHT,
        "with_vector": [VECTOR] if lookup.full else False,
    }


def _vector(point: Any) -> list[float] | None:
    vector: list[float] | None = (point.get("vector") or {}).get(VECTOR)
    return vector
