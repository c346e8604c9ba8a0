"""The search service over HTTP: the real ASGI app, decoder, model and vector engine."""

from __future__ import annotations

import base64
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aws_lambda_powertools import Logger
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image
from starlette.testclient import TestClient

from functions.search import openapi
from functions.search.api import create_app
from functions.search.gateway import create_handler
from likeness.adapters.fetch import Fetcher, is_public
from likeness.feedback import FeedbackStore
from likeness.records import DuplicateMatch, Point, Regrouping, Relation, State, Version
from likeness.searchers import Searchers
from tests.networks import clip, text_encoder, tokenizer, write_bundle
from tests.pictures import encoded, jpeg, picture, png
from tests.service import BUNDLED, ROOT, Service
from tests.tls_server import Keys, serve, whole

PICTURES = 12
# Enough that lists go on beyond the hundred that are reranked.
MANY = 140
SIZE = (320, 240)
NOWHERE = "00000000-0000-5000-8000-000000000000"
Send = Callable[[Service, bytes, Mapping[str, Any]], Any]


class Context:
    """Lambda's context object, of which the service reads two fields."""

    aws_request_id = "request-1"

    def __init__(self, left_ms: int = 10_000) -> None:
        self._left_ms = left_ms

    def get_remaining_time_in_millis(self) -> int:
        return self._left_ms


def fill(service: Service) -> None:
    pictures = {f"{seed}.png": png(seed) for seed in range(PICTURES)}
    brands = ("zeta", "acme")
    metadata = {
        f"{seed}.png": {"brand": brands[seed % 2], "price": str(seed)} for seed in range(PICTURES)
    }
    service.fill({**pictures, "bad.png": b"no picture"}, metadata)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Twelve images of two brands, and a file that is not an image."""
    with Service(tmp_path_factory.mktemp("index")) as service:
        fill(service)
        yield service


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Larger images with the bundled model, which supports subjects and geometry."""
    with Service(tmp_path_factory.mktemp("gallery"), BUNDLED) as service:
        service.fill({f"{seed}.png": png(seed, *SIZE) for seed in range(20)})
        yield service


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """More images than are reranked, many of them identical under other keys."""
    with Service(tmp_path_factory.mktemp("crowd"), BUNDLED) as service:
        service.fill({f"{n:03}.png": png(n % (MANY // 2)) for n in range(MANY)})
        yield service


def keys(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [result["key"] for result in response.json()["results"]]


def problem(response: Any, status: int, slug: str) -> str:
    """The detail of a well-formed problem with this status and type."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == f"urn:likeness:problem:{slug}"
    assert body["status"] == status
    assert body["request_id"]
    detail: str = body["detail"]
    return detail


def text(value: Any) -> str:
    """Options as a query string or a form has them."""
    return value if isinstance(value, str) else json.dumps(value)


def send_raw(service: Service, image: bytes, options: Mapping[str, Any]) -> Any:
    params = {name: text(value) for name, value in options.items()}
    headers = {"content-type": "application/octet-stream"}
    return service.http.post("/v1/search", params=params, content=image, headers=headers)


def send_form(service: Service, image: bytes, options: Mapping[str, Any]) -> Any:
    data = {name: text(value) for name, value in options.items()}
    return service.http.post("/v1/search", files={"image": ("q", image)}, data=data)


def send_json(service: Service, image: bytes, options: Mapping[str, Any]) -> Any:
    return service.search(image=base64.b64encode(image).decode(), **options)


ways = pytest.mark.parametrize("send", [send_raw, send_form, send_json])


def test_a_raw_image_finds_the_similar_image(service: Service) -> None:
    response = service.http.post(
        "/v1/search?limit=3", content=jpeg(4), headers={"content-type": "image/jpeg"}
    )
    assert keys(response)[0] == "4.png"
    answer = response.json()
    assert len(answer["results"]) == 3
    assert answer["model"] == service.embedder.fingerprint
    assert answer["request_id"]
    assert answer["next_offset"] == 3
    stages = {"decode", "embed", "search", "rerank", "pixels", "total", "cold_start"}
    assert stages == set(answer["took_ms"])
    assert answer["skipped"] == answer["regions"] == []
    first = answer["results"][0]
    assert first["id"] == service.id("4.png")
    assert first["score"] > 0.95
    assert first["payload"]["brand"] == "zeta"
    assert first["payload"]["width"] == 96
    assert "url" not in first


def test_a_form_carries_the_image_and_the_options(service: Service) -> None:
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


def test_json_carries_the_image_as_base64(service: Service) -> None:
    text = base64.b64encode(jpeg(5)).decode()
    assert keys(service.search(image=text, limit=1)) == ["5.png"]
    assert keys(service.search(image=f"data:image/jpeg;base64,{text}", limit=1)) == ["5.png"]


def test_an_indexed_image_is_not_its_own_neighbour(service: Service) -> None:
    by_id = keys(service.search(id=service.id("4.png"), limit=100))
    similar = keys(service.http.get(f"/v1/images/{service.id('4.png')}/similar?limit=100"))
    assert by_id == similar
    assert len(by_id) == PICTURES - 1
    assert "4.png" not in by_id


def test_a_search_by_key_works_for_indexed_objects_and_others(service: Service) -> None:
    assert "4.png" not in keys(service.search(key="4.png", limit=100))
    service.bucket.put("not indexed.jpg", jpeg(4))
    assert keys(service.search(key="not indexed.jpg", limit=1)) == ["4.png"]


def test_a_vector_needs_the_fingerprint_of_its_model(service: Service) -> None:
    point = service.index.retrieve_with_vectors([service.id("7.png")])[service.id("7.png")]
    assert point.vector is not None
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


def test_a_threshold_cuts_the_tail(service: Service) -> None:
    text = base64.b64encode(png(3)).decode()
    assert keys(service.search(image=text, score_threshold=0.98)) == ["3.png"]


def test_filters_support_ranges_and_negations(service: Service) -> None:
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
        ({"key": "1.png", "offset": 10_001}, 400, "invalid-request", "$.offset"),
        ({"key": "1.png", "box": [0.5, 0, 0.4, 1]}, 400, "invalid-request", "box"),
        ({"key": "1.png", "box": [0, 0.5, 1, 0.5]}, 400, "invalid-request", "box"),
        ({"key": "1.png", "box": [0, 0, 1]}, 400, "invalid-request", "$.box"),
        ({"key": "1.png", "box": [0, 0, 1, 1.1]}, 400, "invalid-request", "$.box"),
        ({"key": "1.png", "group_by": "colour"}, 400, "unknown-filter-key", "group_by: 'colour'"),
        ({"key": "1.png", "group_size": 11}, 400, "invalid-request", "$.group_size"),
        ({"key": "1.png", "exclude": ["1.png"]}, 400, "invalid-request", "$.exclude[0]"),
        ({"key": "1.png", "rerank": "best"}, 400, "invalid-request", "$.rerank"),
        ({"key": "1.png", "diversity": 1.5}, 400, "invalid-request", "$.diversity"),
        ({"key": "1.png", "cutoff": {"method": "top"}}, 400, "invalid-request", "$.cutoff"),
        (
            {"key": "1.png", "cutoff": {"method": "relative", "value": 2}},
            400,
            "invalid-request",
            "at most 1",
        ),
        (
            {"key": "1.png", "cutoff": {"method": "gap", "value": 0.1, "at": 1}},
            400,
            "invalid-request",
            "`at`",
        ),
        ({"text": "a mug"}, 400, "invalid-request", "no text encoder"),
        ({"text": "a mug", "detect": True}, 400, "invalid-request", "need an image"),
        ({"query_id": "AAAA"}, 400, "invalid-request", "query_id"),
        ({"positive": []}, 400, "invalid-request", "$.positive"),
        ({"positive": ["x"]}, 404, "not-indexed", "'x'"),
        ({"negative": ["x"], "key": "1.png"}, 400, "invalid-request", "negative needs positive"),
        ({"image_url": "https://images.test/a"}, 400, "fetch-refused", "LIKENESS_IMAGE_URL_HOSTS"),
        ({"key": "ü" * 600}, 400, "invalid-request", "1024 bytes"),
        ({"id": f"{NOWHERE}\n"}, 404, "not-indexed", "UUID"),
        ({"id": NOWHERE}, 404, "not-indexed", "0000"),
    ],
)
def test_an_error_names_what_the_caller_got_wrong(
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
    [
        *(b"", b"{", b"[]", b"null", b'{"id": "\xff"}', b'{"key": "\\ud800"}'),
        *(b"[" * 100_000, b'{"filter":' + b"[" * 5000, b'{"vector": [1e999]}'),
    ],
)
@pytest.mark.parametrize(
    "path", ["search", "compare", "duplicates/decisions", "feedback", "uploads"]
)
def test_broken_json_is_refused(service: Service, path: str, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = service.http.post(f"/v1/{path}", content=body, headers=headers)
    problem(response, 400, "invalid-request")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("search", {"key": "1.png"}),
        ("compare", {"first": {"key": "1.png"}, "second": {"key": "2.png"}}),
        ("duplicates/decisions", {"group": "g", "id": "i", "decision": "duplicate"}),
        ("feedback", {"request_id": "r", "id": NOWHERE, "kind": "click"}),
        ("uploads", {"content_type": "image/png"}),
    ],
)
def test_an_unknown_field_is_named_wherever_it_stands(
    service: Service, path: str, body: dict[str, Any]
) -> None:
    response = service.http.post(f"/v1/{path}", json={**body, "colour": "red"})
    assert "`colour`" in problem(response, 400, "invalid-request")
    if path == "compare":
        inside = {**body, "first": {"key": "1.png", "colour": "red"}}
        response = service.http.post(f"/v1/{path}", json=inside)
        assert "`colour` - at `$.first`" in problem(response, 400, "invalid-request")
    not_json = service.http.post(f"/v1/{path}", content=b"{}", headers={"content-type": "text/x"})
    problem(not_json, 415, "unsupported-format")


@pytest.mark.parametrize("path", ["images/{id}/similar", "duplicates", "status"])
def test_an_unknown_parameter_is_named(service: Service, path: str) -> None:
    path = path.format(id=service.id("1.png"))
    response = service.http.get(f"/v1/{path}?key=a&colour=red&limit=1")
    unknown = "key" if path != "status" else "colour"
    assert f"`{unknown}`" in problem(response, 400, "invalid-request")


@pytest.mark.parametrize("send", [send_raw, send_form])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"colour": "red"}, "`colour`"),
        ({"limit": 0}, "$.limit"),
        ({"limit": "many"}, "$.limit"),
        ({"offset": 10_001}, "$.offset"),
        ({"score_threshold": "nan"}, "$.score_threshold"),
        ({"box": [0.9, 0, 0.1, 1]}, "box"),
        ({"box": "0,0,1,1"}, "box: "),
        ({"filter": "{"}, "filter: "),
        ({"filter": "[" * 5000}, "filter: "),
        ({"exclude": ["x"]}, "$.exclude[0]"),
        ({"cutoff": {"method": "gap"}}, "$.cutoff"),
    ],
)
def test_options_sent_with_an_image_are_validated_too(
    service: Service, send: Send, options: dict[str, Any], said: str
) -> None:
    assert said in problem(send(service, png(1), options), 400, "invalid-request")


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


def test_one_image_is_returned_by_its_id(service: Service) -> None:
    found = service.http.get(f"/v1/images/{service.id('4.png')}").json()
    assert (found["key"], found["state"]) == ("4.png", "live")
    rejected = service.http.get(f"/v1/images/{service.id('bad.png')}").json()
    assert (rejected["state"], rejected["reason"]) == ("rejected", "not-an-image")
    for nowhere in ("x", NOWHERE, "%2e%2e"):
        problem(service.http.get(f"/v1/images/{nowhere}"), 404, "not-indexed")
    rejected_search = service.search(id=service.id("bad.png"))
    assert "rejected" in problem(rejected_search, 404, "not-indexed")


def test_status_reports_each_state(service: Service) -> None:
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
        ({"content_type": "image/png", "name": "${filename}"}, 400),
        ({"content_type": "image/png", "metadata": {"brand": "a\r\nb"}}, 400),
        ({"content_type": "image/png", "metadata": {"brand": "a\n"}}, 400),
        ({"content_type": "image/png", "metadata": {"brand": "a" * 2048}}, 400),
        # 1,600 bytes, and 2,132 as S3 keeps them
        ({"content_type": "image/png", "metadata": {"brand": "Ø" * 800}}, 400),
        ({"content_type": "image/png", "metadata": {"secret": "x"}}, 400),
        ({}, 400),
    ],
)
def test_an_upload_of_anything_else_is_refused(
    service: Service, wanted: dict[str, Any], status: int
) -> None:
    slug = "unsupported-format" if status == 415 else "invalid-request"
    problem(service.http.post("/v1/uploads", json=wanted), status, slug)


def test_a_field_given_twice_is_refused_by_name(service: Service) -> None:
    answer = service.http.post("/v1/search?limit=5&limit=50", content=encoded(picture(1)))
    said = problem(answer, 415, "unsupported-format")
    answer = service.http.post(
        "/v1/search?limit=5&limit=50",
        content=encoded(picture(1)),
        headers={"content-type": "image/png"},
    )
    assert "limit is given more than once" in problem(answer, 400, "invalid-request")
    assert "image/" in said
    answer = service.http.post(
        "/v1/search",
        files={"image": ("q.jpg", jpeg(4), "image/jpeg")},
        data={"limit": ["5", "50"]},
    )
    assert "limit is given more than once" in problem(answer, 400, "invalid-request")


def test_a_query_id_finds_what_its_image_found(service: Service) -> None:
    for number in range(1, 4):
        sent = send_raw(service, encoded(picture(number)), {"limit": 50}).json()
        again = service.search(query_id=sent["query_id"], limit=50).json()
        assert [r["id"] for r in again["results"]] == [r["id"] for r in sent["results"]]
        assert [r.get("verdict") for r in again["results"]] == [
            r.get("verdict") for r in sent["results"]
        ]


def test_health_needs_only_the_process_and_readiness_the_index(
    service: Service, tmp_path: Path
) -> None:
    assert service.http.get("/v1/health").json() == {"status": "ok"}
    ready = service.http.get("/v1/ready").json()
    assert (ready["points"], ready["model_name"]) == (PICTURES + 1, "fixed-filters")
    empty = Service(tmp_path / "empty")
    assert empty.http.get("/v1/health").status_code == 200
    response = empty.http.get("/v1/ready")
    assert "index an image first" in problem(response, 503, "index-missing")
    assert response.headers["retry-after"]
    empty.index.close()


@pytest.mark.double("a closed folder stands for a server that is down")
def test_a_dead_index_is_503_with_retry_after(tmp_path: Path) -> None:
    dead = Service(tmp_path)
    fill(dead)
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
    assert "change models with `likeness migrate start`" in refused
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
    service.index.write("f" * 16, [point])


@pytest.mark.double("a closed folder stands for a server that is down")
def test_messages_of_the_index_are_hidden_from_callers(tmp_path: Path) -> None:
    dead = Service(tmp_path)
    fill(dead)
    dead.index.close()
    response = dead.http.get(f"/v1/images/{dead.id('1.png')}")
    assert problem(response, 503, "index-unavailable") == "the index is not answering; try again"


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=b; charset=undefined",
        "multipart/form-data; boundary=b; charset=unicode_escape",
        "multipart/form-data",
    ],
)
def test_an_unreadable_form_is_refused(service: Service, content_type: str) -> None:
    """One charset decodes a plain text to half a surrogate pair."""
    part = b"--b\r\nContent-Disposition: form-data; name="
    image = part + b'"image"; filename="q.png"\r\n\r\n' + png(1)
    body = part + b'"filter"\r\n\r\n"\\ud800"\r\n' + image + b"\r\n--b--\r\n"
    headers = {"content-type": content_type}
    problem(service.http.post("/v1/search", content=body, headers=headers), 400, "invalid-request")


def test_a_trailing_slash_is_not_a_route(service: Service) -> None:
    response = service.http.get("/v1/health/", follow_redirects=False)
    problem(response, 404, "no-such-route")


def test_a_missing_bucket_setting_is_a_500_without_details(service: Service) -> None:
    unset = replace(service.settings, bucket=None)
    logger = Logger(service="search2", logger_handler=logging.NullHandler())
    searchers = Searchers(service.index, [service.searcher])
    app = create_app(searchers, service.index, lambda: service.bucket, unset, lambda: logger)
    response = TestClient(app).get("/v1/status?key=a")
    assert "LIKENESS_BUCKET" not in problem(response, 500, "misconfigured")


def test_unknown_routes_and_methods_are_problems_too(service: Service) -> None:
    problem(service.http.get("/v1/nothing"), 404, "no-such-route")
    response = service.http.get("/v1/search")
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


def test_the_committed_openapi_document_is_current() -> None:
    committed = (ROOT / "docs" / "reference" / "openapi.json").read_bytes()
    assert committed == openapi.document_json() + b"\n", "run `make openapi`"


def test_the_document_and_its_page_are_served(service: Service) -> None:
    document = service.http.get("/openapi.json").json()
    assert set(document["paths"]) == {operation.path for operation in openapi.OPERATIONS}
    page = service.http.get("/docs").text
    for operation in openapi.OPERATIONS:
        assert operation.path in page
    assert "http://" not in page and "https://" not in page


# What a query can be


@ways
def test_each_way_of_sending_an_image_gives_the_same_answer(service: Service, send: Send) -> None:
    options = {
        "limit": 3,
        "offset": 1,
        "filter": {"must": [{"key": "price", "range": {"lt": 9}}]},
        "score_threshold": -0.5,
        "rerank": "fast",
        "box": [0, 0.25, 0.75, 1],
        "subject": False,
        "group_by": "brand",
        "group_size": 3,
        "exclude": [service.id("3.png")],
        "cutoff": {"method": "relative", "value": 0.01},
        "diversity": 0.2,
        "explain": True,
        "with_payload": False,
        "with_url": True,
    }
    answer = send(service, png(4), options)
    assert keys(answer) == keys(send_json(service, png(4), options))
    assert len(keys(answer)) == 3
    assert answer.json()["box"] == [0, 0.25, 0.75, 1]
    for result in answer.json()["results"]:
        assert result.keys() >= {"verdict", "explain", "group", "url"}
        assert "payload" not in result


def test_an_answers_query_id_repeats_the_query(gallery: Service) -> None:
    first = send_raw(gallery, png(4, *SIZE), {"subject": False}).json()
    assert "embed" in first["took_ms"]
    again = gallery.search(query_id=first["query_id"])
    assert not {"decode", "embed"} & again.json()["took_ms"].keys()
    # it carries a third of the local descriptors: what is not alike may change places
    best, same = first["results"][0], again.json()["results"][0]
    assert (same["key"], same["verdict"]) == (best["key"], best["verdict"]) == ("4.png", "exact")
    assert same["score"] == pytest.approx(best["score"], abs=1e-3)
    by_image = send_raw(gallery, png(4, *SIZE), {"rerank": "none", "limit": 100})
    by_token = gallery.search(query_id=first["query_id"], rerank="none", limit=100)
    assert scores(by_token) == pytest.approx(scores(by_image), abs=1e-3)
    second_page = gallery.search(query_id=first["query_id"], offset=first["next_offset"])
    assert not set(keys(again)) & set(keys(second_page))
    with_box = gallery.search(query_id=first["query_id"], box=[0, 0, 1, 0.5])
    assert "need an image" in problem(with_box, 400, "invalid-request")


def scores(response: Any) -> dict[str, float]:
    return {result["key"]: result["score"] for result in response.json()["results"]}


def test_a_query_id_of_another_model_is_a_conflict(service: Service, gallery: Service) -> None:
    token = send_raw(gallery, png(4), {}).json()["query_id"]
    assert gallery.embedder.fingerprint in problem(
        service.search(query_id=token), 409, "model-mismatch"
    )
    compared = service.compare({"query_id": token}, {"key": "1.png"})
    problem(compared, 409, "model-mismatch")


@pytest.mark.parametrize("place", range(0, 1000, 37))
def test_a_query_id_that_was_tampered_with_is_a_client_error(service: Service, place: int) -> None:
    token = send_raw(service, png(4), {}).json()["query_id"]
    other = "A" if token[place] != "A" else "_"
    answer = service.search(query_id=token[:place] + other + token[place + 1 :])
    assert answer.status_code in (200, 400, 409)
    problem(service.search(query_id=token[:place]), 400, "invalid-request")


@pytest.fixture
def tls(keys: Keys) -> Keys:
    """A fixture under a name that no function has here."""
    return keys


def fetching(tls: Keys, port: int, **options: Any) -> Fetcher:
    usual: dict[str, Any] = {
        "resolve": lambda name: ["127.0.0.1"],
        "is_public": lambda address: True,
        "ssl_context": tls.trusting(),
        "ports": [port],
    }
    return Fetcher(["images.test"], **(usual | options))


def test_an_image_is_fetched_from_a_listed_host(tls: Keys, tmp_path: Path) -> None:
    with serve([whole(jpeg(4))], tls.serving("signed")) as peer:
        url = f"https://images.test:{peer.port}/a.jpg"
        with Service(tmp_path, fetch=fetching(tls, peer.port).fetch) as service:
            fill(service)
            assert keys(service.search(image_url=url, limit=1)) == ["4.png"]
            compared = service.compare({"image_url": url}, {"key": "4.png"}).json()
            assert compared["score"] > 0.95
            elsewhere = service.search(image_url=url.replace("images", "other"))
            assert "other.test" in problem(elsewhere, 400, "fetch-refused")
            plain = service.search(image_url=url.replace("https", "http"))
            assert "https" in problem(plain, 400, "fetch-refused")
            assert peer.connections == 2


def test_a_listed_host_with_a_private_address_is_never_contacted(tls: Keys, tmp_path: Path) -> None:
    with serve([whole(jpeg(4))], tls.serving("signed")) as peer:
        fetcher = fetching(tls, peer.port, is_public=is_public)
        with Service(tmp_path, fetch=fetcher.fetch) as service:
            answer = service.search(image_url=f"https://images.test:{peer.port}/")
            assert "public addresses" in problem(answer, 400, "fetch-refused")
        assert peer.connections == 0


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        (b"a page", 422, "not-an-image"),
        (b"\xff\xd8\xff" + bytes(5 * 1024 * 1024), 413, "image-too-large"),
    ],
    ids=["a page", "5 MiB"],
)
def test_a_fetched_image_must_keep_the_same_limits(
    tls: Keys, tmp_path: Path, body: bytes, status: int, slug: str
) -> None:
    with (
        serve([whole(body)], tls.serving("signed")) as peer,
        Service(tmp_path, fetch=fetching(tls, peer.port).fetch) as service,
    ):
        answer = service.search(image_url=f"https://images.test:{peer.port}/")
        problem(answer, status, slug)


def test_a_text_finds_images_where_the_model_has_a_text_encoder(tmp_path: Path) -> None:
    files = {
        "image.onnx": clip().SerializeToString(),
        "text.onnx": text_encoder(length=8).SerializeToString(),
        "tokenizer.json": tokenizer().to_str().encode(),
    }
    bundle = write_bundle(tmp_path, files, text={"length": 8})
    with Service(tmp_path / "index", bundle, calibrated=False) as service:
        fill(service)
        assert service.http.get("/v1/config").json()["text"] is True
        first, other = service.search(text="a mug", limit=100), service.search(text="a lamp")
        found = {result["key"]: result["score"] for result in first.json()["results"]}
        assert len(found) == PICTURES
        assert keys(first) == sorted(found, key=lambda key: -found[key])
        assert keys(first)[:10] != keys(other)
        assert keys(service.search(query_id=first.json()["query_id"], limit=100)) == keys(first)


def test_positive_examples_attract_and_negative_ones_repel(service: Service) -> None:
    def score(key: str, **examples: list[str]) -> float:
        answer = service.search(**examples, limit=100, rerank="none")
        assert not set(examples["positive"]) & set(ids(answer))
        return scores(answer)[key]

    one, two, copy = (service.id(key) for key in ("1.png", "2.png", "3.png"))
    liked = score("3.png", positive=[one, two])
    assert score("3.png", positive=[one], negative=[two]) != pytest.approx(liked, abs=1e-3)
    assert copy in ids(service.search(positive=[one, two], limit=100))
    rejected = service.search(positive=[service.id("bad.png")])
    assert "rejected" in problem(rejected, 404, "not-indexed")
    opposite = service.search(positive=[one], negative=[one, one], limit=1)
    assert opposite.status_code == 200


def ids(response: Any) -> list[str]:
    assert response.status_code == 200, response.text
    return [result["id"] for result in response.json()["results"]]


# What is shown of the neighbours


@ways
def test_a_box_searches_with_a_part_of_the_image_only(gallery: Service, send: Send) -> None:
    collage = Image.new("RGB", (640, 240))
    collage.paste(picture(4, *SIZE), (0, 0))
    collage.paste(picture(7, *SIZE), (320, 0))
    left = send(gallery, encoded(collage), {"box": [0, 0, 0.5, 1], "limit": 1})
    right = send(gallery, encoded(collage), {"box": [0.5, 0, 1, 1], "limit": 1})
    assert (keys(left), keys(right)) == (["4.png"], ["7.png"])
    assert right.json()["box"] == [0.5, 0, 1, 1]
    again = gallery.search(query_id=right.json()["query_id"], limit=1)
    assert (keys(again), again.json()["box"]) == (["7.png"], [0.5, 0, 1, 1])


def test_a_box_of_an_indexed_image_is_read_from_the_bucket(gallery: Service) -> None:
    crop = picture(4, *SIZE).crop((0, 0, 160, 240))
    by_crop = send_raw(gallery, encoded(crop), {"rerank": "none", "limit": 100})
    for source in ({"id": gallery.id("4.png")}, {"key": "4.png"}):
        boxed = gallery.search(**source, box=[0, 0, 0.5, 1], rerank="none", limit=100)
        assert keys(boxed) == [key for key in keys(by_crop) if key != "4.png"]
    path = f"/v1/images/{gallery.id('4.png')}/similar?box=[0,0,.5,1]&rerank=none&limit=100"
    assert "box: " in problem(gallery.http.get(path), 400, "invalid-request")
    similar = gallery.http.get(path.replace(".5", "0.5"))
    assert keys(similar) == keys(boxed)


def test_a_subject_is_searched_in_addition_to_the_whole_image(gallery: Service) -> None:
    scene = Image.new("RGB", (640, 480), (200, 200, 190))
    scene.paste(picture(4, *SIZE).resize((240, 180)), (200, 150))
    with_subject = send_raw(gallery, encoded(scene), {})
    left, top, right, bottom = with_subject.json()["box"]
    assert 0 < left < 200 / 640 and 440 / 640 < right < 1
    assert 0 < top < 150 / 480 and 330 / 480 < bottom < 1
    assert keys(with_subject)[0] == "4.png"
    frame = send_raw(gallery, encoded(scene), {"subject": False}).json()
    assert frame["box"] == [0, 0, 1, 1]
    better = with_subject.json()["results"][0]
    [plain] = [result for result in frame["results"] if result["key"] == "4.png"]
    assert better["score"] > plain["score"]


@ways
def test_each_object_in_an_image_gets_its_own_results(gallery: Service, send: Send) -> None:
    scene = Image.new("RGB", (900, 600), "white")
    scene.paste(picture(4, *SIZE), (40, 40))
    scene.paste(picture(7, *SIZE), (540, 330))
    answer = send(gallery, encoded(scene), {"detect": True, "limit": 3, "explain": True}).json()
    assert {"4.png", "7.png"} <= {region["results"][0]["key"] for region in answer["regions"]}
    for region in answer["regions"]:
        alone = send(gallery, encoded(scene), {"box": region["box"], "limit": 3})
        # a box is looked at with more pixels than the parts of a whole picture are
        assert region["results"][0]["key"] == keys(alone)[0]
        assert len(region["results"]) == 3
        assert region["results"][0]["explain"]["scores"]
    assert (answer["results"], answer["next_offset"], answer["query_id"]) == ([], None, None)


def test_an_explanation_shows_the_matching_regions(gallery: Service) -> None:
    """The query is the left half of an indexed image."""
    half = encoded(picture(4, *SIZE).crop((0, 0, 160, 240)), "JPEG", quality=85)
    best = send_raw(gallery, half, {"explain": "true", "subject": "false"}).json()["results"][0]
    assert (best["key"], best["verdict"]) == ("4.png", "edited")
    explain = best["explain"]
    assert explain["inliers"] >= 10
    assert explain["overlap_query"] > 80
    assert explain["overlap_target"] == pytest.approx(50, abs=15)
    [match] = explain["matches"]
    assert match["target"][2] < 0.65 < match["query"][2]
    assert explain["scores"].keys() == {"cosine", "refinement", "geometry"}
    assert explain["scores"]["cosine"] == best["score"]
    silent = send_raw(gallery, half, {}).json()["results"][0]
    assert "explain" not in silent


def test_verdicts_come_with_every_profile_but_none(gallery: Service) -> None:
    exact = png(4, *SIZE)
    for profile in ("fast", "precise"):
        best = send_raw(gallery, exact, {"rerank": profile}).json()["results"][0]
        assert (best["key"], best["verdict"], best["probability"]) == ("4.png", "exact", 1.0)
        assert "rerank_score" in best
    copy = send_raw(gallery, jpeg(4, *SIZE), {}).json()["results"][0]
    assert (copy["key"], copy["verdict"]) == ("4.png", "copy")
    other = send_raw(gallery, jpeg(99, *SIZE), {}).json()["results"]
    assert {result["verdict"] for result in other} & {"exact", "copy", "edited"} == set()
    plain = send_raw(gallery, exact, {"rerank": "none"}).json()["results"][0]
    assert not plain.keys() & {"verdict", "probability", "rerank_score"}


def test_group_by_gives_one_result_for_each_value_of_a_key(service: Service) -> None:
    one = service.search(key="1.png", group_by="brand", rerank="none").json()
    assert [result["group"] for result in one["results"]] == [
        result["payload"]["brand"] for result in one["results"]
    ]
    assert sorted(result["group"] for result in one["results"]) == ["acme", "zeta"]
    three = service.search(key="1.png", group_by="brand", group_size=3, rerank="none").json()
    groups = [result["group"] for result in three["results"]]
    assert groups == [groups[0]] * 3 + [groups[3]] * 3 and groups[0] != groups[3]
    nearest = keys(service.search(key="1.png", limit=1, rerank="none"))
    assert [one["results"][0]["key"]] == [three["results"][0]["key"]] == nearest


def test_excluded_ids_are_replaced_by_other_results(service: Service) -> None:
    first = service.search(key="1.png", limit=3)
    without = service.search(key="1.png", limit=2, exclude=[ids(first)[0], NOWHERE])
    assert len(keys(without)) == 2
    assert ids(first)[0] not in ids(without)
    everything = [service.id(f"{n}.png") for n in range(PICTURES)]
    assert keys(service.search(key="1.png", exclude=everything)) == []


def test_a_cutoff_ends_the_list_early(service: Service) -> None:
    full = service.search(key="1.png", limit=100, rerank="none").json()["results"]
    scores = [result["score"] for result in full]
    share = scores[4] / scores[0] - 1e-4
    relative = {"method": "relative", "value": share}
    cut = service.search(key="1.png", limit=100, rerank="none", cutoff=relative)
    assert len(keys(cut)) == 5
    assert cut.json()["next_offset"] is None
    falls = [high - low for high, low in itertools.pairwise(scores)]
    gap = {"method": "gap", "value": max(falls) - 1e-6}
    cut = service.search(key="1.png", limit=100, rerank="none", cutoff=gap)
    assert len(keys(cut)) == falls.index(max(falls)) + 1


def test_diversity_keeps_the_best_result_and_moves_its_duplicates_down(crowd: Service) -> None:
    """Each image of the crowd is indexed twice."""

    def pictures(diversity: float) -> list[int]:
        answer = crowd.search(id=crowd.id("000.png"), limit=20, diversity=diversity)
        return [int(key[:3]) % (MANY // 2) for key in keys(answer)]

    assert pictures(0.0)[0] == pictures(0.3)[0] == 0
    assert len(set(pictures(0.0))) < 15
    assert len(set(pictures(0.3))) > len(set(pictures(0.0)))


def test_the_caller_chooses_what_a_result_contains(service: Service) -> None:
    [bare] = service.search(key="1.png", limit=1, with_payload=False).json()["results"]
    assert "payload" not in bare and "url" not in bare
    [full] = service.search(key="1.png", limit=1, with_url=True).json()["results"]
    assert full["payload"].keys() >= {"brand", "price", "width"}
    assert full["url"].startswith("https://")


def walk(service: Service, sizes: list[int], **query: Any) -> list[str]:
    """The ids of all pages, whose sizes are cycled through."""
    found: list[str] = []
    offset: int | None = 0
    turn = 0
    while offset is not None:
        answer = service.search(**query, limit=sizes[turn % len(sizes)], offset=offset)
        page = ids(answer)
        assert len(page) == sizes[turn % len(sizes)] or answer.json()["next_offset"] is None
        found += page
        offset, turn = answer.json()["next_offset"], turn + 1
    return found


@pytest.mark.parametrize("profile", ["none", "fast", "precise"])
@given(sizes=st.lists(st.integers(15, 100), min_size=1, max_size=4), seed=st.integers(0, MANY - 1))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_pages_of_any_sizes_join_to_one_list(
    crowd: Service, profile: str, sizes: list[int], seed: int
) -> None:
    query = {"id": crowd.id(f"{seed:03}.png"), "rerank": profile}
    expected = walk(crowd, [100], **query)
    assert len(set(expected)) == len(expected) == MANY - 1
    assert walk(crowd, sizes, **query) == expected


@pytest.mark.parametrize("profile", ["fast", "precise"])
def test_pages_join_where_one_result_is_clearly_right(gallery: Service, profile: str) -> None:
    """The number of verified results depends on the page; the order must not."""
    scene = picture(77, 640, 480)  # on a plain ground it would be cut to what is pasted
    scene.paste(picture(4, *SIZE), (60, 200))
    gallery.fill({"scene.png": encoded(scene)})
    answer = send_raw(gallery, encoded(scene, "JPEG", quality=90), {"subject": False}).json()
    first, second = answer["results"][:2]
    assert first["key"] == "scene.png"
    assert first["score"] > 0.95
    assert first["score"] - second["score"] > 0.1
    query = {"query_id": answer["query_id"], "rerank": profile}
    full = walk(gallery, [100], **query)
    for size in (1, 3, 7):
        assert walk(gallery, [size], **query) == full
    gallery.remove("scene.png")


def test_a_grouped_cut_or_diversified_list_is_paged_too(crowd: Service) -> None:
    for options in (
        {"diversity": 0.5},
        {"cutoff": {"method": "relative", "value": 0.1}},
        {"score_threshold": 0.5},
    ):
        query = {"id": crowd.id("005.png"), **options}
        assert walk(crowd, [7, 30], **query) == walk(crowd, [100], **query)


# Two pictures, duplicates, opinions


def test_two_images_are_compared(gallery: Service) -> None:
    half = base64.b64encode(encoded(picture(4, *SIZE).crop((0, 0, 160, 240)))).decode()
    answer = gallery.compare({"image": half}, {"id": gallery.id("4.png")}).json()
    assert answer["verdict"] == "edited"
    assert answer["model"] == gallery.embedder.fingerprint
    assert answer["explain"]["overlap_query"] > answer["explain"]["overlap_target"]
    assert answer["explain"]["scores"]["cosine"] == answer["score"]
    same = gallery.compare({"key": "4.png"}, {"key": "4.png"}).json()
    assert (same["verdict"], same["score"]) == ("exact", pytest.approx(1, abs=1e-3))
    boxed = gallery.compare({"key": "4.png", "box": [0, 0, 0.5, 1]}, {"image": half}).json()
    assert boxed["score"] > answer["score"]
    token = gallery.search(key="4.png").json()["query_id"]
    by_token = gallery.compare({"query_id": token}, {"key": "5.png"}).json()
    assert by_token["verdict"] not in {"exact", "copy", "edited"}


@pytest.mark.parametrize(
    ("first", "status", "slug", "said"),
    [
        ({}, 400, "invalid-request", "exactly one of"),
        ({"key": "1.png", "id": "x"}, 400, "invalid-request", "id and key"),
        ({"text": "a mug"}, 400, "invalid-request", "`text`"),
        ({"key": "1.png", "box": [1, 0, 0, 1]}, 400, "invalid-request", "box"),
        ({"key": "nowhere.png"}, 404, "not-indexed", "nowhere.png"),
        ({"id": NOWHERE}, 404, "not-indexed", NOWHERE),
        ({"image": "AAAA"}, 422, "not-an-image", "signature"),
        ({"image_url": "https://a.test/"}, 400, "fetch-refused", "LIKENESS_IMAGE_URL_HOSTS"),
    ],
)
def test_an_error_names_what_cannot_be_compared(
    service: Service, first: dict[str, Any], status: int, slug: str, said: str
) -> None:
    fine = {"key": "1.png"}
    assert said in problem(service.compare(first, fine), status, slug)
    assert said in problem(service.compare(fine, first), status, slug)


def test_duplicates_are_listed_and_decided(tmp_path: Path) -> None:
    with Service(tmp_path, BUNDLED) as service:
        service.fill({f"{seed}.png": png(seed, *SIZE) for seed in range(4)})
        assert duplicates(service) == {}
        service.fill({"2 again.jpg": jpeg(2, *SIZE), "2 same.png": png(2, *SIZE)})
        groups = service.http.get("/v1/duplicates").json()["groups"]
        [group] = groups
        assert group["original"] == {"id": service.id("2.png"), "key": "2.png"}
        verdicts = {member["key"]: member["verdict"] for member in group["copies"]}
        assert verdicts == {"2 again.jpg": "copy", "2 same.png": "exact"}
        decision = {
            "group": group["id"],
            "id": service.id("2 again.jpg"),
            "decision": "not_duplicate",
        }
        for _ in range(2):
            answer = service.http.post("/v1/duplicates/decisions", json=decision)
            assert answer.json() == {"status": "ok"}
            assert duplicates(service) == {"2.png": {"2 same.png"}}
        decision["decision"] = "duplicate"
        service.http.post("/v1/duplicates/decisions", json=decision)
        assert duplicates(service) == {"2.png": {"2 again.jpg", "2 same.png"}}
        for wrong, status, slug in (
            ({"id": NOWHERE}, 404, "not-indexed"),
            ({"id": "x"}, 404, "not-indexed"),
            ({"id": service.id("1.png")}, 400, "invalid-request"),
            ({"group": "another"}, 400, "invalid-request"),
            ({"decision": "maybe"}, 400, "invalid-request"),
        ):
            answer = service.http.post("/v1/duplicates/decisions", json=decision | wrong)
            problem(answer, status, slug)


def test_a_copy_that_was_indexed_before_its_original_has_a_verdict_too(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.bucket.put("older.png", png(2, *SIZE))
        late, service.bucket.events = service.bucket.events, []
        service.fill({"newer.jpg": jpeg(2, *SIZE)})
        service.bucket.events = late
        service.fill({})
        [group] = service.http.get("/v1/duplicates").json()["groups"]
        assert group["original"] == {"id": service.id("older.png"), "key": "older.png"}
        [copy] = group["copies"]
        assert (copy["key"], copy["verdict"]) == ("newer.jpg", "copy")


def test_variants_are_listed_apart_from_duplicates(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        service.fill({"red.png": png(1, *SIZE), "blue.png": png(2, *SIZE)})
        red, blue = (
            service.index.retrieve_with_vectors([service.id(key)])[service.id(key)]
            for key in ("red.png", "blue.png")
        )
        match = DuplicateMatch(red.id, red.ref.key, "variant", 0.93)
        version = Version(blue.version.sequencer, blue.version.rev + 1)
        changed = replace(blue, version=version, variants=(match,))
        service.index.write(service.embedder.fingerprint, [changed])
        regrouping = Regrouping(Relation.VARIANT, "reds", red, [], [red, changed])
        service.index.regroup(service.embedder.fingerprint, [regrouping])
        [group] = service.http.get("/v1/duplicates?relation=variant").json()["groups"]
        assert (group["id"], group["original"]["key"]) == ("reds", "red.png")
        assert group["copies"] == [
            {"id": blue.id, "key": "blue.png", "verdict": "variant", "probability": 0.93}
        ]
        for query in ("", "?relation=duplicate"):
            assert service.http.get(f"/v1/duplicates{query}").json()["groups"] == []
        problem(service.http.get("/v1/duplicates?relation=other"), 400, "invalid-request")


def duplicates(service: Service) -> dict[str, set[str]]:
    """The keys of the copies by that of their original, read in pages of one copy."""
    found: dict[str, set[str]] = {}
    cursor: str | None = ""
    while cursor is not None:
        more = f"&cursor={cursor}" if cursor else ""
        answer = service.http.get(f"/v1/duplicates?limit=1{more}")
        assert answer.status_code == 200, answer.text
        for group in answer.json()["groups"]:
            assert group["original"]["key"] not in found
            found[group["original"]["key"]] = {member["key"] for member in group["copies"]}
        cursor = answer.json()["next_cursor"]
    return found


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "cursor=x", "cursor="])
def test_the_page_size_of_duplicates_is_limited(service: Service, query: str) -> None:
    problem(service.http.get(f"/v1/duplicates?{query}"), 400, "invalid-request")


def test_feedback_is_stored_with_its_request(tmp_path: Path) -> None:
    with Service(tmp_path) as service:
        fill(service)
        answer = service.search(key="1.png", limit=2).json()
        first, second = answer["results"]
        opinion = {"request_id": answer["request_id"], "query_id": answer["query_id"]}
        for result, kind in ((first, "click"), (first, "relevant"), (second, "not_relevant")):
            told = {**opinion, "id": result["id"], "kind": kind}
            for _ in range(2):
                assert service.http.post("/v1/feedback", json=told).json() == {"status": "ok"}
        kept = {(found.id, found.kind): found for found in FeedbackStore(service.index).all()}
        assert kept.keys() == {
            (first["id"], "click"),
            (first["id"], "relevant"),
            (second["id"], "not_relevant"),
        }
        for found in kept.values():
            assert found.request_id == answer["request_id"]
            assert found.query_id == answer["query_id"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"kind": "like"}, "$.kind"),
        ({"id": "x"}, "$.id"),
        ({"request_id": ""}, "$.request_id"),
        ({"query_id": "x" * 70_000}, "$.query_id"),
        ({"query_id": "made up"}, "query_id"),
    ],
)
def test_malformed_feedback_is_refused(service: Service, wrong: dict[str, Any], said: str) -> None:
    told = {"request_id": "r", "id": NOWHERE, "kind": "click"} | wrong
    answer = service.http.post("/v1/feedback", json=told)
    assert said in problem(answer, 400, "invalid-request")


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


def answer_within(service: Service, left_ms: int) -> dict[str, Any]:
    event = proxy_event("api_search_image")
    event["body"] = base64.b64encode(jpeg(6, *SIZE)).decode()
    answer = create_handler(service.app)(event, Context(left_ms))
    assert answer["statusCode"] == 200
    body: dict[str, Any] = json.loads(answer["body"])
    return body


def test_stages_that_would_miss_lambdas_deadline_are_skipped_and_named(gallery: Service) -> None:
    hurried, calm = answer_within(gallery, 500), answer_within(gallery, 60_000)
    assert (hurried["skipped"], calm["skipped"]) == (["geometry", "refinement"], [])
    assert hurried["results"][0]["key"] == calm["results"][0]["key"] == "6.png"
    assert "verdict" not in hurried["results"][0]
    assert calm["results"][0]["verdict"] == "copy"
