"""Reads of a server: hits that changed while they were read, and limits of strict mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import pytest

from likeness.adapters.qdrant_points import to_payload
from likeness.adapters.qdrant_queries import HNSW_EF
from likeness.adapters.qdrant_view import QdrantView
from likeness.errors import ConfigurationError, IndexRefused
from likeness.records import ImageInfo, NearestQuery, ObjectRef, ObjectState, Point, State, Version
from tests.fault_server import Answer, FaultServer, Request, Script, error, ok
from tests.scripted_qdrant import DIM, LAYOUT, MODEL, described, scripted

UP = np.array([1, 0, 0, 0], np.float32)


@contextmanager
def scripted_view(script: Script, **options: Any) -> Iterator[tuple[FaultServer, QdrantView]]:
    with scripted(script) as (server, opened):
        yield server, QdrantView(opened, LAYOUT, **options)


def tilted(cosine: float) -> list[float]:
    return [cosine, float(np.sqrt(1 - cosine**2)), 0.0, 0.0]


def hit(key: str, score: float, state: State = State.LIVE, now: float | None = None) -> Any:
    """A hit as the server returns it: the vector that it has `now` may give another score."""
    live = state is State.LIVE
    found = ObjectState("e", None, 7, "image/png", 1.5) if live else None
    image = ImageInfo("PNG", 4, 3, "ab") if live else None
    point = Point(ObjectRef("photos", key), state, Version(1), MODEL, 2.5, found, image)
    vector = {"image": tilted(score if now is None else now)} if live else {}
    return {"id": point.id, "score": score, "payload": to_payload(point), "vector": vector}


def answered(*hits: Any) -> Answer:
    return ok([{"points": list(hits)}])


def found(view: QdrantView, **options: Any) -> list[tuple[str, float]]:
    [candidates] = view.nearest([NearestQuery([UP], **options)])
    return [(c.point.ref.key, round(c.score, 3)) for c in candidates]


# Hits that changed between being found and being read


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("state", [State.GONE, State.REJECTED])
def test_a_hit_that_is_no_longer_live_is_left_out_and_the_page_filled(
    full: bool, state: State
) -> None:
    hits = hit("a", 0.9), hit("b", 0.8, state), hit("c", 0.7), hit("d", 0.6)
    with scripted_view([answered(*hits)]) as (_, view):
        assert found(view, limit=3, full=full) == [("a", 0.9), ("c", 0.7), ("d", 0.6)]
        assert found(view, limit=1, full=full) == [("a", 0.9)]


def test_a_score_belongs_to_the_vector_that_came_with_it() -> None:
    hits = hit("a", 0.9, now=0.5), hit("b", 0.8), hit("c", 0.7, now=0.95)
    with scripted_view([answered(*hits)]) as (_, view):
        assert found(view, limit=3, full=True) == [("c", 0.95), ("b", 0.8), ("a", 0.5)]
        above = found(view, limit=3, full=True, score_threshold=0.6)
        assert above == [("c", 0.95), ("b", 0.8)]


# Limits of strict mode


def strict(limits: dict[str, Any], over: Any, hits: Any) -> Script:
    """A server that refuses a batch with a search that is `over` a limit."""

    def script(request: Request) -> Answer:
        if request.method == "GET":
            config = {"strict_mode_config": {"enabled": True, **limits}}
            return ok(described({"model": MODEL, "dim": DIM}, **config))
        if any(map(over, request.body["searches"])):
            return error(400, "Limit exceeded")
        return ok([{"points": hits(search)} for search in request.body["searches"]])

    return script


def test_a_search_stays_within_the_limits_and_says_once_what_that_costs() -> None:
    reported: list[str] = []
    script = strict(
        {"search_max_hnsw_ef": 128, "search_max_oversampling": 1.5},
        lambda search: (
            search["params"]["hnsw_ef"] > 128
            or search["params"]["quantization"]["oversampling"] > 1.5
        ),
        lambda search: [hit("a", 0.9)],
    )
    with scripted_view(script, report=reported.append) as (server, view):
        for _ in range(3):
            assert found(view, limit=5) == [("a", 0.9)]
    query = f"POST /collections/{LAYOUT.alias}/points/query/batch"
    assert server.paths == [query, f"GET /collections/{LAYOUT.alias}", query, query, query]
    assert server.requests[0].body["searches"][0]["params"]["hnsw_ef"] == HNSW_EF
    assert [text.split()[0] for text in reported] == [
        "search_max_hnsw_ef",
        "search_max_oversampling",
    ]


def test_a_page_over_the_limit_takes_several_searches_and_lacks_nothing() -> None:
    keys = [f"{n:03}" for n in range(300)]
    rank = count()
    ranked = {key: 1 - next(rank) / 1000 for key in keys}

    def hits(search: Any) -> list[Any]:
        end = search["offset"] + search["limit"]
        return [hit(key, ranked[key]) for key in keys[search["offset"] : end]]

    limits = {"max_query_limit": 30, "search_max_batchsize": 2}
    script = strict(limits, lambda search: search["limit"] > 30, hits)
    with scripted_view(script) as (server, view):
        page = found(view, limit=100, offset=20)
    assert [key for key, _ in page] == keys[20:120]
    assert all(len(r.body["searches"]) <= 2 for r in server.requests[2:])


def test_a_refusal_that_is_not_about_limits_is_raised() -> None:
    script = strict({}, lambda search: True, lambda search: [])
    with scripted_view(script) as (server, view):
        with pytest.raises(IndexRefused, match="Limit exceeded"):
            found(view, limit=5)
        assert len(server.requests) == 2


def test_a_collection_of_another_service_is_named() -> None:
    with (
        scripted_view([ok(described({"theirs": 1}))]) as (_, view),
        pytest.raises(ConfigurationError, match="images in Qdrant is not a collection of Likeness"),
    ):
        view.info()
