"""The line that the search function writes about each answer: metrics and facts."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from functions.search.resources import open_record
from likeness.answer_shift import band
from tests.pictures import jpeg, png
from tests.service import Service


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("index")) as service:
        service.fill(
            {f"{n}.png": png(n) for n in range(30)},
            {f"{n}.png": {"brand": f"b{n % 3}"} for n in range(30)},
        )
        yield service


@pytest.fixture
def service(shared: Service) -> Service:
    shared.recorded.clear()
    return shared


def ask(service: Service, **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """An answer, and the line about it."""
    answer = service.search(**fields)
    assert answer.status_code == 200, answer.text
    return answer.json(), json.loads(service.recorded[-1])


def photo(seed: int) -> str:
    return base64.b64encode(jpeg(seed)).decode()


def metrics_of(line: dict[str, Any]) -> dict[str, Any]:
    """Each metric's value by its dimensions and name, as CloudWatch extracts it.

    (Embedded metric format specification: Dimensions and Metrics[].Name refer to root members.)
    """
    found = {}
    for directive in line["_aws"]["CloudWatchMetrics"]:
        assert directive["Namespace"]
        for dimensions in directive["Dimensions"]:
            assert len(dimensions) <= 30
            where = tuple(f"{name}={line[name]}" for name in dimensions)
            assert all(isinstance(line[name], str) for name in dimensions)
            for metric in directive["Metrics"]:
                assert metric["Unit"] in {"Milliseconds", "Count", "None"}
                assert isinstance(line[metric["Name"]], int | float)
                found[(*where, metric["Name"])] = line[metric["Name"]]
    return found


def test_an_answer_is_one_line_with_cloudwatch_metrics(service: Service) -> None:
    answer, line = ask(service, image=photo(3))
    assert len(service.recorded) == 1 and b"\n" not in service.recorded[0]
    found = metrics_of(line)
    verdict = answer["results"][0]["verdict"]
    assert found[("service=search", f"verdict={verdict}", "VerdictCount")] == 1
    assert (
        found[("service=search", f"band={band(answer['results'][0]['score'])}", "ScoreCount")] == 1
    )
    assert found[("service=search", "SearchMs")] == answer["took_ms"]["total"]
    assert found[("service=search", "EmbedMs")] == answer["took_ms"]["embed"]
    assert found[("service=search", "QdrantMs")] == answer["took_ms"]["search"]
    assert found[("service=search", "EmptyResult")] == 0
    assert found[("service=search", "TopScore")] == pytest.approx(
        answer["results"][0]["score"], abs=1e-4
    )
    assert found[("service=search", "ColdStart")] == answer["took_ms"]["cold_start"]


def test_an_empty_answer_counts_as_empty_and_has_no_top_score(service: Service) -> None:
    _, line = ask(
        service, image=photo(3), filter={"must": [{"key": "brand", "match": {"value": "-"}}]}
    )
    found = metrics_of(line)
    assert found[("service=search", "EmptyResult")] == 1
    assert found[("service=search", "verdict=empty", "VerdictCount")] == 1
    assert ("service=search", "TopScore") not in found


def test_a_page_beyond_the_end_does_not_count_as_an_empty_answer(service: Service) -> None:
    answer, line = ask(service, image=photo(3), offset=50)
    assert answer["results"] == []
    names = {name for *_, name in metrics_of(line)}
    assert not names & {"EmptyResult", "TopScore", "VerdictCount", "ScoreCount"}


def test_without_verdicts_an_answer_is_unjudged(service: Service) -> None:
    _, line = ask(service, image=photo(3), rerank="none")
    assert ("service=search", "verdict=unjudged", "VerdictCount") in metrics_of(line)


def test_a_line_lists_every_candidate_once(service: Service) -> None:
    answer, line = ask(
        service,
        id=service.id("3.png"),
        limit=2,
        group_by="brand",
        cutoff={"method": "gap", "value": 2},
    )
    shown = [result["id"] for result in answer["results"]]
    assert [result["id"] for result in line["shown"]] == shown
    assert line["candidates"] == 29
    cut = line["cut"]
    assert cut["group_by"]["count"] == 26 and cut["page"]["count"] == 1
    told = [*(result[:8] for result in shown), *cut["page"]["ids"].split()]
    told += cut["group_by"]["ids"].split()
    everyone = {service.id(f"{n}.png")[:8] for n in range(30) if n != 3}
    assert sorted(told) == sorted(everyone)


def test_a_line_lists_candidates_that_no_option_removed(service: Service) -> None:
    answer, line = ask(service, id=service.id("3.png"), limit=2)
    shown = [result["id"][:8] for result in answer["results"]]
    told = [*shown, *line["cut"]["page"]["ids"].split()]
    assert line["cut"]["page"]["count"] == line["candidates"] - 2 > 1
    assert len(told) == len(set(told)) == line["candidates"]


def test_results_removed_by_a_cutoff_are_listed_with_their_best_score(service: Service) -> None:
    answer, line = ask(service, image=photo(3), cutoff={"method": "relative", "value": 1})
    assert len(answer["results"]) == 1
    cut = line["cut"]["cutoff"]
    assert cut["count"] == 29 and len(cut["ids"].split()) == 29
    assert cut["best"] < answer["results"][0]["rerank_score"]


def test_a_line_has_only_options_that_differ_from_defaults(service: Service) -> None:
    brand = {"must": [{"key": "brand", "match": {"value": "b1"}}]}
    _, line = ask(service, image=photo(3), limit=5, filter=brand, exclude=[service.id("4.png")])
    assert line["options"] == {"limit": 5, "filter": brand, "exclude": 1}


def test_a_very_long_filter_is_replaced_by_its_length(service: Service) -> None:
    long = {"must": [{"key": "brand", "match": {"any": ["x" * 50] * 50}}]}
    _, line = ask(service, image=photo(3), filter=long)
    assert line["options"]["filter"].endswith(" bytes")


def test_a_line_has_no_image_token_or_vector(service: Service) -> None:
    image = photo(3)
    answer, _ = ask(service, image=image)
    ask(service, query_id=answer["query_id"])
    vector = [1.0, *[0.25] * (service.embedder.dim - 1)]
    ask(service, vector=vector, model=answer["model"])
    text = b"".join(service.recorded).decode()
    assert image[:40] not in text
    assert answer["query_id"][:40] not in text
    assert "0.25,0.25" not in text
    assert len(service.recorded[0]) < 4000


@pytest.mark.parametrize(("field", "kind", "of"), [("id", "id", None), ("key", "object", "3.png")])
def test_a_line_names_the_indexed_image_of_the_query(
    service: Service, field: str, kind: str, of: str | None
) -> None:
    given = service.id("3.png") if field == "id" else "3.png"
    _, line = ask(service, **{field: given})
    assert (line["source"], line["of"]) == (kind, of or given)


def test_feedback_is_counted_by_its_kind(service: Service) -> None:
    wanted = {"request_id": "r", "id": service.id("3.png"), "kind": "click"}
    assert service.http.post("/v1/feedback", json=wanted).status_code == 200
    found = metrics_of(json.loads(service.recorded[-1]))
    assert found == {("service=search", "kind=click", "Feedback"): 1}


def test_a_line_is_written_to_the_log_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    open_record(None)(b'{"a":"100 %s"}')
    assert capsys.readouterr().out == '{"a":"100 %s"}\n'


def test_a_local_service_appends_lines_to_a_file(tmp_path: Path) -> None:
    record = open_record(tmp_path / "answers.jsonl")
    for n in range(3):
        record(b'{"n":"%d %% %%s"}' % n)
    kept = (tmp_path / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["n"] for line in kept] == ["0 % %s", "1 % %s", "2 % %s"]


def test_the_file_of_lines_is_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("functions.search.resources._LOG_BYTES", 20)
    record = open_record(tmp_path / "answers.jsonl")
    for n in range(7):
        record(b'{"line": %d}' % n)
    assert (tmp_path / "answers.jsonl").read_text() == '{"line": 6}\n'
    assert (tmp_path / "answers.old").read_text() == '{"line": 4}\n{"line": 5}\n'
