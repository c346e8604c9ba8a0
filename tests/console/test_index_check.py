"""What `likeness doctor` says about the index, and that it writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from console.diagnostics.findings import Finding
from console.diagnostics.index_check import check_index
from tests.fault_server import Answer, Request, Script, closed_port, error, ok, serve
from tests.scripted_qdrant import DIM, KEY, MODEL, VERSION, described


def findings(script: Script) -> list[Finding]:
    """Of a server, to which only reads were sent."""
    with serve(script) as server:
        found = list(check_index({"QDRANT_URL": server.url, "QDRANT_API_KEY": KEY}, None))
        assert {request.method for request in server.requests} == {"GET"}
    assert KEY not in "".join(finding.found + finding.fix for finding in found)
    return found


def server(version: Answer = VERSION, **config: Any) -> Script:
    """A server with a collection of ours."""
    description = {
        **described({"model": MODEL, "dim": DIM}, **config),
        "points_count": 7,
    }

    def script(request: Request) -> Answer:
        return version if request.path == "/" else ok(description)

    return script


def test_a_server_is_named_by_its_version_collection_and_replicas() -> None:
    [found] = findings(server())
    assert (found.subject, found.ok, found.fix) == ("index", True, "")
    place, said = found.found.split(": ", 1)
    assert place.startswith("alias images at http://127.0.0.1:")
    assert said == f"version 1.19.0, 7 points in images-{MODEL}, 1 replica"
    params = {"vectors": {}, "replication_factor": 2}
    [found] = findings(server(params=params))
    assert found.found.endswith("2 replicas")


def test_each_limit_that_costs_something_has_a_line_with_a_fix() -> None:
    limits = {
        "search_max_hnsw_ef": 128,
        "search_max_oversampling": 2,
        "max_query_limit": 50,
        "filter_max_conditions": 5,
    }
    _, *costs = findings(server(strict_mode_config={"enabled": True, **limits}))
    assert [cost.found.split()[0] for cost in costs] == list(limits)
    assert all(cost.ok and f"strict mode of images-{MODEL}" in cost.fix for cost in costs)
    assert len(findings(server(strict_mode_config={"enabled": False, **limits}))) == 1


def test_before_the_first_image_there_is_only_a_version() -> None:
    [found] = findings(lambda request: VERSION if request.path == "/" else error(404))
    assert found.ok and found.found.endswith("version 1.19.0, nothing is indexed yet")


@pytest.mark.parametrize(
    ("script", "said", "fix"),
    [
        (server(Answer(200, b'{"title": "qdrant", "version": "1.18.2"}')), "1.18.2 is too old", ""),
        ([Answer(200, b"<html>a proxy</html>")], "is this a Qdrant server?", "REST API?"),
        ([Answer(200, b'{"title": "other", "version": "2.0"}')], "the server says 'other'", "REST"),
        ([error(500)], "Qdrant is not answering (HTTP 500: no)", "Is the server running"),
        (
            lambda request: VERSION if request.path == "/" else Answer(401, b"Invalid API key"),
            "no API key, or a wrong one",
            "Set QDRANT_API_KEY",
        ),
        (
            lambda request: VERSION if request.path == "/" else Answer(403, b"Forbidden"),
            "the API key does not permit GET /collections/images",
            "control-access.md",
        ),
        (
            lambda request: VERSION if request.path == "/" else ok(described({"theirs": 1})),
            "is not a collection of Likeness: choose another LIKENESS_ALIAS",
            "",
        ),
    ],
    ids=["old", "proxy", "another service", "failing", "unauthorised", "forbidden", "a stranger's"],
)
def test_what_is_wrong_is_told_apart(script: Script, said: str, fix: str) -> None:
    [found] = findings(script)
    assert not found.ok
    assert said in found.found and fix in found.fix


def test_a_server_that_cannot_be_reached_is_named() -> None:
    [found] = check_index({"QDRANT_URL": closed_port()}, None)
    assert not found.ok and "ConnectionRefusedError" in found.found


def test_a_password_in_the_url_is_not_shown() -> None:
    url = closed_port().replace("//", "//user:s3cret@")
    [found] = check_index({"QDRANT_URL": url}, None)
    assert not found.ok and "s3cret" not in found.found


def test_without_a_server_nothing_is_opened(tmp_path: Path) -> None:
    for env in ({}, {"QDRANT_URL": f"file://{tmp_path}/index"}):
        [found] = check_index(env, None)
        assert found.ok and "Set QDRANT_URL" in found.fix
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_setting_is_a_finding() -> None:
    env = {"QDRANT_URL": "http://localhost:6333", "LIKENESS_PAYLOAD_SCHEMA": "{"}
    [found] = check_index(env, None)
    assert not found.ok and "LIKENESS_PAYLOAD_SCHEMA is not JSON" in found.found
    assert found.fix == ""
