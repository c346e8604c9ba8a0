"""One replica of a Qdrant server for tests: our REST calls, answered by qdrant-client's local mode.

Every body is parsed by qdrant-client's own models first, so a body that Qdrant would refuse fails
here too (400).
"""

from __future__ import annotations

import copy
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import numpy as np
import pydantic
from qdrant_client import QdrantClient, models
from qdrant_client.local.local_collection import LocalCollection

from tests import qdrant_strict_mode
from tests.qdrant_strict_mode import DEFAULT_LIMIT

VERSION = "1.19.0"
COLLECTION = re.compile(r"/collections/([^/]+)(/.*)?")
# What clients store, and what they search with, holds no ids of the request.
_DATA = {"payload", "vector", "query", "metadata"}


class Refused(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Engine:
    """qdrant-client's local mode behind a lock, as a server with a single shard."""

    def __init__(
        self,
        replication_factor: int = 1,
        strict_mode: Mapping[str, Any] | None = None,
        version: str = VERSION,
    ) -> None:
        """`strict_mode`: the settings of new collections that bring none of their own."""
        self.client = QdrantClient(location=":memory:")
        self.lock = threading.RLock()
        self.payload_schema: dict[str, dict[str, Any]] = {}
        self.strict_modes: dict[str, Mapping[str, Any]] = {}
        # Called between finding points and reading them, where a real server lets writes in.
        self.while_reading: Callable[[], object] | None = None
        self._replication_factor = replication_factor
        self._strict_mode = strict_mode or {}
        self._version = version

    def call(self, method: str, target: str, body: Any) -> Any:
        """The result of a request; its query string says nothing to a single replica."""
        _check_ids(body)
        with self.lock:
            try:
                return self._call(method, target.partition("?")[0], body)
            except (pydantic.ValidationError, qdrant_strict_mode.LimitExceeded) as error:
                raise Refused(400, str(error)) from error
            except ValueError as error:
                raise Refused(404 if "not found" in str(error) else 400, str(error)) from error

    def copy_from(self, other: Engine) -> None:
        """Hold what the other replica holds: how a node recovers after it was away."""
        with other.lock, self.lock:
            self._collections().update(copy.deepcopy(other._collections()))

    def clear(self) -> None:
        """Delete all points, and keep the collections."""
        with self.lock:
            for name, collection in self._collections().items():
                self._collections()[name] = LocalCollection(collection.config)

    def read(self, name: str) -> dict[Any, dict[str, Any]]:
        """All points by their ids, read past every request."""
        with self.lock:
            points, _ = self.client.scroll(name, limit=10**9, with_payload=True, with_vectors=True)
        return {point.id: point.model_dump(mode="json") for point in points}

    def _call(self, method: str, path: str, body: Any) -> Any:
        if (method, path) == ("GET", "/"):
            return {"title": "qdrant - vector search engine", "version": self._version}
        if (method, path) == ("GET", "/aliases"):
            return _plain(self.client.get_aliases())
        if (method, path) == ("POST", "/collections/aliases"):
            operations = _valid(models.ChangeAliasesOperation, body)
            return self.client.update_collection_aliases(operations.actions)
        if (method, path) == ("GET", "/collections"):
            return _plain(self.client.get_collections())
        matched = COLLECTION.fullmatch(path)
        name, route = (unquote(matched[1]), matched[2] or "") if matched else ("", path)
        answer = getattr(self, f"{method.lower()}{route.replace('/', '_')}", None)
        if not matched or not answer:
            raise Refused(404, f"no route {method} {path}")
        if strict_mode := self.strict_modes.get(real := self._real_name(name)):
            schema = self.payload_schema[real]
            qdrant_strict_mode.check(strict_mode, schema, f"{method} {route}", body)
        return answer(name, body)

    def get(self, name: str, body: None) -> Any:
        info = _plain(self.client.get_collection(name))
        real = self._real_name(name)
        info["payload_schema"] = self.payload_schema.get(real, {})
        info["config"]["params"]["replication_factor"] = self._replication_factor
        info["config"]["params"]["write_consistency_factor"] = 1
        if strict_mode := self.strict_modes.get(real):
            info["config"]["strict_mode_config"] = dict(strict_mode)
        return info

    def get_exists(self, name: str, body: None) -> Any:
        return {"exists": self.client.collection_exists(name)}

    def put(self, name: str, body: Any) -> Any:
        wanted = _valid(models.CreateCollection, body)
        if self.client.collection_exists(name):
            raise Refused(409, f"Wrong input: Collection `{name}` already exists!")
        self.payload_schema[name] = {}
        self.strict_modes[name] = body.get("strict_mode_config") or self._strict_mode
        return self.client.create_collection(
            name, vectors_config=wanted.vectors, metadata=wanted.metadata
        )

    def delete(self, name: str, body: None) -> bool:
        if not self.client.collection_exists(name):
            raise Refused(404, f"Not found: Collection `{name}`")
        self.payload_schema.pop(name, None)
        self.strict_modes.pop(name, None)
        return self.client.delete_collection(name)

    def put_index(self, name: str, body: Any) -> Any:
        wanted = _valid(models.CreateFieldIndex, body)
        schema = self.payload_schema[self._real_name(name)]
        kind = getattr(wanted.field_schema, "type", wanted.field_schema)  # params, or just a name
        schema[wanted.field_name] = {"data_type": kind.value, "points": 0}
        return {"operation_id": 0, "status": "completed"}

    def post_points(self, name: str, body: Any) -> Any:
        wanted = _valid(models.PointRequest, body)
        return _plain(self._read(name, wanted.ids, wanted))

    def put_points(self, name: str, body: Any) -> Any:
        wanted = _valid(models.PointsList, body)
        done = self.client.upsert(name, wanted.points, update_filter=wanted.update_filter)
        return _plain(done)

    def post_points_query_batch(self, name: str, body: Any) -> Any:
        wanted = _valid(models.QueryRequestBatch, body)
        return [self._query(name, one) for one in wanted.searches]

    def post_points_query(self, name: str, body: Any) -> Any:
        return self._query(name, _valid(models.QueryRequest, body))

    def _query(self, name: str, wanted: models.QueryRequest) -> Any:
        found = self.client.query_points(
            name,
            query=wanted.query,
            prefetch=wanted.prefetch,
            using=wanted.using,
            query_filter=wanted.filter,
            limit=wanted.limit or DEFAULT_LIMIT,
            offset=wanted.offset or 0,
            score_threshold=wanted.score_threshold,
            with_payload=wanted.with_payload,
            with_vectors=wanted.with_vector or False,
        )
        found.points = self._read_late(name, found.points, wanted)
        return _plain(found)

    def post_points_delete(self, name: str, body: Any) -> Any:
        selector = models.FilterSelector if "filter" in body else models.PointIdsList
        return _plain(self.client.delete(name, _valid(selector, body)))

    def post_points_batch(self, name: str, body: Any) -> Any:
        wanted = _valid(models.UpdateOperations, body)
        done = self.client.batch_update_points(name, wanted.operations)
        return _plain(done)

    def post_points_scroll(self, name: str, body: Any) -> Any:
        wanted = _valid(models.ScrollRequest, {"with_payload": True, **body})
        points, cursor = self.client.scroll(
            name,
            scroll_filter=wanted.filter,
            limit=wanted.limit or DEFAULT_LIMIT,
            offset=wanted.offset,
            with_payload=wanted.with_payload,
            with_vectors=wanted.with_vector or False,
        )
        points = self._read_late(name, points, wanted)
        return {"points": _plain(points), "next_page_offset": cursor}

    def post_points_count(self, name: str, body: Any) -> Any:
        return _plain(self.client.count(name, _valid(models.CountRequest, body).filter))

    def post_facet(self, name: str, body: Any) -> Any:
        wanted = _valid(models.FacetRequest, body)
        return _plain(
            self.client.facet(
                name, wanted.key, facet_filter=wanted.filter, limit=wanted.limit or DEFAULT_LIMIT
            )
        )

    def _read(self, name: str, ids: list[Any], wanted: Any) -> list[models.Record]:
        return self.client.retrieve(
            name,
            ids,
            with_payload=wanted.with_payload,
            with_vectors=wanted.with_vector or False,
        )

    def _read_late(self, name: str, found: list[Any], wanted: Any) -> list[Any]:
        """The found points as they are once writes have come in; those that are gone are left out.

        Payload and vector belong together; a score belongs to the vector that was found.
        """
        if not self.while_reading:
            return found
        self.lock.release()
        try:
            self.while_reading()
        finally:
            self.lock.acquire()
        now = {point.id: point for point in self._read(name, [p.id for p in found], wanted)}
        return [
            point.model_copy(
                update={"payload": now[point.id].payload, "vector": now[point.id].vector}
            )
            for point in found
            if point.id in now
        ]

    def _collections(self) -> dict[str, LocalCollection]:
        collections: dict[str, LocalCollection] = self.client._client.collections
        return collections

    def _real_name(self, name: str) -> str:
        aliases = {a.alias_name: a.collection_name for a in self.client.get_aliases().aliases}
        return aliases.get(name, name)


def alike(point: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two replicas hold or found a point in one form.

    Local mode rounds the vector of a new point otherwise than that of an overwritten one.
    """
    rounded = ("vector", "score")
    exact, same = ({k: v for k, v in it.items() if k not in rounded} for it in (point, other))
    return exact == same and all(_is_close(point.get(name), other.get(name)) for name in rounded)


def _is_close(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_close(one[k], other[k]) for k in one)
    if one is None or other is None:
        return one is other
    return np.shape(one) == np.shape(other) and np.allclose(one, other, atol=1e-6)


def _check_ids(body: Any) -> None:
    """A real server parses ids before it looks for the collection."""
    for point_id in _ids(body):
        if not _is_id(point_id):
            raise Refused(
                400,
                f"Format error in JSON body: value {point_id} is not a valid point ID, "
                "valid values are either an unsigned integer or a UUID",
            )


def _is_id(point_id: Any) -> bool:
    if isinstance(point_id, int):
        return point_id >= 0
    try:
        uuid.UUID(point_id)
    except (ValueError, AttributeError, TypeError):
        return False
    return True


def _ids(body: Any) -> Iterator[Any]:
    if isinstance(body, list):
        for item in body:
            yield from _ids(item)
    elif isinstance(body, dict):
        for key, value in body.items():
            if key in ("ids", "has_id"):
                yield from value
            elif key == "points":
                yield from (item["id"] if isinstance(item, dict) else item for item in value)
            elif key == "offset" and value is not None:
                yield value
            elif key not in _DATA:
                yield from _ids(value)


def _valid(kind: Any, body: Any) -> Any:
    """Parsed by qdrant-client's model, and refused where it has fields the model does not know."""
    return kind.model_validate(body, extra="forbid")


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.model_dump(mode="json")
