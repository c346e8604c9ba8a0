"""The canary with a bucket in memory, the real engine and the real network."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from aws_lambda_powertools import Logger, Metrics

from functions.canary.handler import MIN_ANSWERS, NOTE, NOTE_ID, WINDOW_HOURS, Canary
from likeness.answer_shift import AnswerDistribution
from likeness.errors import ConfigurationError, IndexUnavailable, LikenessError
from likeness.ports import VectorIndex
from likeness.searchers import Searchers
from tests.fault_server import Answer, Request, error
from tests.pictures import png
from tests.scripted_qdrant import VERSION, scripted_index
from tests.service import Service

PICTURES = 30
LIVE = {"must": [{"key": "state", "match": {"value": "live"}}]}
GOOD = AnswerDistribution({"copy": 900.0, "empty": 100.0}, {"0.9": 800.0, "0.8": 100.0})
EMPTIER = AnswerDistribution({"copy": 500.0, "empty": 500.0}, {"0.9": 400.0, "0.8": 100.0})


class Watched(Service):
    """A service with a canary. `counts` are the answers of the last day, as from CloudWatch."""

    counts = GOOD

    def run(self, event: dict[str, Any] | None = None) -> dict[str, Any]:
        return self.canary(self.index)(event or {}, None)

    def canary(self, index: VectorIndex) -> Canary:
        logger = Logger(service="canary", logger_handler=logging.NullHandler())
        metrics = Metrics(namespace="Test", service="canary")
        limits = self.settings.limits
        searchers = Searchers(self.index, [self.searcher])
        return Canary(searchers, index, self.bucket, limits, self._last, logger, metrics)

    def _last(self, hours: int) -> AnswerDistribution:
        assert hours == WINDOW_HOURS
        return self.counts


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with Watched(tmp_path_factory.mktemp("index")) as service:
        service.fill({f"{n}.png": png(n) for n in range(PICTURES)})
        yield service


@pytest.fixture
def service(filled: Watched) -> Iterator[Watched]:
    """The service with its indexed images in the bucket, and without a reference."""
    yield filled
    filled.counts = GOOD
    filled.index.delete_note(NOTE, NOTE_ID)
    for n in range(PICTURES):
        filled.bucket.put(f"{n}.png", png(n))
    filled.bucket.events.clear()


def published(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "_aws" in line]
    names = ("CanaryRecall", "AnswerShift")
    return {name: line[name][0] for line in lines for name in names if name in line}


def test_edited_images_of_the_index_find_their_originals(
    service: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = service.run()
    assert (answer["asked"], answer["recall"], answer["missed"]) == (20, 1.0, [])
    assert published(capsys)["CanaryRecall"] == 1


def test_each_run_reads_the_servers_version(service: Watched) -> None:
    assert service.run()["qdrant"] == version("qdrant-edge-py")


@pytest.mark.parametrize(
    ("answer", "raised", "why"),
    [
        (
            Answer(200, b'{"title": "qdrant", "version": "1.18.0"}'),
            ConfigurationError,
            "Qdrant 1.18.0 is too old",
        ),
        (Answer(200, b"<html>a proxy</html>"), IndexUnavailable, "which cannot be read"),
    ],
)
def test_a_server_that_cannot_be_written_to_is_an_error(
    service: Watched, answer: Answer, raised: type[LikenessError], why: str
) -> None:
    """Also where it could be written to in the run before: another server may answer by now."""

    def script(request: Request) -> Answer:
        if request.path == "/":
            return next(versions)
        return error(404)  # nothing is indexed yet

    service.counts = AnswerDistribution({"copy": 1.0}, {"0.9": 1.0})
    versions = iter([VERSION, *[answer] * 3])
    with scripted_index(script) as (_, index):
        canary = service.canary(index)
        assert canary({}, None)["qdrant"] == "1.19.0"
        with pytest.raises(raised, match=why):
            canary({}, None)


def test_an_index_that_differs_from_the_bucket_loses_recall(
    service: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(PICTURES):  # replaced in the bucket, without an event
        service.bucket.put(f"{n}.png", png(100 + n))
    answer = service.run()
    assert answer["recall"] < 0.9 and len(answer["missed"]) == round(20 * (1 - answer["recall"]))
    assert published(capsys)["CanaryRecall"] == answer["recall"]


def test_the_queries_are_the_same_in_every_run(service: Watched) -> None:
    service.fill({"99.png": b"no picture"})
    sampled = [point.id for point in service.index.scroll(20, filter=LIVE).points]
    assert service.run()["asked"] == 20
    for n in range(PICTURES):
        service.bucket.put(f"{n}.png", png(100 + n))
    missed = service.run()["missed"]
    assert missed and set(missed) <= set(sampled)
    assert service.run()["missed"] == missed


def test_a_copy_with_the_same_bytes_counts_as_found(service: Watched) -> None:
    service.fill({f"again {n}.png": png(3) for n in range(12)})
    assert service.run()["recall"] == 1


def test_a_deleted_object_is_no_query(service: Watched) -> None:
    first = service.index.scroll(1, filter=LIVE).points[0].ref.key
    service.bucket.remove(first)  # without an event
    assert service.run()["asked"] == 19


@pytest.mark.parametrize("files", [{}, {"a.txt": b"no picture"}], ids=["no collection", "no image"])
def test_an_empty_index_publishes_no_recall(
    files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Watched(tmp_path / "other") as service:
        service.fill(files)
        assert service.run()["asked"] == 0
    assert "CanaryRecall" not in published(capsys)


def test_an_index_that_is_down_is_an_error_and_not_a_recall_of_zero(
    service: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(queries: Any) -> Any:
        raise IndexUnavailable("Qdrant is not answering")

    monkeypatch.setattr(service.index, "nearest", down)
    with pytest.raises(IndexUnavailable):
        service.run()


def test_the_first_day_with_enough_answers_becomes_the_reference(
    service: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    assert service.run()["reference"] == "taken"
    assert "AnswerShift" not in published(capsys)
    assert service.run()["shift"] == 0
    service.counts = EMPTIER
    answer = service.run()
    assert answer["shift"] > 0.25
    assert published(capsys)["AnswerShift"] == pytest.approx(answer["shift"], abs=1e-4)


def test_the_reference_can_be_renewed_after_an_intended_change(service: Watched) -> None:
    service.run()
    service.counts = EMPTIER
    assert service.run({"reference": "renew"})["reference"] == "taken"
    assert service.run()["shift"] == 0


def test_too_few_answers_give_no_shift(
    service: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    service.counts = AnswerDistribution({"copy": MIN_ANSWERS - 1.0}, {"0.9": MIN_ANSWERS - 1.0})
    assert "shift" not in service.run()
    assert service.index.list_notes(NOTE, 1) == ([], None)
    assert "AnswerShift" not in published(capsys)
