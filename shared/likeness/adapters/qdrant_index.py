"""VectorIndex over a Qdrant server (≥ 1.19) through the official client.

For everything where nobody waits for a cold start; searches use `qdrant_view` alone. Reads and
notes are the view's here too.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import structs
from qdrant_client.http import models as qdrant

from likeness.adapters.qdrant_client_http import client_errors, open_client
from likeness.adapters.qdrant_layout import (
    NOTE_KIND,
    PATCHES,
    SYSTEM_INDEXES,
    VECTOR,
    Layout,
    check_alias,
    check_collection,
    check_droppable,
    collection_metadata,
    read_metadata,
)
from likeness.adapters.qdrant_limits import UNLIMITED, StrictLimits
from likeness.adapters.qdrant_points import (
    PayloadChange,
    annotating_changes,
    from_payload,
    regrouping_changes,
    response_parsing,
    to_payload,
    to_vectors,
    tombstone_filter,
    update_filter,
)
from likeness.adapters.qdrant_transport import Transport
from likeness.adapters.qdrant_view import WITHOUT_BULKY, QdrantView
from likeness.errors import ConfigurationError, IndexMissing, IndexUnavailable
from likeness.records import (
    Candidate,
    CollectionInfo,
    NearestQuery,
    Page,
    Point,
    Regrouping,
    StoredPoints,
    ValueCount,
)

# Conditions of writes are ignored before 1.15.4, and judged again after a crash before 1.19
# (qdrant/qdrant#9575).
_LEAST = (1, 19)
_TITLE = "qdrant"
# Part of the server's answer to a read from more replicas than are active.
_TOO_FEW_REPLICAS = "active replicas"


class _Server:
    """What was read about the server, shared by the views of one index."""

    def __init__(self) -> None:
        self.version: str | None = None
        self.limits: dict[str, StrictLimits] = {}


class QdrantIndex:
    """Safe to share between threads."""

    def __init__(self, transport: Transport, layout: Layout) -> None:
        self._transport = transport
        self._layout = layout
        self._client = open_client(transport)
        self._view = QdrantView(transport, layout)
        self._server = _Server()

    def reconnect(self) -> None:
        self._server.version = None  # another server may answer by now
        self._transport.reconnect()

    def close(self) -> None:
        self._client.close()
        self._transport.close()

    def for_model(self, model: str) -> QdrantIndex:
        other = copy.copy(self)
        other._view = self._view.for_model(model)
        return other

    def models(self) -> list[str]:
        with client_errors():
            found = self._client.get_collections().collections
        return self._layout.models(collection.name for collection in found)

    def check_server(self) -> str:
        if self._server.version is None:
            self._server.version = self._read_version()
        return self._server.version

    def _read_version(self) -> str:
        try:
            with client_errors():
                info = self._client.info()
        except IndexUnavailable as error:
            raise IndexUnavailable(
                f"nothing is written without Qdrant's version, which cannot be read: {error}"
            ) from error
        found = re.match(r"(\d+)\.(\d+)", info.version)
        if not found or _TITLE not in info.title.lower():
            raise IndexUnavailable(
                "nothing is written without Qdrant's version, which cannot be read: the server "
                f"says {info.title!r} {info.version!r}"
            )
        if (int(found[1]), int(found[2])) < _LEAST:
            raise ConfigurationError(
                f"Qdrant {info.version} is too old: use {'.'.join(map(str, _LEAST))} or newer. "
                "Before 1.15.4 it ignores the condition of a write, and before 1.19 a crash can "
                "bring deleted images back"
            )
        return info.version

    def prepare(
        self, model: str, dim: int, patches: int | None = None, create: bool = True
    ) -> None:
        name, expected = self._layout.collection(model), collection_metadata(model, dim, patches)
        self.check_server()
        aliased = self._aliased()
        check_alias(self._layout, aliased)
        try:
            found = self._describe(name)
        except IndexMissing:
            if not create:
                raise
            self._create(name, _vectors(expected), expected)
            found = self._describe(name)
        check_collection(name, read_metadata(name, found), expected)
        limits = self._server.limits[name] = StrictLimits.of(found)
        limits.check_indexes(list(self._layout.indexes))
        self._index_payload(name, found["payload_schema"], self._layout.indexes)
        if aliased is None:
            self._point_alias(name, [])
        self._prepare_notes()  # the search function writes notes, but its key may not create them

    def switch(self, model: str) -> None:
        name = self._layout.collection(model)
        self._describe(name)
        aliased = self._aliased()
        check_alias(self._layout, aliased)
        # both in one call, or readers would find no alias for a moment
        self._point_alias(name, [self._unalias()] if aliased else [])

    def drop(self, model: str) -> None:
        name = self._layout.collection(model)
        check_droppable(name, self._aliased())
        self._delete(name)

    def clear(self) -> list[str]:
        if self._aliased():
            with client_errors():
                self._client.update_collection_aliases([self._unalias()])
        with client_errors():
            found = self._client.get_collections().collections
        names = self._layout.own(collection.name for collection in found)
        for name in names:
            self._delete(name)
        return names

    def _delete(self, name: str) -> None:
        with contextlib.suppress(IndexMissing), client_errors():
            self._client.delete_collection(name)

    def retrieve_payloads(self, model: str, ids: Sequence[str]) -> StoredPoints:
        # A read from several replicas leaves out what they hold differently, as if it were absent.
        same = self._retrieve_agreed(model, ids)
        others = [point_id for point_id in ids if point_id not in same]
        differing = self._retrieve(model, others, "") if others else {}
        return StoredPoints({**same, **differing}, frozenset(differing))

    def _retrieve_agreed(self, model: str, ids: Sequence[str]) -> dict[str, Point]:
        """The points that all replicas hold alike, or all but one while a node is dead: its
        replicas answer nothing, and are made anew from live ones when it is back.
        """
        try:
            return self._retrieve(model, ids, "?consistency=all")
        except IndexUnavailable as error:
            # only on the server's word: after a lost response all replicas may be there, and differ
            if _TOO_FEW_REPLICAS not in str(error):
                raise
            replicas = self._describe(self._layout.collection(model))["config"]["params"]
            others = (replicas.get("replication_factor") or 1) - 1
            if not others:
                raise
            return self._retrieve(model, ids, f"?consistency={others}")

    def _retrieve(self, model: str, ids: Sequence[str], consistency: str) -> dict[str, Point]:
        path = f"/collections/{self._layout.collection(model)}/points{consistency}"
        body = {"ids": list(ids), "with_payload": WITHOUT_BULKY, "with_vector": False}
        found = self._transport.call("POST", path, body)
        with response_parsing():
            return {point["id"]: from_payload(point["payload"]) for point in found}

    def write(self, model: str, points: Sequence[Point]) -> None:
        self.check_server()
        name = self._layout.collection(model)
        for part in self._parts(model, points):
            self._upsert(name, part)

    def _upsert(self, name: str, points: Sequence[Point]) -> None:
        # A revision was derived from a stored version: two of them need one leader that orders
        # them. Of first writes, `medium` keeps one order unless a leader changes.
        strong = any(point.version.rev for point in points)
        body = {
            "points": [
                {"id": p.id, "vector": to_vectors(p), "payload": to_payload(p)} for p in points
            ],
            "update_filter": update_filter(points),
        }
        # The client sends as it is what is not one of its models. They would make a write slower
        # than the whole of it is now (benchmarks/writes.py); the tests' server validates with them.
        encoded: Any = msgspec.json.encode(body)
        with client_errors():
            response = self._client.http.points_api.upsert_points(
                name,
                wait=True,
                ordering=qdrant.WriteOrdering.STRONG if strong else qdrant.WriteOrdering.MEDIUM,
                point_insert_operations=encoded,
            )
        _check_completed(response.result)

    def annotate(self, model: str, points: Sequence[Point]) -> None:
        self._change(
            model, [c for part in self._parts(model, points) for c in annotating_changes(part)]
        )

    def regroup(self, model: str, regroupings: Sequence[Regrouping]) -> None:
        parts = [
            structs.replace(each, joining=joining)
            for each in regroupings
            for joining in self._parts(model, each.joining) or [()]
            if joining or each.merged
        ]
        self._change(model, [change for part in parts for change in regrouping_changes(part)])

    def _parts(self, model: str, points: Sequence[Point]) -> list[Sequence[Point]]:
        """As many points at a time as one condition may name."""
        size = self._server.limits.get(self._layout.collection(model), UNLIMITED).writes
        return [points[at : at + size] for at in range(0, len(points), size)]

    def _change(self, model: str, changes: Sequence[PayloadChange]) -> None:
        """In one call. Its order is that of first writes: `strong` would need one fixed leader."""
        if not changes:
            return
        self.check_server()
        operations = [{"set_payload": change._asdict()} for change in changes]
        encoded: Any = msgspec.json.encode({"operations": operations})
        with client_errors():
            response = self._client.http.points_api.batch_update(
                self._layout.collection(model),
                wait=True,
                ordering=qdrant.WriteOrdering.MEDIUM,
                update_operations=encoded,
            )
        for result in response.result or (None,):
            _check_completed(result)

    def delete_tombstones(self, model: str, ids: Sequence[str], before_s: float) -> None:
        self.check_server()
        name = self._layout.collection(model)
        size = self._server.limits.get(name, UNLIMITED).ids
        for at in range(0, len(ids), size):
            old = qdrant.Filter.model_validate(tombstone_filter(ids[at : at + size], before_s))
            with client_errors():
                done = self._client.delete(
                    name, qdrant.FilterSelector(filter=old), ordering=qdrant.WriteOrdering.STRONG
                )
            _check_completed(done)

    def info(self) -> CollectionInfo:
        return self._view.info()

    def nearest(self, queries: Sequence[NearestQuery]) -> list[list[Candidate]]:
        return self._view.nearest(queries)

    def retrieve_with_vectors(self, ids: Sequence[str], patches: bool = False) -> dict[str, Point]:
        return self._view.retrieve_with_vectors(ids, patches)

    def scroll(
        self, limit: int, cursor: str | None = None, filter: Mapping[str, Any] | None = None
    ) -> Page:
        return self._view.scroll(limit, cursor, filter)

    def facet(
        self, path: str, limit: int, filter: Mapping[str, Any] | None = None
    ) -> list[ValueCount]:
        return self._view.facet(path, limit, filter)

    def put_note(self, kind: str, note_id: str, values: Mapping[str, Any]) -> None:
        try:
            self._view.put_note(kind, note_id, values)
        except IndexMissing:
            self._prepare_notes()
            self._view.put_note(kind, note_id, values)

    def delete_note(self, kind: str, note_id: str) -> None:
        self._view.delete_note(kind, note_id)

    def list_notes(
        self, kind: str, limit: int, cursor: str | None = None
    ) -> tuple[list[Mapping[str, Any]], str | None]:
        return self._view.list_notes(kind, limit, cursor)

    def _describe(self, name: str) -> dict[str, Any]:
        with client_errors():
            found: dict[str, Any] = self._client.get_collection(name).model_dump(mode="json")
            return found

    def _create(
        self, name: str, vectors: dict[str, qdrant.VectorParams], metadata: dict[str, Any] | None
    ) -> None:
        try:
            with client_errors():
                self._client.create_collection(name, vectors, metadata=metadata)
        except IndexUnavailable as error:
            # another function may have created it, or our first attempt, whose response was lost
            try:
                self._describe(name)
            except IndexMissing:
                raise error from None

    def _index_payload(
        self, name: str, present: Mapping[str, Any], wanted: Mapping[str, str]
    ) -> None:
        for path, kind in wanted.items():
            if path not in present:
                with client_errors():
                    self._client.create_payload_index(name, path, _payload_index(path, kind))

    def _prepare_notes(self) -> None:
        name = self._layout.notes
        try:
            found = self._describe(name)
        except IndexMissing:
            self._create(name, {}, None)
            found = self._describe(name)
        if found["config"]["params"]["vectors"]:
            raise ConfigurationError(
                f"the collection {name} has vectors, so it is not Likeness's notes: choose another "
                "LIKENESS_ALIAS"
            )
        self._index_payload(name, found["payload_schema"], {NOTE_KIND: "keyword"})

    def _aliased(self) -> str | None:
        """The collection that the alias points at."""
        with client_errors():
            aliases = self._client.get_aliases().aliases
        named = {alias.alias_name: alias.collection_name for alias in aliases}
        return named.get(self._layout.alias)

    def _unalias(self) -> qdrant.DeleteAliasOperation:
        return qdrant.DeleteAliasOperation(
            delete_alias=qdrant.DeleteAlias(alias_name=self._layout.alias)
        )

    def _point_alias(self, name: str, first: Sequence[qdrant.AliasOperations]) -> None:
        create = qdrant.CreateAliasOperation(
            create_alias=qdrant.CreateAlias(collection_name=name, alias_name=self._layout.alias)
        )
        with client_errors():
            self._client.update_collection_aliases([*first, create])


def _check_completed(result: qdrant.UpdateResult | None) -> None:
    if result is None or result.status != qdrant.UpdateStatus.COMPLETED:
        raise IndexUnavailable(f"write not completed: status {result and result.status.value!r}")


def _vectors(metadata: Mapping[str, Any]) -> dict[str, qdrant.VectorParams]:
    """The vectors of a collection with this metadata."""
    cosine = qdrant.Distance.COSINE
    # int8 in memory, originals on disk: measured in benchmarks/scale.py
    int8 = qdrant.ScalarQuantizationConfig(type=qdrant.ScalarType.INT8, always_ram=True)
    vectors = {
        VECTOR: qdrant.VectorParams(
            size=metadata["dim"],
            distance=cosine,
            on_disk=True,
            quantization_config=qdrant.ScalarQuantization(scalar=int8),
        )
    }
    if "patches" in metadata:
        vectors[PATCHES] = qdrant.VectorParams(
            size=metadata["patches"],
            distance=cosine,
            on_disk=True,
            datatype=qdrant.Datatype.FLOAT16,
            multivector_config=qdrant.MultiVectorConfig(
                comparator=qdrant.MultiVectorComparator.MAX_SIM
            ),
            hnsw_config=qdrant.HnswConfigDiff(m=0),  # no graph: patches only reorder candidates
        )
    return vectors


def _payload_index(path: str, kind: str) -> Any:
    """The index of a payload field, for `create_payload_index`."""
    if path not in SYSTEM_INDEXES:
        return qdrant.PayloadSchemaType(kind)
    parameters = {
        "keyword": qdrant.KeywordIndexParams,
        "integer": qdrant.IntegerIndexParams,
        "float": qdrant.FloatIndexParams,
    }
    return parameters[kind](type=kind, enable_hnsw=False)
