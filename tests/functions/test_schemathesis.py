"""The OpenAPI document's promises, checked against the app with generated requests: valid ones and
others, at the bounds and at random. Whatever is sent, the answer is one that is documented.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from functions.search import openapi
from tests.pictures import jpeg, png
from tests.service import Service

PICTURES = 6
EXAMPLES = 30
PROMISES = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SOURCES = ("vector", "positive", "query_id", "id", "image", "key", "text", "image_url")
NEED_A_SOURCE = (*SOURCES, "model", "negative", "box", "detect")

schemathesis.openapi.media_type(
    "image/*", st.sampled_from([png(1), jpeg(2), png(3)[:200]]) | st.binary(max_size=64)
)


def generating(mode: str) -> Any:
    """The bounds of every field have tests of their own: that phase would take minutes."""
    config = {"generation": {"mode": mode}, "phases": {"coverage": {"enabled": False}}}
    return schemathesis.openapi.from_dict(
        openapi.document(), config=SchemathesisConfig.from_dict(config)
    )


anything, valid = generating("all"), generating("positive")
bounded = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("index")) as service:
        service.fill(
            {f"{seed}.png": png(seed) for seed in range(PICTURES)},
            {"1.png": {"brand": "acme", "price": "3"}},
        )
        service.fill({"again.jpg": jpeg(1)})
        anything.app = valid.app = service.app
        yield service


@pytest.fixture(scope="module")
def known(service: Service) -> dict[str, Any]:
    """Values that name existing things."""
    [group] = service.http.get("/v1/duplicates").json()["groups"]
    return {
        "id": service.id("again.jpg"),
        "key": "1.png",
        "group": group["id"],
        "group_by": "brand",
        "filter": {"must": [{"key": "price", "range": {"gte": 1}}]},
        "box": [0.1, 0.0, 0.9, 1.0],
        "query_id": service.search(key="2.png").json()["query_id"],
        "vector": [1.0] * service.embedder.dim,
        "model": service.embedder.fingerprint,
        "positive": [service.id("1.png"), service.id("2.png")],
        "negative": [service.id("3.png")],
        "image": base64.b64encode(png(2)).decode(),
        "metadata": {"brand": "acme"},
    }


def named(fields: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The same with existing ids and keys."""
    return {name: known.get(name, value) for name, value in fields.items()}


def as_query(fields: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The same with only one source, and no option that conflicts with it."""
    source = next((name for name in SOURCES if name in fields), "key")
    options = {name: value for name, value in fields.items() if name not in NEED_A_SOURCE}
    if source in ("key", "id", "image"):
        options |= {name: fields[name] for name in ("box", "detect") if name in fields}
    beside = {"vector": ["model"], "positive": ["negative"]}.get(source, [])
    return named({name: fields.get(name) for name in [source, *beside]} | options, known)


def as_texts(fields: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Options of a query string or a form, some as JSON."""
    return {
        name: value if isinstance(value, str | bytes) else json.dumps(value)
        for name, value in named(fields, known).items()
        if name != "exclude"  # generated as several fields
    }


@anything.parametrize()
@bounded
def test_every_generated_request_gets_a_documented_answer(case: Any, service: Service) -> None:
    case.call_and_validate(app=service.app, checks=PROMISES)


@valid.parametrize()
@bounded
def test_every_sensible_request_gets_a_documented_answer(
    case: Any, service: Service, known: dict[str, Any]
) -> None:
    """Of random queries hardly any has exactly one source, or names existing images."""
    case.path_parameters = named(case.path_parameters, known)
    case.query = as_texts(case.query, known) if case.method == "GET" else {}
    if case.media_type == "multipart/form-data":
        case.body = as_texts(case.body, known | {"image": png(2)})
    elif case.path == "/v1/search" and isinstance(case.body, dict):
        case.body = as_query(case.body, known)
    elif case.path == "/v1/compare":
        case.body = {name: as_query(picture, known) for name, picture in case.body.items()}
    elif isinstance(case.body, dict):
        case.body = named(case.body, known)
    case.call_and_validate(app=service.app, checks=PROMISES)
