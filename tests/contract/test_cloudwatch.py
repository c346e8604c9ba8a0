"""CloudWatch's metrics and logs, over the real protocols."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from console.diagnostics.log_group import lines_of
from console.local import runner
from likeness.adapters.cloudwatch import AnswerMetrics
from likeness.answer_shift import BANDS, VERDICTS
from likeness.errors import ConfigurationError, Unavailable
from tests import lambda_runtime

GROUP = "/aws/lambda/likeness-search"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with runner.ministack(tmp_path_factory.mktemp("aws"), "cloudwatch,logs") as url:
        yield url


@pytest.fixture(scope="module")
def logs(url: str) -> Iterator[Any]:
    client = lambda_runtime.client("logs", url)
    client.create_log_group(logGroupName=GROUP)
    client.create_log_stream(logGroupName=GROUP, logStreamName="s")
    now_ms = int(time.time() * 1000)
    messages = [
        "START RequestId: r-1",
        json.dumps({"request_id": "r-1", "message": "answered"}),
        json.dumps({"request_id": "r-2", "message": "answered"}),
        json.dumps({"request_id": "r-1", "message": "feedback"}),
    ]
    events = [{"timestamp": now_ms + n, "message": text} for n, text in enumerate(messages)]
    client.put_log_events(logGroupName=GROUP, logStreamName="s", logEvents=events)
    yield client
    client.close()


def test_answers_are_counted_by_verdict_and_band_in_their_own_namespace(url: str) -> None:
    client = lambda_runtime.client("cloudwatch", url)

    def put(namespace: str, metric: str, dimension: str, value: str, times: int) -> None:
        dimensions = [
            {"Name": "service", "Value": "search"},
            {"Name": dimension, "Value": value},
        ]
        datum = {"MetricName": metric, "Dimensions": dimensions, "Value": 1.0}
        client.put_metric_data(Namespace=namespace, MetricData=[datum] * times)

    put("mine", "VerdictCount", "verdict", "copy", 3)
    put("mine", "VerdictCount", "verdict", "empty", 2)
    put("mine", "ScoreCount", "band", "0.9", 3)
    put("other", "VerdictCount", "verdict", "copy", 5)
    found = AnswerMetrics("mine", client).last(24)
    assert found.verdicts == {**dict.fromkeys(VERDICTS, 0.0), "copy": 3.0, "empty": 2.0}
    assert found.bands == {**dict.fromkeys(BANDS, 0.0), "0.9": 3.0}
    assert found.answers == 5
    assert AnswerMetrics("nobody", client).last(24).answers == 0
    client.close()


def test_the_lines_of_a_request_are_in_order(logs: Any) -> None:
    found = list(lines_of(GROUP, "r-1", 1, logs))
    assert [line["message"] for line in found] == ["answered", "feedback"]
    assert list(lines_of(GROUP, "r-9", 1, logs)) == []


def test_the_error_names_a_missing_log_group(logs: Any) -> None:
    with pytest.raises(ConfigurationError, match="/aws/lambda/other"):
        list(lines_of("/aws/lambda/other", "r-1", 1, logs))


def test_a_service_that_does_not_answer_is_unavailable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    once = Config(retries={"total_max_attempts": 1})
    made: dict[str, Any] = {
        "endpoint_url": nobody,
        "region_name": "us-east-1",
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "config": once,
    }
    with pytest.raises(Unavailable):
        AnswerMetrics("mine", boto3.client("cloudwatch", **made)).last(1)
    with pytest.raises(Unavailable):
        list(lines_of(GROUP, "r-1", 1, boto3.client("logs", **made)))
