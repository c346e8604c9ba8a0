"""The search service on a Qdrant server that refuses: keys, quotas, limits, strangers' points."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from aws_lambda_powertools import Logger
from qdrant_client import models
from starlette.testclient import TestClient

from functions.search.api import create_app
from likeness.adapters.qdrant_index import QdrantIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.adapters.qdrant_transport import Transport
from likeness.adapters.qdrant_view import QdrantView
from likeness.embedding import Embedder
from likeness.gallery import Gallery
from likeness.model import load_spec
from likeness.records import ImageInfo, ObjectRef, ObjectState, Point, State, Version
from likeness.search import Searcher
from likeness.searchers import Searchers
from likeness.settings import Settings
from tests.fake_bucket import FakeBucket
from tests.fault_server import Answer, Request, error, ok, serve
from tests.lambda_runtime import MODEL_DIR, LambdaProcess, http_event
from tests.pictures import jpeg
from tests.qdrant_server import Engine, Refused
from tests.scripted_qdrant import described
from tests.service import FIXED_FILTERS, SCHEMA

EMBEDDER = Embedder(FIXED_FILTERS)
LAYOUT = Layout("images", SCHEMA)
DENIED = Answer(403, b"Forbidden: Write access denied", {"content-type": "text/plain"})
Guard = Callable[[Request], Answer | None]


def admit(request: Request) -> None:
    """A server that refuses nothing."""


def read_only(request: Request) -> Answer | None:
    """A server that takes the key for one that may only read."""
    writes = request.method == "PUT" or "/points/delete" in request.path
    return DENIED if writes else None


class Guarded:
    """The search service, and what its Qdrant server refuses; `log` is what the service logged."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.guard: Guard = admit
        self.written: list[str] = []
        self._log = io.StringIO()

    def open(self, url: str) -> None:
        transport = Transport(url, lambda: "a-key", sleep=lambda pause_s: None)
        self.index = QdrantIndex(transport, LAYOUT)
        view, bucket = QdrantView(transport, LAYOUT), FakeBucket("photos")
        gallery = Gallery(view, lambda: bucket, SCHEMA)
        logger = Logger(
            service=f"search-{id(self)}", logger_handler=logging.StreamHandler(self._log)
        )
        app = create_app(
            Searchers(view, [Searcher(gallery, EMBEDDER)]),
            view,
            lambda: bucket,
            Settings(url, FIXED_FILTERS, "photos", schema=SCHEMA),
            lambda: logger,
        )
        self.http = TestClient(app, raise_server_exceptions=False)

    def answer(self, request: Request) -> Answer:
        if refused := self.guard(request):
            return refused
        if request.method == "PUT":
            self.written.append(request.path)
        try:
            result = self.engine.call(request.method, request.path, request.body)
        except Refused as refused:
            # as a server does for a vector that the collection does not have
            return error(404 if "Collection" in str(refused) else 400, str(refused))
        return Answer(200, json.dumps(result).encode()) if request.path == "/" else ok(result)

    def fill(self) -> None:
        """A group of two duplicates."""
        self.index.prepare(EMBEDDER.fingerprint, EMBEDDER.dim)
        original = point("original.png")
        copy = point("copy.png", original.id)
        self.index.write(EMBEDDER.fingerprint, [original, copy])
        self.copy_id = copy.id

    def search(self) -> Any:
        vector = np.ones(EMBEDDER.dim).tolist()
        return self.http.post(
            "/v1/search", json={"vector": vector, "model": EMBEDDER.fingerprint, "rerank": "none"}
        )

    def feedback(self) -> Any:
        event = {"request_id": "r", "id": self.copy_id, "kind": "click"}
        return self.http.post("/v1/feedback", json=event)

    def decide(self, decision: str) -> Any:
        body = {"group": "group", "id": self.copy_id, "decision": decision}
        return self.http.post("/v1/duplicates/decisions", json=body)

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.getvalue().splitlines()]


def point(key: str, original: str | None = None) -> Point:
    return Point(
        ObjectRef("photos", key),
        State.LIVE,
        Version(1),
        EMBEDDER.fingerprint,
        1.0,
        ObjectState("e", None, 7, "image/png", 1.5),
        ImageInfo("PNG", 4, 3, "ab"),
        vector=np.full(EMBEDDER.dim, EMBEDDER.dim**-0.5, np.float32),
        group="group",
        original=original,
    )


@contextmanager
def guarded() -> Iterator[Guarded]:
    service = Guarded()
    with serve(service.answer) as server:
        service.open(server.url)
        yield service


@pytest.fixture
def service() -> Iterator[Guarded]:
    with guarded() as service:
        service.fill()
        yield service


def problem(response: Any, status: int, slug: str) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert body["type"] == f"urn:likeness:problem:{slug}"
    assert "images-notes" not in body["detail"] and "HTTP" not in body["detail"]
    return str(body["detail"])


# A key that may not do everything


def test_with_a_key_that_may_only_read_searches_and_listings_go_on(service: Guarded) -> None:
    service.guard = read_only
    assert len(service.search().json()["results"]) == 2
    [group] = service.http.get("/v1/duplicates").json()["groups"]
    assert [copy["id"] for copy in group["copies"]] == [service.copy_id]
    assert service.http.get("/v1/ready").json()["points"] == 2
    assert len(service.http.get("/v1/images").json()["images"]) == 2
    assert not service.log


@pytest.mark.fault(
    "the key for Qdrant may only read",
    seen="searches go on; feedback and decisions are answered with 500 `index-forbidden`, without "
    "Retry-After, and the log names what the key does not permit",
    heals="with a key that may write the notes",
    lost="the feedback",
)
def test_what_writes_notes_says_that_the_services_key_does_not_permit_it(service: Guarded) -> None:
    service.guard = read_only
    for refused in (
        service.feedback(),
        service.decide("not_duplicate"),
        service.decide("duplicate"),
    ):
        detail = problem(refused, 500, "index-forbidden")
        assert "the service's key for the index does not permit this" in detail
        assert "retry-after" not in refused.headers
    lines = service.log
    assert len(lines) == 3
    for line in lines:
        assert line["message"] == "failed" and line["slug"] == "index-forbidden"
        assert "the API key does not permit" in line["why"]
        assert "/collections/images-notes/points" in line["why"]
        assert "Write access denied" in line["why"]
    assert "a-key" not in str(lines)


@pytest.mark.fault(
    "Qdrant does not accept the key (401)",
    seen="503 `index-unauthorized` with Retry-After",
    heals="the key is read again after each refusal",
)
def test_with_a_key_that_the_server_does_not_know_all_is_refused_as_unauthorized(
    service: Guarded,
) -> None:
    service.guard = lambda request: Answer(401, b"Invalid API key or JWT")
    for refused in (service.search(), service.feedback(), service.http.get("/v1/ready")):
        detail = problem(refused, 503, "index-unauthorized")
        assert "does not accept the service's key" in detail
        assert refused.headers["retry-after"]
    assert "no API key, or a wrong one" in service.log[0]["why"]


# A server that is full, or has no time


@pytest.mark.fault(
    "Qdrant's memory or disk quota is reached (507), while a caller sends feedback",
    seen="searches go on; feedback and decisions are answered with 503 `index-full`",
    heals="once there is room",
    lost="the feedback, unless it is sent again",
)
def test_a_full_index_is_named_and_searches_go_on(service: Guarded) -> None:
    service.guard = lambda request: error(507) if request.method == "PUT" else None
    refused = service.feedback()
    assert "the index is full" in problem(refused, 503, "index-full")
    assert refused.headers["retry-after"]
    assert "a memory or disk quota ended PUT" in service.log[0]["why"]
    assert service.search().status_code == 200


@pytest.mark.fault(
    "Qdrant limits the rate (429), or ends a search at its own time limit (408)",
    seen="a later answer; beyond the time limit of a call 503, with the server's Retry-After",
    heals="a call is tried three times, the next when Retry-After says",
)
@pytest.mark.parametrize(
    ("status", "asked", "told"), [(429, "7", "7"), (408, None, "5"), (429, None, "5")]
)
def test_a_server_that_is_too_busy_is_503_with_its_own_retry_after(
    service: Guarded, status: int, asked: str | None, told: str
) -> None:
    headers = {"retry-after": asked} if asked else {}
    service.guard = lambda request: error(status, headers=headers)
    refused = service.search()
    problem(refused, 503, "index-unavailable")
    assert refused.headers["retry-after"] == told


@pytest.mark.fault(
    "Qdrant refuses a request for good (400)",
    seen="500 `index-refused`; the log has the server's words and what they mean",
    heals="manually: a setting of the server or the service is wrong",
)
def test_a_request_that_the_server_refuses_for_good_says_so(service: Guarded) -> None:
    def refuses(request: Request) -> Answer | None:
        unindexed = 'Bad request: Index required but not found for "x"'
        return error(400, unindexed) if "/query" in request.path else None

    service.guard = refuses
    refused = service.search()
    assert "the service's log says why" in problem(refused, 500, "index-refused")
    assert "retry-after" not in refused.headers
    assert "strict mode refuses filters on payload fields without an index" in service.log[0]["why"]


# Limits of strict mode


def test_what_a_limit_of_the_server_costs_is_logged_once_in_a_process() -> None:
    spec, limits = load_spec(MODEL_DIR), {"enabled": True, "search_max_hnsw_ef": 128}
    metadata = {"model": spec.fingerprint, "dim": spec.embedding.dim}
    description = ok(described(metadata, strict_mode_config=limits))

    def script(request: Request) -> Answer:
        if request.method == "GET":
            return description
        searches = request.body["searches"]
        over = any(search["params"]["hnsw_ef"] > 128 for search in searches)
        return error(400, "Limit exceeded") if over else ok([{"points": []} for _ in searches])

    with (
        serve(script) as server,
        LambdaProcess("functions.search.app.handler", {"QDRANT_URL": server.url}) as function,
    ):
        for seed in range(3):
            answer = function.invoke(http_event("POST", "/v1/search", jpeg(seed)))
            assert answer["statusCode"] == 200
        [line] = [line for line in function.log.splitlines() if '"limited"' in line]
    # an empty answer is compared with the collection's model, so its limits are read each time
    assert sum(path.startswith("GET") for path in server.paths) > 1
    assert "search_max_hnsw_ef is 128" in json.loads(line)["why"]


# An alias that points at another service's collection


@pytest.mark.fault(
    "the alias in Qdrant names another service's collection",
    seen="500 `misconfigured`; the log names the collection; nothing is written",
    heals="manually: another `LIKENESS_ALIAS`",
)
@pytest.mark.parametrize("name", ["image", "text"])
@pytest.mark.parametrize("payload", [None, {"title": "theirs"}])
def test_an_alias_of_another_service_is_a_clear_error_and_nothing_is_written(
    name: str, payload: dict[str, Any] | None
) -> None:
    with guarded() as service:
        size, cosine = EMBEDDER.dim, models.Distance.COSINE
        client = service.engine.client
        client.create_collection(
            "their-texts", {name: models.VectorParams(size=size, distance=cosine)}
        )
        vector = {name: np.ones(size).tolist()}
        theirs = models.PointStruct(id=1, vector=vector, payload=payload)
        client.upsert("their-texts", [theirs])
        alias = models.CreateAlias(collection_name="their-texts", alias_name="images")
        client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
        for refused in (service.search(), service.http.get("/v1/ready")):
            detail = problem(refused, 500, "misconfigured")
            assert detail == "the service is misconfigured; see its log"
        for line in service.log:
            assert "choose another LIKENESS_ALIAS" in line["why"]
        assert service.written == []
        assert client.count("their-texts").count == 1
