"""The web page as it is served: hashed names, strict headers, and no key needed."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aws_lambda_powertools import Logger
from msgspec.structs import replace
from starlette.testclient import TestClient

from functions.search import pages
from functions.search.api import create_app
from functions.search.gateway import create_handler
from likeness.searchers import Searchers
from tests.lambda_runtime import http_event
from tests.service import Service

FILES = {
    "index.html": '<!doctype html><link rel="icon" href="./icon.svg"><link rel=stylesheet '
    'href="./page.css"><script type="module" src="./page.js"></script><p>./page.js',
    "page.js": "import { grid } from './grid.js'; const lazy = () => import(\"./missing.js\");",
    "grid.js": "import './page.js'; fetch(\"v1/search\"); // ../grid.js\n",
    "page.css": "body { background: url(./icon.svg) }",
    "icon.svg": '<svg xmlns="http://www.w3.org/2000/svg"/>',
    "notes.txt": "not served",
}
Open = Callable[..., TestClient]


class Context:
    aws_request_id = "request-1"

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        return 10_000


def written(folder: Path, files: Mapping[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("index")) as service:
        yield service


def app_of(service: Service, folder: Path, **settings: Any) -> Any:
    return create_app(
        Searchers(service.index, [service.searcher]),
        service.index,
        lambda: service.bucket,
        replace(service.settings, **settings),
        lambda: Logger(service="page", logger_handler=logging.NullHandler()),
        page_folder=folder,
    )


@pytest.fixture
def http(service: Service, tmp_path: Path) -> TestClient:
    return TestClient(app_of(service, written(tmp_path / "page", FILES)))


def links(text: str) -> list[str]:
    return re.findall(r"""["'(](\./[^"')]+)["')]""", text)


def test_the_page_and_its_files_are_served(http: TestClient) -> None:
    html = http.get("/")
    assert html.headers["content-type"] == "text/html; charset=utf-8"
    found = {link: http.get(link.removeprefix(".")) for link in links(html.text)}
    assert [re.sub(r"\.[0-9a-f]{12}\.", ".", link) for link in found] == [
        "./page/icon.svg",
        "./page/page.css",
        "./page/page.js",
    ]
    assert [answer.headers["content-type"].partition(";")[0] for answer in found.values()] == [
        "image/svg+xml",
        "text/css",
        "text/javascript",
    ]
    for answer in found.values():
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_files_refer_to_each_other_by_hashed_names_even_in_cycles(http: TestClient) -> None:
    [script] = re.findall(r'src="\.(.*?)"', http.get("/").text)
    grid, missing = links(http.get(script).text)
    assert missing == "./missing.js"
    again, *_ = links(http.get(f"/page/{grid}").text)
    assert script == f"/page/{again.removeprefix('./')}"
    assert "// ../grid.js" in http.get(f"/page/{grid}").text


def test_a_file_name_in_prose_is_not_changed(http: TestClient) -> None:
    assert http.get("/").text.endswith("<p>./page.js")


def test_a_changed_file_gives_every_file_another_name(tmp_path: Path) -> None:
    one, same, other = (
        pages.load(written(tmp_path / name, FILES | changed))
        for name, changed in {"a": {}, "b": {}, "c": {"grid.js": "//"}}.items()
    )
    assert one and same and other
    assert one == same
    assert not one.files.keys() & other.files.keys()


@pytest.mark.parametrize(
    "name",
    ["grid.js", "grid.000000000000.js", "notes.txt", "index.html", "..%2fapi.py", "%2e%2e/api.py"],
)
def test_nothing_else_is_served(http: TestClient, name: str) -> None:
    answer = http.get(f"/page/{name}")
    assert answer.status_code == 404
    assert answer.json()["type"] == "urn:likeness:problem:no-such-route"


def policy(answer: Any) -> dict[str, str]:
    directives = answer.headers["content-security-policy"].split("; ")
    return dict(directive.split(" ", 1) for directive in directives)


def test_the_page_may_connect_only_to_its_service_and_the_bucket(
    http: TestClient, service: Service, tmp_path: Path
) -> None:
    html = http.get("/")
    assert policy(html) == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": "'self' https://upload.test",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert html.headers["cache-control"] == "no-cache"
    assert html.headers["referrer-policy"] == "no-referrer"
    assert html.headers["x-content-type-options"] == "nosniff"
    without = TestClient(app_of(service, tmp_path / "page", bucket=None))
    assert policy(without.get("/"))["connect-src"] == "'self'"
    assert without.get("/v1/config").json()["bucket_origin"] is None


def test_without_files_there_is_no_page(service: Service, tmp_path: Path) -> None:
    http = TestClient(app_of(service, tmp_path))
    for path in ("/", "/page/page.js"):
        assert http.get(path).json()["type"] == "urn:likeness:problem:no-such-route"


def test_the_page_accepts_only_get(http: TestClient) -> None:
    assert http.head("/").status_code == 200
    assert http.post("/").json()["type"] == "urn:likeness:problem:method-not-allowed"


def test_the_page_passes_the_gateway_as_text(service: Service, tmp_path: Path) -> None:
    handler = create_handler(app_of(service, written(tmp_path, FILES)))

    def get(path: str, asked: str | None = None) -> Mapping[str, Any]:
        event = http_event("GET", path)
        event["requestContext"]["path"] = asked or f"/live{path}"
        return handler(event, Context())

    html = get("/")
    paths = [f"/{link.removeprefix('./')}" for link in links(html["body"])]
    answers = [html, *map(get, paths)]
    assert len(answers) == 4
    for answer in answers:
        assert (answer["statusCode"], answer["isBase64Encoded"]) == (200, False)
    moved = get("/", "/live")
    assert (moved["statusCode"], moved["headers"]["location"]) == (308, "live/")
    assert json.loads(get("/page/none.js")["body"])["status"] == 404
