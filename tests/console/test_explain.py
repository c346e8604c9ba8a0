"""`likeness explain` over lines that the real search function wrote."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from console.client import ServiceError
from console.diagnostics import answer_log
from console.local.aws import ministack
from console.local.data_folder import ANSWERS
from tests import lambda_runtime
from tests.pictures import png
from tests.service import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("index")) as service:
        service.fill(
            {f"{n}.png": png(n) for n in range(9)},
            {f"{n}.png": {"brand": f"b{n % 2}"} for n in range(9)},
        )
        yield service


@pytest.fixture
def data(service: Service, tmp_path: Path) -> Path:
    service.recorded.clear()
    return tmp_path


def answered(service: Service, data: Path, **fields: Any) -> str:
    """Ask, write what was recorded as the local service does, and return the request's id."""
    answer = service.search(**fields).json()
    (data / ANSWERS).write_bytes(b"".join(line + b"\n" for line in service.recorded))
    return str(answer["request_id"])


def explained(data: Path, request_id: str, image: str | None = None) -> str:
    out = Console(file=io.StringIO(), width=200)
    answer_log.show(answer_log.lines(data, None, request_id, 1), image, out)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_an_answer_is_told_with_its_scores_and_what_was_left_out(
    service: Service, data: Path
) -> None:
    answered(service, data, key="1.png")
    cutoff = {"method": "gap", "value": 2}
    wanted = answered(service, data, key="3.png", limit=1, group_by="brand", cutoff=cutoff)
    text = explained(data, wanted)
    assert "query by object 3.png" in text
    assert '"method":"gap"' in text
    assert "8 candidates" in text
    assert "cosine" in text and "refinement" in text
    assert "their group by brand was full" in text
    assert "on another page than this one (limit 1, offset 0)" in text
    assert "milliseconds: " in text
    assert "1.png" not in text


def test_it_says_what_became_of_an_image(service: Service, data: Path) -> None:
    brand = {"must": [{"key": "brand", "match": {"value": "b1"}}]}
    wanted = answered(service, data, key="3.png", limit=2, filter=brand)
    [line] = answer_log.lines(data, None, wanted, 1)
    shown = [result["id"] for result in line["shown"]]
    assert answer_log.explain_image(line, shown[1]) == "shown at rank 2"
    assert len(shown) == 2
    [other, *_] = {service.id(f"{n}.png") for n in (1, 5, 7)} - set(shown)
    assert "left out: on another page" in answer_log.explain_image(line, other)
    assert "not among the 3 candidates" in answer_log.explain_image(line, service.id("2.png"))
    assert f"{other}: a candidate" in explained(data, wanted, other)


def test_an_image_beyond_the_first_ten_has_its_number(service: Service, data: Path) -> None:
    service.fill({f"more {n}.png": png(n + 40) for n in range(6)})
    wanted = answered(service, data, key="3.png", limit=14)
    [line] = answer_log.lines(data, None, wanted, 1)
    assert answer_log.explain_image(line, line["more"].split()[-1]) == "shown at rank 14"
    assert "and 4 more" in explained(data, wanted)


def test_nothing_found_and_skipped_stages_are_told(service: Service, data: Path) -> None:
    nobody = {"must": [{"key": "brand", "match": {"value": "-"}}]}
    wanted = answered(service, data, key="3.png", filter=nobody)
    line = json.loads(service.recorded[-1]) | {"skipped": ["geometry"]}
    (data / ANSWERS).write_text(json.dumps(line))
    text = explained(data, wanted)
    assert "no results" in text and "skipped because of the deadline: geometry" in text


def test_feedback_on_it_is_told(service: Service, data: Path) -> None:
    wanted = answered(service, data, key="3.png")
    opinion = {"request_id": wanted, "id": service.id("4.png"), "kind": "not_relevant"}
    service.http.post("/v1/feedback", json=opinion)
    (data / ANSWERS).write_bytes(b"".join(line + b"\n" for line in service.recorded))
    assert f"feedback: not_relevant on {service.id('4.png')}" in explained(data, wanted)


def test_what_the_log_had_before_it_began_anew_is_found(service: Service, data: Path) -> None:
    wanted = answered(service, data, key="3.png")
    (data / ANSWERS).rename((data / ANSWERS).with_suffix(".old"))
    assert wanted in explained(data, wanted)


def test_an_unknown_request_says_where_it_was_looked_for(data: Path) -> None:
    with pytest.raises(ServiceError, match="--log-group"):
        answer_log.lines(data, None, "0" * 32, 1)
    with pytest.raises(ServiceError, match="not a valid request_id"):
        answer_log.lines(data, None, '" }', 1)


def test_a_deployed_services_answers_are_read_from_its_log(
    service: Service, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = answered(service, data, key="3.png")
    text = service.recorded[-1].decode()
    with ministack(tmp_path, "logs") as url:
        logs = lambda_runtime.client("logs", url)
        group = "/aws/lambda/likeness-search"
        logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName="s")
        at = json.loads(text)["_aws"]["Timestamp"]
        events = [{"timestamp": at, "message": text}]
        logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=events)
        logs.close()
        for name, value in {**lambda_runtime.CREDENTIALS, "AWS_ENDPOINT_URL": url}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_DEFAULT_REGION", lambda_runtime.REGION)
        assert answer_log.lines(data, group, wanted, 1) == [json.loads(text)]
