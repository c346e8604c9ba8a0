"""The REST adapter: its requests against Qdrant's own models, and scripted responses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from likeness.adapters.qdrant_rest import RestIndex
from likeness.errors import ConfigurationError, IndexMissing, IndexUnavailable
from likeness.records import (
    Exactly,
    ImageInfo,
    NearestQuery,
    ObjectRef,
    ObjectState,
    OlderThan,
    Point,
    PointWrite,
    State,
    Version,
)
from tests import qdrant_server
from tests.fault_server import error, ok
from tests.scripted_qdrant import (
    DESCRIBED,
    DIM,
    LAYOUT,
    MODEL,
    SCHEMA,
    failure,
    prepared,
    scripted_index,
    transport,
)


def write_of(condition: OlderThan | Exactly, key: str = "a") -> PointWrite:
    vector = np.array([1, 0, 0, 0], np.float32)
    found = ObjectState("e", None, 7, "image/png", 1.5)
    image = ImageInfo("PNG", 4, 3, "ab")
    ref, meta = ObjectRef("photos", key), {"brand": "acme", "price": 1.5}
    point = Point(ref, State.LIVE, Version(1), MODEL, 2.5, found, image, meta=meta, vector=vector)
    return PointWrite(point, condition)


# Writes


@pytest.mark.parametrize("status", ["acknowledged", "wait_timeout", None])
def test_a_write_that_is_not_completed_raises_index_unavailable(status: str | None) -> None:
    with scripted_index([ok({"operation_id": 1, "status": status})]) as (_, index):
        message = failure(lambda: index.write(MODEL, [write_of(OlderThan(Version(1)))]))
        assert str(status) in message


def test_strong_ordering_is_requested_only_for_compare_and_set() -> None:
    older, exactly = write_of(OlderThan(Version(1))), write_of(Exactly(Version(1)), "b")
    with scripted_index([ok({"status": "completed"})]) as (server, index):
        index.write(MODEL, [older])
        index.write(MODEL, [older, exactly])
        index.write(MODEL, [exactly])
    path = f"PUT /collections/images-{MODEL}/points?wait=true&ordering="
    assert server.paths == [f"{path}weak", f"{path}strong", f"{path}strong"]


# Preparation


def test_a_collection_that_another_function_creates_meanwhile_is_used() -> None:
    taken = error(409, f"Collection `images-{MODEL}` already exists!")
    indexes = [ok({"status": "completed"})] * len(LAYOUT.indexes)
    made = ok(DESCRIBED)
    server = prepared(taken, made, made, *indexes, ok({"aliases": []}), ok(True), made)
    assert "POST /collections/aliases" in server.paths


def test_the_reason_why_a_collection_cannot_be_created_is_in_the_message() -> None:
    with pytest.raises(IndexUnavailable, match=r"HTTP 400.*no space left") as caught:
        prepared(error(400, "no space left"), error(404))
    assert not isinstance(caught.value, IndexMissing)


def test_a_collection_of_another_model_is_a_configuration_error() -> None:
    other = {"config": {"metadata": {"model": "other", "dim": DIM}}}
    with pytest.raises(ConfigurationError, match="holds model other"):
        prepared(ok(True), ok(other))


def test_a_collection_without_our_metadata_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="holds model None"):
        prepared(ok(True), ok({"config": {}}))


def test_an_alias_that_exists_stays_where_it_is() -> None:
    assert "POST /collections/aliases" not in prepared(ok(True)).paths


# Every body, by Qdrant's own models

Recorded = list[tuple[str, str, Any]]
ROUTES = {
    r"GET /(aliases|collections/[^/]+)": None,
    r"PUT /collections/[^/]+": models.CreateCollection,
    r"PUT /collections/[^/]+/index\?wait=true": models.CreateFieldIndex,
    r"POST /collections/aliases": models.ChangeAliasesOperation,
    r"POST /collections/[^/]+/points(\?consistency=majority)?": models.PointRequest,
    r"PUT /collections/[^/]+/points\?wait=true&ordering=(weak|strong)": models.PointsList,
    r"PUT /collections/images-notes/points\?wait=true": models.PointsList,
    r"POST /collections/[^/]+/points/delete\?wait=true": models.PointIdsList,
    r"POST /collections/[^/]+/points/query/batch": models.QueryRequestBatch,
    r"POST /collections/[^/]+/points/scroll": models.ScrollRequest,
}


@pytest.fixture
def recorded() -> Iterator[tuple[RestIndex, Recorded]]:
    """An index on the small test server, and its recorded calls."""
    server = qdrant_server.start()
    engine = server.RequestHandlerClass.engine  # type: ignore[attr-defined]
    original, calls = engine.call, []

    def call(method: str, path: str, body: Any) -> Any:
        calls.append((method, path, body))
        return original(method, path, body)

    engine.call = call
    with transport(qdrant_server.url_of(server)) as opened:
        yield RestIndex(opened, LAYOUT), calls
    server.shutdown()
    server.server_close()


def model_of(method: str, path: str) -> Any:
    [found] = [model for route, model in ROUTES.items() if re.fullmatch(route, f"{method} {path}")]
    return found


def test_every_request_body_validates_against_qdrants_models(
    recorded: tuple[RestIndex, Recorded],
) -> None:
    index, calls = recorded
    index.prepare(MODEL, DIM)
    first = write_of(OlderThan(Version(1 << 71)))
    index.write(MODEL, [first, write_of(Exactly(Version()), "b")])
    gone = Point(first.point.ref, State.GONE, Version(5, 1), MODEL, 1.0)
    index.write(MODEL, [PointWrite(gone, Exactly(Version(1)))])
    index.retrieve_payloads(MODEL, [first.point.id])
    index.info()
    index.retrieve_with_vectors([first.point.id])
    vector = np.array([0, 1, 0, 0], np.float32)
    conditions = [
        {"key": "brand", "match": {"any": ["acme"]}},
        {"key": "brand", "match": {"except": ["zeta"]}},
        {"key": "price", "range": {"gte": 1}},
        {"should": {"key": "size", "match": {"value": 7}}},
    ]
    wanted = SCHEMA.compile({"must": conditions, "must_not": []})
    index.nearest(
        [
            NearestQuery([vector], 5),
            NearestQuery([vector], 5, offset=1, filter=wanted, score_threshold=0.5, full=True),
        ]
    )
    page = index.scroll(1, filter={"must": [{"key": "state", "match": {"value": "live"}}]})
    index.scroll(1, cursor=page.next_cursor or first.point.id)
    index.put_note("feedback", "1", {"kind": "click"})
    index.delete_note("feedback", "1")
    index.list_notes("feedback", 5)

    kinds = set()
    for method, path, body in calls:
        model = model_of(method, path)
        if model is None:
            assert body is None
            continue
        kinds.add(model)
        parsed = model.model_validate(body, extra="forbid")
        # no field was lost in parsing
        assert parsed.model_dump(mode="json", by_alias=True, exclude_unset=True) == body
        for part in (body, *body.get("searches", [])):
            for said in (part.get("filter"), part.get("update_filter")):
                if said:
                    models.Filter.model_validate(said, extra="forbid")
    assert kinds == {model for model in ROUTES.values() if model}


def test_writing_notes_needs_no_permission_to_create_their_collection(
    recorded: tuple[RestIndex, Recorded],
) -> None:
    index, calls = recorded
    index.prepare(MODEL, DIM)
    prepared = len(calls)
    index.put_note("feedback", "1", {"kind": "click"})
    path = "/collections/images-notes"
    assert [call[:2] for call in calls[prepared:]] == [("PUT", f"{path}/points?wait=true")]
    field = {"field_name": "kind", "field_schema": "keyword"}
    assert ("PUT", f"{path}/index?wait=true", field) in calls[:prepared]


def test_notes_that_are_written_before_anything_is_indexed_get_their_collection(
    recorded: tuple[RestIndex, Recorded],
) -> None:
    index, _ = recorded
    index.put_note("feedback", "1", {"kind": "click"})
    assert index.list_notes("feedback", 5) == ([{"kind": "click"}], None)


def test_the_options_of_a_write_are_known_to_qdrant() -> None:
    assert {"weak", "strong"} <= {ordering.value for ordering in models.WriteOrdering}
    assert "majority" in {level.value for level in models.ReadConsistencyType}
    statuses = {status.value for status in models.UpdateStatus}
    assert {"acknowledged", "completed"} <= statuses
