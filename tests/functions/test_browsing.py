"""The routes for browsing: images, facets, thumbnails and configuration."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aws_lambda_powertools import Logger
from PIL import Image
from starlette.testclient import TestClient

from functions.search.api import create_app
from functions.search.gateway import create_handler
from likeness.gallery import Gallery
from likeness.queries import MAX_QUERY_BYTES
from likeness.search import Searcher
from likeness.searchers import Searchers
from likeness.settings import Limits
from tests.lambda_runtime import http_event
from tests.pictures import picture, png
from tests.service import SCHEMA, Service

PICTURES = 7
NOWHERE = "00000000-0000-5000-8000-000000000000"
ACME = '{"must": {"key": "brand", "match": {"value": "acme"}}}'


class Context:
    aws_request_id = "request-1"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 10_000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Seven images of two brands, a deleted one, and two files that are not images."""
    with Service(tmp_path_factory.mktemp("index")) as service:
        brands = ("zeta", "acme", "acme")
        service.fill(
            {f"{n}.png": png(n, 400, 300) for n in range(PICTURES)},
            {f"{n}.png": {"brand": brands[n % 3], "price": "3"} for n in range(PICTURES)},
        )
        service.fill({"deleted.png": png(90)}, {"deleted.png": {"brand": "acme"}})
        service.remove("deleted.png")
        service.fill({"bad.png": b"no picture", "worse.png": b""}, {"bad.png": {"brand": "acme"}})
        yield service


def get(service: Service, path: str, **params: Any) -> Any:
    return service.http.get(f"/v1/{path}", params=params)


def problem(response: Any) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["type"].rpartition(":")[2]


def keys(response: Any) -> set[str]:
    assert response.status_code == 200, response.text
    return {image["key"] for image in response.json()["images"]}


# The list


@pytest.mark.parametrize("size", [1, 3, PICTURES, 200])
def test_every_live_image_is_listed_once(service: Service, size: int) -> None:
    listed: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = get(service, "images", limit=size, **cursor).json()
        listed += [image["id"] for image in page["images"]]
        if page["next_cursor"] is None:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert sorted(listed) == sorted(service.id(f"{n}.png") for n in range(PICTURES))


def test_a_listed_image_equals_the_one_returned_by_its_id(service: Service) -> None:
    [image, *_] = get(service, "images").json()["images"]
    assert image == get(service, f"images/{image['id']}").json()


def test_the_list_can_be_filtered(service: Service) -> None:
    assert keys(get(service, "images", filter=ACME)) == {"1.png", "2.png", "4.png", "5.png"}
    rejected = get(service, "images", state="rejected")
    assert keys(rejected) == {"bad.png", "worse.png"}
    assert {image["reason"] for image in rejected.json()["images"]} == {"not-an-image"}


@pytest.mark.parametrize(
    ("params", "slug"),
    [
        ({"state": "gone"}, "invalid-request"),
        ({"limit": 0}, "invalid-request"),
        ({"limit": 201}, "invalid-request"),
        ({"cursor": "x"}, "invalid-request"),
        ({"cursor": NOWHERE + "\n"}, "invalid-request"),
        ({"filter": "{"}, "invalid-request"),
        ({"filter": "[" * 5000}, "invalid-request"),
        (
            {"filter": '{"must": {"key": "state", "match": {"value": "gone"}}}'},
            "unknown-filter-key",
        ),
        ({"filter": '{"should": {"has_id": ["x"]}}'}, "invalid-request"),
        ({"colour": "red"}, "invalid-request"),
    ],
)
def test_invalid_list_options_are_refused(
    service: Service, params: dict[str, Any], slug: str
) -> None:
    assert problem(get(service, "images", **params)) == (400, slug)


def test_an_empty_index_lists_nothing(tmp_path: Path) -> None:
    with Service(tmp_path) as empty:
        assert get(empty, "images").json() == {"images": [], "next_cursor": None}
        assert get(empty, "facets").json() == {"facets": []}
        assert get(empty, "duplicates").json() == {"groups": [], "next_cursor": None}


# Facets


def test_values_of_live_images_are_counted(service: Service) -> None:
    counts = [{"value": "acme", "count": 4}, {"value": "zeta", "count": 3}]
    brand = {"key": "brand", "type": "keyword", "values": counts}
    assert get(service, "facets").json() == {"facets": [brand]}
    assert get(service, "facets", keys="brand,brand").json() == {"facets": [brand]}
    narrowed = get(service, "facets", keys="brand", filter=ACME).json()
    assert narrowed["facets"][0]["values"] == counts[:1]


@pytest.mark.parametrize(
    ("params", "slug", "said"),
    [
        ({"keys": "price"}, "invalid-request", "price is a float"),
        ({"keys": "state"}, "unknown-filter-key", "'state' is not a declared key"),
        ({"keys": "meta.brand"}, "unknown-filter-key", "declared keys: brand, price"),
        ({"keys": "brand,"}, "unknown-filter-key", "'' is not"),
        ({"keys": "brand[]"}, "unknown-filter-key", "'brand[]'"),
        ({"keys": ""}, "invalid-request", "keys"),
        ({"keys": "x" * 1025}, "invalid-request", "keys"),
        (
            {"filter": '{"must": {"key": "nothing", "match": {"value": 1}}}'},
            "unknown-filter-key",
            "",
        ),
    ],
)
def test_an_error_names_the_key_that_cannot_be_counted(
    service: Service, params: dict[str, str], slug: str, said: str
) -> None:
    refused = get(service, "facets", **params)
    assert problem(refused) == (400, slug)
    assert said in refused.json()["detail"]


# Thumbnails


def thumbnail(service: Service, key: str, **params: Any) -> Any:
    return get(service, f"images/{service.id(key)}/thumbnail", **params)


def opened(response: Any) -> Image.Image:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/jpeg"
    image = Image.open(io.BytesIO(response.content))
    assert image.format == "JPEG"
    return image


def test_a_thumbnail_is_a_small_copy_of_the_image(service: Service) -> None:
    small = opened(thumbnail(service, "1.png", size=160))
    assert small.size == (160, 120)
    wanted = picture(1, 400, 300).resize(small.size)
    assert np.abs(np.asarray(small, int) - np.asarray(wanted, int)).mean() < 4
    assert opened(thumbnail(service, "1.png")).size == (320, 240)
    assert opened(thumbnail(service, "1.png", size=1024)).size == (400, 300)


def test_a_cached_thumbnail_is_answered_with_304(service: Service) -> None:
    service.fill({"seen.png": png(50)})
    first = thumbnail(service, "seen.png")
    assert first.headers["cache-control"] == "private, max-age=86400"
    service.bucket.remove("seen.png")  # so that making it would fail
    path = f"/v1/images/{service.id('seen.png')}/thumbnail"
    for sent in (first.headers["etag"], f'"x", W/{first.headers["etag"]}'):
        again = service.http.get(path, headers={"if-none-match": sent})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    other = service.http.get(path + "?size=160", headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 404
    service.remove("seen.png")


def test_a_replaced_object_has_no_thumbnail_until_it_is_indexed(service: Service) -> None:
    service.fill({"new.png": png(51)})
    before = thumbnail(service, "new.png").headers["etag"]
    service.bucket.put("new.png", png(52))
    assert problem(thumbnail(service, "new.png")) == (409, "object-changed")
    service.fill({})
    assert thumbnail(service, "new.png").headers["etag"] != before
    service.bucket.remove("new.png")
    assert problem(thumbnail(service, "new.png")) == (404, "not-indexed")
    service.fill({})
    assert problem(thumbnail(service, "new.png")) == (404, "not-indexed")


@pytest.mark.parametrize("image", [NOWHERE, "x", "%00", "..", NOWHERE + "%0a"])
def test_an_unknown_image_has_no_thumbnail(service: Service, image: str) -> None:
    assert problem(service.http.get(f"/v1/images/{image}/thumbnail"))[0] == 404


def test_a_rejected_image_has_no_thumbnail(service: Service) -> None:
    assert problem(thumbnail(service, "bad.png")) == (404, "not-indexed")


@pytest.mark.parametrize(
    "size", ["0", "-160", "161", "1e9", "160.5", "", "x", "99999999999999999999"]
)
def test_thumbnails_come_in_four_sizes(service: Service, size: str) -> None:
    assert problem(thumbnail(service, "1.png", size=size)) == (400, "invalid-request")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(max_bytes=100), (413, "image-too-large")),
        (Limits(max_pixels=100), (422, "too-many-pixels")),
        (Limits(formats=("JPEG",)), (415, "unsupported-format")),
    ],
)
def test_present_limits_apply_to_images_indexed_under_earlier_ones(
    service: Service, limits: Limits, expected: tuple[int, str]
) -> None:
    bucket = service.bucket
    gallery = Gallery(service.index, lambda: bucket, SCHEMA, limits)
    searcher = Searcher(gallery, service.embedder)
    logger = Logger(service="strict", logger_handler=logging.NullHandler())
    strict = create_app(
        Searchers(service.index, [searcher]),
        service.index,
        lambda: bucket,
        service.settings,
        lambda: logger,
    )
    answer = TestClient(strict).get(f"/v1/images/{service.id('1.png')}/thumbnail")
    assert problem(answer) == expected


def test_a_thumbnail_passes_the_gateway_as_bytes(service: Service) -> None:
    handler = create_handler(service.app)
    path = f"/v1/images/{service.id('1.png')}/thumbnail"
    answer = handler(http_event("GET", path, query={"size": "160"}), Context())
    assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, True)
    sent = base64.b64decode(answer["body"], validate=True)
    assert sent == thumbnail(service, "1.png", size=160).content


# What the service can do


def test_config_gives_limits_formats_and_keys(service: Service) -> None:
    assert get(service, "config").json() == {
        "bucket_origin": "https://upload.test",
        "tenants": False,
        "text": False,
        "model_name": "fixed-filters",
        "keys": {"brand": "keyword", "price": "float"},
        "formats": ["JPEG", "PNG", "WEBP", "GIF", "BMP"],
        "max_query_bytes": MAX_QUERY_BYTES,
        "max_upload_bytes": 20 * 1024 * 1024,
    }
