"""`likeness evaluate --feedback`: feedback to the real service, repeated by the real searcher."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.progress import Progress

from console.evaluation import calibrator, feedback_evaluation
from console.evaluation.datasets import DatasetError
from console.evaluation.feedback_evaluation import FeedbackEvaluation
from console.evaluation.metrics import estimate
from likeness.errors import IndexOfOtherModel
from likeness.features import ImageFeatures
from likeness.feedback import FeedbackEvent, FeedbackStore
from likeness.model import load_spec
from likeness.query_tokens import encode_query_token
from likeness.rerank.profiles import Profile
from tests.calibrations import calibration_of
from tests.indexes import address_of
from tests.pictures import jpeg
from tests.service import BUNDLED, FIXED_FILTERS, Service

LIKENESS = (sys.executable, "-c", "from console.app import main; main()")
PICTURES = 14


def photo(seed: int) -> bytes:
    return jpeg(seed, 160, 120)


def started(folder: Path) -> Service:
    service = Service(folder, FIXED_FILTERS)
    service.fill({f"{seed}.jpg": photo(seed) for seed in range(PICTURES)})
    return service


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with the verdicts that the service has, so that profiles differ."""
    bundle = tmp_path_factory.mktemp("bundle") / "fixed-filters"
    shutil.copytree(FIXED_FILTERS, bundle)
    calibrator.write(calibration_of(load_spec(bundle)), bundle)
    return bundle


@pytest.fixture
def service(tmp_path: Path) -> Any:
    with started(tmp_path / "index") as service:
        yield service


def ask(service: Service, seed: int, **options: Any) -> dict[str, Any]:
    """With a picture that is not indexed."""
    image = base64.b64encode(photo(100 + seed)).decode()
    return searched(service, image=image, **options)


def searched(service: Service, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = service.search(limit=PICTURES, **options).json()
    return answer


def tell(service: Service, answer: dict[str, Any], place: int, kind: str, **other: Any) -> None:
    told = {
        "request_id": answer["request_id"],
        "query_id": answer["query_id"],
        "id": answer["results"][place]["id"],
        "kind": kind,
        **other,
    }
    assert service.http.post("/v1/feedback", json=told).status_code == 200


def measured(
    service: Service, queries: int = 500, model: Path = FIXED_FILTERS
) -> FeedbackEvaluation:
    with Progress(disable=True) as progress:
        return feedback_evaluation.evaluate(service.index, model, queries, 0, progress)


def test_what_was_judged_is_where_each_profile_puts_it(service: Service, calibrated: Path) -> None:
    answers = [ask(service, seed) for seed in range(6)]
    places = [0, 2, 7, 2, 11, 5]
    for answer, place in zip(answers, places, strict=True):
        tell(service, answer, place, "relevant")
        for bad in (4, 12):
            tell(service, answer, bad, "not_relevant")
    found = measured(service, model=calibrated)
    assert found.calibration == "drawn pictures"
    assert (found.opinions, found.queries, found.judged, found.clicked) == (18, 6, 6, 0)
    assert found.left_out == {}
    assert list(found.profiles) == list(Profile)
    assert found.profiles["precise"] != found.profiles["none"]
    for profile, each in found.profiles.items():
        first, before, in_ten = list[int](), list[int](), list[int]()
        for seed, (answer, place) in enumerate(zip(answers, places, strict=True)):
            again = [result["id"] for result in ask(service, seed, rerank=profile)["results"]]
            shown = [result["id"] for result in answer["results"]]
            right, *wrong = (again.index(shown[n]) for n in (place, 4, 12))
            first.append(right)
            before.append(sum(n < right for n in wrong))
            in_ten.append(sum(n < 10 for n in wrong))
        for k, rate in ((1, each.r_at_1), (5, each.r_at_5), (10, each.r_at_10)):
            assert rate
            assert rate.mean == pytest.approx(np.mean([n < k for n in first]))
            assert rate.low <= rate.mean <= rate.high
        assert each.wrong_before and each.wrong_in_first
        assert (each.wrong_before.queries, each.wrong_in_first.queries) == (6, 6)
        assert each.wrong_before.mean.mean == pytest.approx(np.mean(before))
        assert each.wrong_in_first.mean.mean == pytest.approx(np.mean(in_ten))


def test_a_query_with_clicks_alone_counts_half(service: Service) -> None:
    clicked, judged, both = (ask(service, seed) for seed in range(3))
    tell(service, clicked, 0, "click")
    tell(service, judged, 3, "relevant")
    tell(service, both, 0, "click")  # there is a judgement: what was clicked does not count
    tell(service, both, 2, "relevant")
    found = measured(service)
    assert (found.queries, found.judged, found.clicked) == (3, 2, 1)
    assert (found.requests, found.clicked_requests) == (3, 2)
    twice = estimate(np.array([1.0, 0, 0, 0, 0]), np.array([0, 1, 1, 2, 2]))
    rate = found.profiles["precise"].r_at_1
    assert rate
    assert (rate.mean, rate.low, rate.high) == pytest.approx((twice.mean, twice.low, twice.high))


def test_where_all_is_wrong_only_that_is_told(service: Service) -> None:
    answer = ask(service, 0)
    for place in (0, 1):
        tell(service, answer, place, "not_relevant")
    precise = measured(service).profiles["precise"]
    assert (precise.r_at_1, precise.wrong_before) == (None, None)
    assert precise.wrong_in_first
    assert precise.wrong_in_first.mean.mean == 2


def test_an_indexed_query_does_not_stand_in_its_own_way(service: Service) -> None:
    by_id = searched(service, id=service.id("3.jpg"))
    tell(service, by_id, 0, "relevant")
    rate = measured(service).profiles["precise"].r_at_1
    assert rate
    assert rate.mean == 1


def test_a_query_that_is_the_right_answer_itself_counts(service: Service) -> None:
    answer = searched(service, image=base64.b64encode(photo(5)).decode())
    assert answer["results"][0]["id"] == service.id("5.jpg")
    tell(service, answer, 0, "not_relevant")
    tell(service, answer, 1, "relevant")
    precise = measured(service).profiles["precise"]
    assert precise.wrong_before and precise.r_at_1
    assert (precise.wrong_before.mean.mean, precise.r_at_1.mean) == (1, 0)


def test_what_cannot_be_asked_or_found_any_more_is_counted_by_its_reason(service: Service) -> None:
    answer, gone = ask(service, 0), ask(service, 1)
    tell(service, answer, 0, "relevant")
    tell(service, answer, 0, "click", request_id="again")
    tell(service, answer, 1, "click", request_id="unnamed", query_id=None)
    vector = np.eye(1, service.embedder.dim, dtype=np.float32)[0]
    of_other = encode_query_token([ImageFeatures(vector)], "0123456789abcdef")
    for place in (0, 1):
        tell(service, answer, place, "click", request_id="before", query_id=of_other)
    # the service refuses it by now
    FeedbackStore(service.index).add(
        FeedbackEvent("odd", answer["results"][0]["id"], "click", 0.0, "made-up")
    )
    tell(service, gone, 0, "relevant")
    key = gone["results"][0]["key"]
    assert key != answer["results"][0]["key"]
    service.remove(key)
    found = measured(service)
    assert (found.opinions, found.queries) == (7, 1)
    assert found.left_out == {
        "no query_id": 1,
        "replaced by another on the same result of the same query": 1,
        "query_id belongs to another model": 2,
        "query_id is invalid": 1,
        "the result is no longer indexed": 1,
    }


def test_no_more_queries_are_asked_than_wanted(service: Service) -> None:
    for seed in range(4):
        tell(service, ask(service, seed), 0, "relevant")
    assert (measured(service, 3).queries, measured(service).queries) == (3, 4)


def test_where_nothing_is_left_the_reasons_are_told(service: Service) -> None:
    tell(service, ask(service, 0), 0, "click", query_id=None)
    with pytest.raises(DatasetError, match=r"none of 1 feedback events.*no query_id: 1"):
        measured(service)


def test_an_index_of_another_model_is_refused(service: Service) -> None:
    tell(service, ask(service, 0), 0, "click")
    with pytest.raises(IndexOfOtherModel):
        measured(service, model=BUNDLED)


# --- the command ---


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*LIKENESS, "evaluate", *arguments, "--model", FIXED_FILTERS, "--out", tmp_path],
            env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_the_command_prints_and_keeps_what_it_found(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    with started(tmp_path / "index") as service:
        tell(service, ask(service, 0), 0, "relevant")
        tell(service, ask(service, 1), 0, "click")
        tell(service, ask(service, 1), 1, "click", query_id=None, request_id="unnamed")
    done = command("--feedback", **address_of(tmp_path / "index").env)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 events: no query_id" in done.stdout
    assert "2 of 3 requests" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:20])) <= 80
    kept = json.loads((tmp_path / feedback_evaluation.RESULTS).read_text())
    assert (kept["opinions"], kept["queries"], kept["judged"], kept["clicked"]) == (3, 2, 1, 1)
    assert kept["profiles"]["precise"]["r_at_1"]["mean"] == 1


@pytest.mark.parametrize(
    ("arguments", "indexed", "status", "complaint"),
    [
        (["--feedback"], True, 1, "no feedback yet: send POST /v1/feedback"),
        (["--feedback"], False, 1, "QDRANT_URL is not set"),
        (["--feedback", "."], True, 2, "takes no dataset"),
        ([], True, 2, "name a folder or a CSV; or use --feedback"),
    ],
)
def test_what_cannot_be_asked_is_told_clearly(
    arguments: list[str],
    indexed: bool,
    status: int,
    complaint: str,
    tmp_path: Path,
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    environment = address_of(tmp_path / "index").env if indexed else {}
    done = command(*arguments, **environment)
    assert done.returncode == status
    assert complaint in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
