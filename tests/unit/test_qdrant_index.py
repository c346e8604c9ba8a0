"""The index on a server: its requests against Qdrant's own models, and scripted responses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from qdrant_client import models

from likeness.adapters.qdrant_index import QdrantIndex
from likeness.adapters.qdrant_points import to_payload
from likeness.adapters.qdrant_view import NOTE_ORDERING
from likeness.errors import ConfigurationError, IndexMissing, IndexUnavailable
from likeness.records import (
    ImageInfo,
    NearestQuery,
    ObjectRef,
    ObjectState,
    Point,
    State,
    Version,
)
from tests import qdrant_server
from tests.fault_server import CLOSED_AT_ONCE, Answer, FaultServer, Request, error, ok
from tests.scripted_qdrant import (
    ALIAS,
    COMPLETED,
    DESCRIBED,
    DIM,
    LAYOUT,
    MODEL,
    SCHEMA,
    VERSION,
    described,
    failure,
    prepared,
    scripted_index,
    transport,
)


def live(version: Version, key: str = "a") -> Point:
    vector = np.array([1, 0, 0, 0], np.float32)
    found = ObjectState("e", None, 7, "image/png", 1.5)
    image = ImageInfo("PNG", 4, 3, "ab")
    ref, meta = ObjectRef("photos", key), {"brand": "acme", "price": 1.5}
    return Point(ref, State.LIVE, version, MODEL, 2.5, found, image, meta=meta, vector=vector)


# Writes


@pytest.mark.parametrize("status", ["acknowledged", "wait_timeout"])
def test_a_write_that_is_not_completed_raises_index_unavailable(status: str) -> None:
    with scripted_index([VERSION, ok({"operation_id": 1, "status": status})]) as (_, index):
        assert status in failure(lambda: index.write(MODEL, [live(Version(1))]))


@pytest.mark.parametrize("result", [None, {}, {"operation_id": 1, "status": "unheard of"}, []])
def test_an_unexpected_response_to_a_write_raises_index_unavailable(result: Any) -> None:
    with scripted_index([VERSION, ok(result)]) as (_, index):
        failure(lambda: index.write(MODEL, [live(Version(1))]))


def test_what_answers_with_other_json_is_not_taken_for_qdrant() -> None:
    with scripted_index([Answer(200, b'{"hello": 1}')]) as (_, index):
        for call in (index.models, index.clear, index.info, lambda: index.prepare(MODEL, DIM)):
            assert "Qdrant" in failure(call)


def test_writes_are_ordered_and_those_of_revisions_strongly() -> None:
    first, revision = live(Version(1)), live(Version(1, 1), "b")
    with scripted_index([VERSION, ok(COMPLETED)]) as (server, index):
        index.write(MODEL, [first])
        index.write(MODEL, [first, revision])
        index.write(MODEL, [revision])
        index.delete_tombstones(MODEL, [first.id], 1.0)
        index.put_note("feedback", "1", {})
        index.delete_note("feedback", "1")
    points, notes = f"/collections/images-{MODEL}/points", "/collections/images-notes/points"
    assert server.paths == [
        "GET /",
        f"PUT {points}?wait=true&ordering=medium",
        f"PUT {points}?wait=true&ordering=strong",
        f"PUT {points}?wait=true&ordering=strong",
        f"POST {points}/delete?wait=true&ordering=strong",
        f"PUT {notes}?wait=true&ordering=medium",
        f"POST {notes}/delete?wait=true&ordering=medium",
    ]


def stored(point: Point) -> Any:
    return {"id": point.id, "payload": to_payload(point)}


def test_points_that_replicas_hold_differently_are_told_from_absent_ones() -> None:
    same, differing, absent = (live(Version(1), key) for key in "abc")
    script = [ok([stored(same)]), ok([stored(differing)])]
    with scripted_index(script) as (server, index):
        found = index.retrieve_payloads(MODEL, [same.id, differing.id, absent.id])
    assert set(found.points) == {same.id, differing.id}
    assert found.differing == {differing.id}
    path = f"POST /collections/images-{MODEL}/points"
    assert server.paths == [f"{path}?consistency=all", path]
    assert server.requests[1].body["ids"] == [differing.id, absent.id]


@pytest.mark.parametrize("replicas", [2, 3])
def test_a_dead_node_does_not_stop_reading_for_writers(replicas: int) -> None:
    point = live(Version(1))

    def script(request: Request) -> Answer:
        if request.method == "GET":
            params = {"vectors": {}, "replication_factor": replicas}
            return ok(described({"model": MODEL, "dim": DIM}, params=params))
        too_few = error(500, "Service internal error: not enough active replicas")
        return too_few if request.path.endswith("=all") else ok([stored(point)])

    with scripted_index(script) as (server, index):
        found = index.retrieve_payloads(MODEL, [point.id])
    assert (set(found.points), found.differing) == ({point.id}, frozenset())
    assert server.paths[-1].endswith(f"/points?consistency={replicas - 1}")


@pytest.mark.parametrize("answer", [error(500), error(503), CLOSED_AT_ONCE])
def test_without_the_servers_word_for_a_dead_node_all_replicas_are_asked(answer: Answer) -> None:
    with scripted_index([answer]) as (server, index):
        failure(lambda: index.retrieve_payloads(MODEL, ["x"]))
    assert {path.partition("=")[2] for path in server.paths} == {"all"}


# The server's version


@pytest.mark.parametrize("version", ["1.18.9", "1.15.3", "0.11.0", "1.18.0-dev"])
def test_a_server_that_would_ignore_conditions_is_refused_by_name(version: str) -> None:
    old = Answer(200, json.dumps({"title": "qdrant", "version": version}).encode())
    with scripted_index([old]) as (server, index):
        for write in (
            lambda: index.write(MODEL, [live(Version(1))]),
            lambda: index.delete_tombstones(MODEL, ["x"], 1.0),
            lambda: index.prepare(MODEL, DIM),
        ):
            with pytest.raises(ConfigurationError, match=rf"Qdrant {version} is too old: use 1.19"):
                write()
    assert set(server.paths) == {"GET /"}


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b'{"title": "some other service", "version": "2.0"}'),
        Answer(200, b'{"title": "qdrant", "version": "main"}'),
        Answer(200, b'{"status": "fine"}'),
        Answer(200, b"<html>a proxy</html>"),
        error(404),
        error(500),
        Answer(403, b"Forbidden"),
    ],
)
def test_without_a_version_writes_wait_and_searches_go_on(answer: Answer) -> None:
    def script(request: Request) -> Answer:
        return answer if request.path == "/" else ok([{"points": []}])

    with scripted_index(script) as (server, index):
        message = failure(lambda: index.write(MODEL, [live(Version(1))]))
        assert "nothing is written without Qdrant's version" in message
        query = NearestQuery([np.array([1, 0, 0, 0], np.float32)], 5)
        assert index.nearest([query]) == [[]]
    assert not [path for path in server.paths if path.startswith("PUT")]


def test_the_version_is_read_once_and_again_after_a_restore() -> None:
    def script(request: Request) -> Answer:
        return VERSION if request.path == "/" else ok(COMPLETED)

    with scripted_index(script) as (server, index):
        for _ in range(3):
            index.write(MODEL, [live(Version(1))])
            index.for_model(MODEL).write(MODEL, [live(Version(1))])
        assert server.paths.count("GET /") == 1
        index.reconnect()
        index.write(MODEL, [live(Version(1))])
        assert server.paths.count("GET /") == 2
        assert index.check_server() == "1.19.0"


# Limits of strict mode


def test_a_batch_is_split_to_stay_within_the_limits_of_strict_mode() -> None:
    limits = {"enabled": True, "upsert_max_batchsize": 4, "condition_max_size": 3}
    strict = described({"model": MODEL, "dim": DIM}, strict_mode_config=limits)
    points = [live(Version(1), str(n)) for n in range(10)]
    with scripted_strict_index(strict) as (server, index):
        index.prepare(MODEL, DIM)
        index.write(MODEL, points)
        index.delete_tombstones(MODEL, [point.id for point in points], 1.0)
    sizes = [len(r.body["points"]) for r in server.requests if "points" in (r.body or {})]
    assert sizes == [4, 4, 2]
    deleted = [r.body["filter"]["must"][0]["has_id"] for r in server.requests if "delete" in r.path]
    assert [len(ids) for ids in deleted] == [3, 3, 3, 1]


def test_a_limit_below_a_single_conditional_write_is_named() -> None:
    limits = {"enabled": True, "filter_max_conditions": 5}
    strict = described({"model": MODEL, "dim": DIM}, strict_mode_config=limits)
    with scripted_strict_index(strict) as (_, index):
        index.prepare(MODEL, DIM)
        with pytest.raises(ConfigurationError, match="filter_max_conditions is 5"):
            index.write(MODEL, [live(Version(1))])


def test_too_many_payload_indexes_are_refused_by_name() -> None:
    limits = {"enabled": True, "max_payload_index_count": len(LAYOUT.indexes) - 1}
    strict = described({"model": MODEL, "dim": DIM}, strict_mode_config=limits)
    with (
        scripted_strict_index(strict) as (_, index),
        pytest.raises(ConfigurationError, match=r"max_payload_index_count .*Beyond it: meta.since"),
    ):
        index.prepare(MODEL, DIM)


@contextmanager
def scripted_strict_index(description: Any) -> Iterator[tuple[FaultServer, QdrantIndex]]:
    def script(request: Request) -> Answer:
        notes = request.path.endswith("-notes")
        answers = {
            "/": VERSION,
            "/aliases": ok({"aliases": [ALIAS]}),
        }
        if request.method == "GET":
            return answers.get(request.path) or ok(described(None) if notes else description)
        return ok(COMPLETED)

    with scripted_index(script) as found:
        yield found


# Preparation


def test_a_collection_that_another_function_creates_meanwhile_is_used() -> None:
    taken = error(409, f"Collection `images-{MODEL}` already exists!")
    indexes = [ok(COMPLETED)] * len(LAYOUT.indexes)
    made, notes = ok(DESCRIBED), (ok(described(None)), ok(COMPLETED))
    server = prepared(taken, made, made, *indexes, ok(True), *notes, aliases=[])
    assert "POST /collections/aliases" in server.paths


def test_the_reason_why_a_collection_cannot_be_created_is_in_the_message() -> None:
    with pytest.raises(IndexUnavailable, match=r"HTTP 400.*no space left") as caught:
        prepared(error(400, "no space left"), error(404))
    assert not isinstance(caught.value, IndexMissing)


def test_a_collection_of_another_model_is_a_configuration_error() -> None:
    other = described({"model": "other", "dim": DIM})
    with pytest.raises(ConfigurationError, match="holds model other"):
        prepared(ok(True), ok(other))


def test_a_collection_without_our_metadata_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="is not a collection of Likeness"):
        prepared(ok(True), ok(described({"theirs": 1})))


def test_an_alias_of_another_service_is_a_configuration_error_and_nothing_is_written() -> None:
    theirs = {"alias_name": "images", "collection_name": "their-photos"}
    script = [VERSION, ok({"aliases": [theirs]})]
    named = pytest.raises(ConfigurationError, match="names the collection their-photos")
    with scripted_index(script) as (server, index), named:
        index.prepare(MODEL, DIM)
    assert server.paths == ["GET /", "GET /aliases"]


def test_notes_of_another_service_are_a_configuration_error() -> None:
    theirs = described({"theirs": 1})
    indexes = [ok(COMPLETED)] * len(LAYOUT.indexes)
    with pytest.raises(ConfigurationError, match="images-notes has vectors"):
        prepared(ok(True), ok(DESCRIBED), *indexes, ok(theirs))


def test_an_alias_that_exists_stays_where_it_is() -> None:
    assert "POST /collections/aliases" not in prepared(ok(True)).paths


# Every body, by Qdrant's own models

Recorded = list[tuple[str, str, Any]]
ROUTES = {
    r"GET /(aliases|collections/[^/]+)?": None,
    r"PUT /collections/[^/]+": models.CreateCollection,
    r"PUT /collections/[^/]+/index\?wait=true": models.CreateFieldIndex,
    r"POST /collections/aliases": models.ChangeAliasesOperation,
    r"POST /collections/[^/]+/points(\?consistency=all)?": models.PointRequest,
    r"PUT /collections/[^/]+/points\?wait=true&ordering=(medium|strong)": models.PointsList,
    r"POST /collections/[^/]+/points/delete\?wait=true&ordering=medium": models.PointIdsList,
    r"POST /collections/[^/]+/points/query/batch": models.QueryRequestBatch,
    r"POST /collections/[^/]+/points/scroll": models.ScrollRequest,
}


@pytest.fixture
def recorded() -> Iterator[tuple[QdrantIndex, Recorded]]:
    """An index on the small test server, and its recorded calls."""
    server = qdrant_server.start()
    engine = server.RequestHandlerClass.engine  # type: ignore[attr-defined]
    original, calls = engine.call, []

    def call(method: str, path: str, body: Any) -> Any:
        calls.append((method, path, body))
        return original(method, path, body)

    engine.call = call
    with transport(qdrant_server.url_of(server)) as opened:
        yield QdrantIndex(opened, LAYOUT), calls
    server.shutdown()
    server.server_close()


def model_of(method: str, path: str) -> Any:
    [found] = [model for route, model in ROUTES.items() if re.fullmatch(route, f"{method} {path}")]
    return found


def test_every_request_body_validates_against_qdrants_models(
    recorded: tuple[QdrantIndex, Recorded],
) -> None:
    index, calls = recorded
    index.prepare(MODEL, DIM)
    first = live(Version(1 << 71))
    index.write(MODEL, [first, live(Version(0, 1), "b")])
    gone = Point(first.ref, State.GONE, Version(5, 1), MODEL, 1.0)
    index.write(MODEL, [gone])
    index.retrieve_payloads(MODEL, [first.id])
    index.info()
    index.retrieve_with_vectors([first.id])
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
    index.scroll(1, cursor=page.next_cursor or first.id)
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
    recorded: tuple[QdrantIndex, Recorded],
) -> None:
    index, calls = recorded
    index.prepare(MODEL, DIM)
    prepared = len(calls)
    index.put_note("feedback", "1", {"kind": "click"})
    path = "/collections/images-notes"
    written = f"{path}/points?wait=true&ordering=medium"
    assert [call[:2] for call in calls[prepared:]] == [("PUT", written)]
    field = {"field_name": "kind", "field_schema": "keyword"}
    assert ("PUT", f"{path}/index?wait=true", field) in calls[:prepared]


def test_notes_that_are_written_before_anything_is_indexed_get_their_collection(
    recorded: tuple[QdrantIndex, Recorded],
) -> None:
    index, _ = recorded
    index.put_note("feedback", "1", {"kind": "click"})
    assert index.list_notes("feedback", 5) == ([{"kind": "click"}], None)


def test_the_options_of_a_write_are_known_to_qdrant() -> None:
    assert NOTE_ORDERING in {ordering.value for ordering in models.WriteOrdering}
    assert "all" in {level.value for level in models.ReadConsistencyType}
