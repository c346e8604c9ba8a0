"""The search service, called as callers call it: the real ASGI app, decoder, model and engine."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aws_lambda_powertools import Logger
from msgspec.structs import replace
from PIL import Image
from starlette.testclient import TestClient

from functions.search import openapi
from functions.search.api import create_app
from functions.search.gateway import create_handler
from likeness.adapters.qdrant import Layout
from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.embedding import Embedder
from likeness.filters import Schema
from likeness.indexing import Indexer
from likeness.records import (
    Hint,
    ObjectRef,
    OlderThan,
    Point,
    PointWrite,
    State,
    Version,
)
from likeness.search import Searcher
from likeness.settings import Settings
from tests.fake_bucket import FakeBucket
from tests.pictures import encoded, jpeg, png

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "models" / "fixed-filters"
SCHEMA = Schema.declare({"brand": "keyword", "price": "float"})
PICTURES = 12


class Context:
    aws_request_id = "request-1"


class Service:
    def __init__(self, folder: Path) -> None:
        self.index = EmbeddedIndex(folder, Layout("images", SCHEMA))
        self.bucket = FakeBucket("photos")
        self.embedder = Embedder(MODEL)
        self.settings = Settings("file:///unused", MODEL, "photos", "uploads/", schema=SCHEMA)
        limits = self.settings.limits
        self.searcher = Searcher(self.index, self.embedder, lambda: self.bucket, SCHEMA, limits)
        logger = Logger(service="search", logger_handler=logging.NullHandler())
        self.app = create_app(self.searcher, lambda: self.bucket, self.settings, lambda: logger)
        self.http = TestClient(self.app, raise_server_exceptions=False)

    def fill(self) -> None:
        for seed in range(PICTURES):
            metadata = {"brand": "acme" if seed % 2 else "zeta", "price": str(seed)}
            self.bucket.put(f"{seed}.png", png(seed), metadata)
        self.bucket.put("bad.png", b"no picture")
        hints = [Hint(self.bucket.ref(f"{seed}.png")) for seed in [*range(PICTURES), "bad"]]
        Indexer(self.bucket, self.index, self.embedder, SCHEMA).reconcile(hints)

    def id(self, key: str) -> str:
        return ObjectRef("photos", key).point_id

    def search(self, **fields: Any) -> Any:
        return self.http.post("/v1/search", json=fields)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("index"))
    service.fill()
    yield service
    service.index.close()


def keys(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [result["key"] for result in response.json()["results"]]


def problem(response: Any, status: int, slug: str) -> str:
    """The detail of a well-formed problem of this status and type."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == f"urn:likeness:problem:{slug}"
    assert body["status"] == status
    assert body["request_id"]
    detail: str = body["detail"]
    return detail


def test_a_raw_image_finds_its_like(service: Service) -> None:
    response = service.http.post(
        "/v1/search?limit=3", content=jpeg(4), headers={"content-type": "image/jpeg"}
    )
    assert keys(response)[0] == "4.png"
    answer = response.json()
    assert len(answer["results"]) == 3
    assert answer["model"] == service.embedder.fingerprint
    assert answer["request_id"]
    assert answer["next_offset"] == 3
    assert {"decode", "embed", "search", "total", "cold_start"} == set(answer["took_ms"])
    first = answer["results"][0]
    assert first["id"] == service.id("4.png")
    assert first["score"] > 0.95
    assert first["payload"]["brand"] == "zeta"
    assert first["payload"]["width"] == 96
    assert "url" not in first


def test_a_form_takes_the_image_and_the_options(service: Service) -> None:
    wanted = {"must": [{"key": "brand", "match": {"value": "acme"}}]}
    response = service.http.post(
        "/v1/search",
        files={"image": ("q.jpg", jpeg(4), "image/jpeg")},
        data={"limit": "2", "filter": json.dumps(wanted), "with_url": "true"},
    )
    assert len(keys(response)) == 2
    for result in response.json()["results"]:
        assert result["payload"]["brand"] == "acme"
        assert result["url"].startswith("https://download.test/")


def test_json_takes_the_image_as_base64(service: Service) -> None:
    text = base64.b64encode(jpeg(5)).decode()
    assert keys(service.search(image=text, limit=1)) == ["5.png"]
    assert keys(service.search(image=f"data:image/jpeg;base64,{text}", limit=1)) == ["5.png"]


def test_an_indexed_image_is_not_its_own_neighbour(service: Service) -> None:
    by_id = keys(service.search(id=service.id("4.png"), limit=100))
    similar = keys(service.http.get(f"/v1/images/{service.id('4.png')}/similar?limit=100"))
    assert by_id == similar
    assert len(by_id) == PICTURES - 1
    assert "4.png" not in by_id


def test_a_key_is_searched_with_indexed_or_not(service: Service) -> None:
    assert "4.png" not in keys(service.search(key="4.png", limit=100))
    service.bucket.put("not indexed.jpg", jpeg(4))
    assert keys(service.search(key="not indexed.jpg", limit=1)) == ["4.png"]


def test_a_vector_needs_the_fingerprint_of_its_model(service: Service) -> None:
    point = service.index.fetch(service.id("7.png"))
    assert point is not None and point.vector is not None
    vector = (point.vector * 3).tolist()
    found = service.search(vector=vector, model=service.embedder.fingerprint, limit=1)
    assert keys(found) == ["7.png"]
    assert found.json()["results"][0]["score"] == pytest.approx(1, abs=1e-4)
    refused = service.search(vector=vector, model="0" * 16)
    assert "0000000000000000" in problem(refused, 409, "model-mismatch")
    problem(service.search(vector=vector), 400, "invalid-request")
    short = service.search(vector=[1.0], model=service.embedder.fingerprint)
    assert "483 values" in problem(short, 400, "invalid-request")
    zeros = service.search(vector=[0.0] * len(vector), model=service.embedder.fingerprint)
    problem(zeros, 400, "invalid-request")


def test_pages_follow_each_other(service: Service) -> None:
    source = {"id": service.id("0.png")}
    seen: list[str] = []
    offset: int | None = 0
    while offset is not None:
        response = service.search(**source, limit=4, offset=offset)
        seen += keys(response)
        offset = response.json()["next_offset"]
    assert seen == keys(service.search(**source, limit=100))


def test_a_threshold_cuts_the_tail(service: Service) -> None:
    text = base64.b64encode(png(3)).decode()
    assert keys(service.search(image=text, score_threshold=0.98)) == ["3.png"]


def test_filters_take_ranges_and_negations(service: Service) -> None:
    wanted = {
        "must": [{"key": "price", "range": {"gte": 3, "lt": 9}}],
        "must_not": [{"key": "brand", "match": {"value": "acme"}}],
    }
    found = keys(service.search(id=service.id("0.png"), limit=100, filter=wanted))
    assert set(found) == {"4.png", "6.png", "8.png"}


@pytest.mark.parametrize(
    ("fields", "status", "slug", "said"),
    [
        ({}, 400, "invalid-request", "exactly one of"),
        ({"id": "x"}, 404, "not-indexed", "'x'"),
        ({"key": "a", "image": "aa"}, 400, "invalid-request", "image and key"),
        ({"imag": "x"}, 400, "invalid-request", "`imag`"),
        ({"key": "1.png", "limit": 0}, 400, "invalid-request", "$.limit"),
        ({"key": "1.png", "limit": 101}, 400, "invalid-request", "$.limit"),
        ({"key": "1.png", "limit": "ten"}, 400, "invalid-request", "$.limit"),
        ({"key": "1.png", "offset": -1}, 400, "invalid-request", "$.offset"),
        ({"key": "1.png", "score_threshold": 2}, 400, "invalid-request", "$.score_threshold"),
        ({"key": "1.png", "filter": {"must": 7}}, 400, "invalid-request", "filter.must[0]"),
        ({"key": "1.png", "filter": {"any": []}}, 400, "invalid-request", "'any'"),
        (
            {"key": "1.png", "filter": {"must": [{"key": "size_", "match": {"value": "x"}}]}},
            400,
            "unknown-filter-key",
            "'size_'",
        ),
        (
            {"key": "1.png", "filter": {"must": [{"key": "price", "match": {"value": "x"}}]}},
            400,
            "invalid-request",
            "range",
        ),
        ({"image": "not base64!"}, 400, "invalid-request", "base64"),
        ({"image": ""}, 422, "not-an-image", "empty"),
        ({"image": base64.b64encode(b"text").decode()}, 422, "not-an-image", "signature"),
        ({"key": "nowhere.png"}, 404, "not-indexed", "nowhere.png"),
        ({"key": "ü" * 600}, 400, "invalid-request", "1024 bytes"),
        ({"id": "00000000-0000-5000-8000-000000000000\n"}, 404, "not-indexed", "UUID"),
        ({"id": "00000000-0000-5000-8000-000000000000"}, 404, "not-indexed", "0000"),
    ],
)
def test_what_a_caller_gets_wrong_is_named(
    service: Service, fields: dict[str, Any], status: int, slug: str, said: str
) -> None:
    assert said in problem(service.search(**fields), status, slug)


@pytest.mark.parametrize(
    ("content", "slug", "status"),
    [
        (b"", "not-an-image", 422),
        (b"\xff", "not-an-image", 422),
        (jpeg(1, 640, 480)[:3000], "truncated-image", 422),
        (b"II*\x00" + bytes(99), "unsupported-format", 415),
        (encoded(Image.new("RGB", (64, 64), "red")), "no-detail", 422),
        (b"\xff\xd8\xff" + bytes(5 * 1024 * 1024), "image-too-large", 413),
        (b"\xff\xd8\xff" + bytes(9 * 1024 * 1024), "image-too-large", 413),
    ],
    ids=["empty", "1 byte", "half a JPEG", "TIFF", "flat", "5 MiB", "9 MiB"],
)
def test_a_bad_query_image_is_a_clear_error(
    service: Service, content: bytes, slug: str, status: int
) -> None:
    response = service.http.post(
        "/v1/search", content=content, headers={"content-type": "image/jpeg"}
    )
    problem(response, status, slug)
    if status == 413:
        assert response.json()["uploads"] == "/v1/uploads"
        assert "/v1/uploads" in response.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"id": "\xff"}', b"[" * 100_000, b'{"filter":' + b"[" * 5000],
)
def test_broken_json_is_refused(service: Service, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = service.http.post("/v1/search", content=body, headers=headers)
    problem(response, 400, "invalid-request")


def test_other_content_types_and_misplaced_fields_are_refused(service: Service) -> None:
    response = service.http.post("/v1/search", content=b"x", headers={"content-type": "text/csv"})
    problem(response, 415, "unsupported-format")
    problem(service.http.post("/v1/search?limit=3", json={"key": "1.png"}), 400, "invalid-request")
    headers = {"content-type": "image/png"}
    raw = service.http.post("/v1/search?limit=3&colour=red", content=png(1), headers=headers)
    assert "`colour`" in problem(raw, 400, "invalid-request")
    form = service.http.post("/v1/search", files={"file": ("a.png", png(1), "image/png")})
    assert "named image" in problem(form, 400, "invalid-request")
    headers = {"content-type": "multipart/form-data"}
    problem(service.http.post("/v1/search", content=b"x", headers=headers), 400, "invalid-request")


def test_one_image_can_be_looked_up(service: Service) -> None:
    found = service.http.get(f"/v1/images/{service.id('4.png')}").json()
    assert (found["key"], found["state"]) == ("4.png", "live")
    rejected = service.http.get(f"/v1/images/{service.id('bad.png')}").json()
    assert (rejected["state"], rejected["reason"]) == ("rejected", "not-an-image")
    for nowhere in ("x", "00000000-0000-5000-8000-000000000000", "%2e%2e"):
        problem(service.http.get(f"/v1/images/{nowhere}"), 404, "not-indexed")
    rejected_search = service.search(id=service.id("bad.png"))
    assert "rejected" in problem(rejected_search, 404, "not-indexed")


def test_status_tells_each_state(service: Service) -> None:
    def status(key: str) -> Any:
        return service.http.get("/v1/status", params={"key": key}).json()

    assert status("4.png")["state"] == "live"
    assert status("4.png")["etag"]
    assert status("bad.png")["state"] == "rejected"
    assert status("bad.png")["detail"]
    assert status("new + %2B.png") == {
        "id": service.id("new + %2B.png"),
        "key": "new + %2B.png",
        "state": "absent",
    }
    problem(service.http.get("/v1/status"), 400, "invalid-request")
    problem(service.http.get("/v1/status?key=a&x=1"), 400, "invalid-request")


def test_an_upload_ticket_fixes_key_and_type(service: Service) -> None:
    wanted = {"content_type": "image/png", "name": "a b.png", "metadata": {"brand": "x"}}
    response = service.http.post("/v1/uploads", json=wanted)
    assert response.status_code == 201
    ticket = response.json()
    assert ticket["key"].startswith("uploads/") and ticket["key"].endswith("/a b.png")
    assert ticket["fields"]["key"] == ticket["key"]
    polled = service.http.get(ticket["status_url"]).json()
    assert (polled["key"], polled["state"]) == (ticket["key"], "absent")


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        ({"content_type": "text/html"}, 400),
        ({"content_type": "image/heic"}, 415),
        ({"content_type": "image/png", "name": "../../etc"}, 400),
        ({"content_type": "image/png", "name": "a.png\n"}, 400),
        ({"content_type": "image/png", "metadata": {"secret": "x"}}, 400),
        ({}, 400),
    ],
)
def test_an_upload_of_anything_else_is_refused(
    service: Service, wanted: dict[str, Any], status: int
) -> None:
    slug = "unsupported-format" if status == 415 else "invalid-request"
    problem(service.http.post("/v1/uploads", json=wanted), status, slug)


def test_health_and_readiness_tell_process_from_index(service: Service, tmp_path: Path) -> None:
    assert service.http.get("/v1/health").json() == {"status": "ok"}
    ready = service.http.get("/v1/ready").json()
    assert (ready["points"], ready["model_name"]) == (PICTURES + 1, "fixed-filters")
    empty = Service(tmp_path / "empty")
    assert empty.http.get("/v1/health").status_code == 200
    response = empty.http.get("/v1/ready")
    assert "index an image first" in problem(response, 503, "index-missing")
    assert response.headers["retry-after"]
    empty.index.close()


def test_a_dead_index_is_503_with_retry_after(tmp_path: Path) -> None:
    dead = Service(tmp_path)
    dead.fill()
    dead.index.close()
    response = dead.http.post("/v1/search", content=png(1), headers={"content-type": "image/png"})
    problem(response, 503, "index-unavailable")
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("dim_change", [0, 7])
def test_an_index_of_another_model_is_refused_not_searched(tmp_path: Path, dim_change: int) -> None:
    service = Service(tmp_path)
    service.index.prepare("f" * 16, service.embedder.dim + dim_change)
    headers = {"content-type": "image/png"}
    refused = problem(service.http.get("/v1/ready"), 503, "model-mismatch")
    assert "To re-embed: `likeness index s3://BUCKET/`" in refused
    empty = service.http.post("/v1/search", content=png(1), headers=headers)
    problem(empty, 503, "model-mismatch")
    if not dim_change:
        put_foreign_point(service)
        noise = service.http.post("/v1/search", content=png(1), headers=headers)
        problem(noise, 503, "model-mismatch")
    service.index.close()


def put_foreign_point(service: Service) -> None:
    vector = np.ones(service.embedder.dim, np.float32)
    version = Version(1)
    point = Point(service.bucket.ref("a"), State.LIVE, version, "f" * 16, 1.0, vector=vector)
    service.index.write("f" * 16, [PointWrite(point, OlderThan(version))])


def test_what_the_index_said_is_not_told_to_callers(tmp_path: Path) -> None:
    dead = Service(tmp_path)
    dead.fill()
    dead.index.close()
    response = dead.http.get(f"/v1/images/{dead.id('1.png')}")
    assert problem(response, 503, "index-unavailable") == "the index is not answering; try again"


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=b; charset=undefined", "multipart/form-data"]
)
def test_a_form_that_cannot_be_read_is_refused(service: Service, content_type: str) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="limit"\r\n\r\n3\r\n--b--\r\n'
    headers = {"content-type": content_type}
    problem(service.http.post("/v1/search", content=body, headers=headers), 400, "invalid-request")


def test_a_trailing_slash_is_no_route(service: Service) -> None:
    response = service.http.get("/v1/health/", follow_redirects=False)
    problem(response, 404, "no-such-route")


def test_a_missing_bucket_setting_is_ours_and_not_explained_to_callers(service: Service) -> None:
    settings = replace(service.settings, bucket=None)
    logger = Logger(service="search2", logger_handler=logging.NullHandler())
    app = create_app(service.searcher, lambda: service.bucket, settings, lambda: logger)
    response = TestClient(app).get("/v1/status?key=a")
    assert "LIKENESS_BUCKET" not in problem(response, 500, "misconfigured")


def test_unknown_routes_and_methods_are_problems_too(service: Service) -> None:
    problem(service.http.get("/v1/nothing"), 404, "no-such-route")
    response = service.http.get("/v1/search")
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


def test_the_committed_openapi_document_is_current() -> None:
    committed = (ROOT / "docs" / "openapi.json").read_bytes()
    assert committed == openapi.document_json() + b"\n", "run `make openapi`"


def test_the_document_and_its_page_are_served(service: Service) -> None:
    document = service.http.get("/openapi.json").json()
    assert set(document["paths"]) == {operation.path for operation in openapi.OPERATIONS}
    page = service.http.get("/docs").text
    for operation in openapi.OPERATIONS:
        assert operation.path in page
    assert "http://" not in page and "https://" not in page


# Through API Gateway and Mangum


def proxy_event(name: str) -> Any:
    return json.loads((ROOT / "events" / f"{name}.json").read_text())


def test_the_same_app_answers_api_gateway(service: Service) -> None:
    handler = create_handler(service.app)
    event = proxy_event("api_search_image")
    event["body"] = base64.b64encode(png(6)).decode()
    answer = handler(event, Context())
    assert answer["statusCode"] == 200
    body = json.loads(answer["body"])
    assert body["results"][0]["key"] == "6.png"
    assert len(body["results"]) == 5
    assert body["request_id"] == "request-1"


def test_bad_base64_from_the_gateway_is_a_400(service: Service) -> None:
    event = proxy_event("api_search_image")
    event["body"] = "abc"
    answer = create_handler(service.app)(event, Context())
    assert answer["statusCode"] == 400
    assert answer["headers"]["content-type"] == "application/problem+json"
    assert json.loads(answer["body"])["request_id"] == "request-1"


def test_problems_leave_the_gateway_as_text(service: Service) -> None:
    answer = create_handler(service.app)(proxy_event("api_search_id"), Context())
    assert answer["statusCode"] == 404
    assert answer["isBase64Encoded"] is False
    assert json.loads(answer["body"])["type"].endswith("not-indexed")


def test_health_needs_no_index(service: Service) -> None:
    answer = create_handler(service.app)(proxy_event("api_health"), Context())
    assert (answer["statusCode"], answer["body"]) == (200, '{"status":"ok"}')
