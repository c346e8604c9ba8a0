"""The drift function: with a bucket in memory, and as a Lambda process that is killed."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import uuid
from collections.abc import Iterable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aws_lambda_powertools import Logger, Metrics

from functions.drift.handler import Handler
from functions.index.events import parse_message
from likeness.embedding import Embedder
from likeness.errors import ConfigurationError, StoreUnavailable
from likeness.indexing import Indexer
from likeness.records import Hint, ObjectRef
from likeness.settings import Settings
from tests import qdrant_server
from tests.fake_bucket import FakeBucket
from tests.indexes import IndexAddress, open_index
from tests.lambda_runtime import LambdaProcess, ProcessDied, client, queue_event
from tests.pictures import jpeg, png

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "models" / "fixed-filters"
EVENT = json.loads((ROOT / "events" / "schedule.json").read_text())
DRIFT, INDEX = "functions.drift.app.handler", "functions.index.app.handler"


class Context:
    """Lambda's context, whose remaining time falls with each call."""

    function_name = "drift"

    def __init__(self, *left_s: float) -> None:
        self._left_s = list(left_s)

    def get_remaining_time_in_millis(self) -> int:
        left_s = self._left_s.pop(0) if len(self._left_s) > 1 else self._left_s[0]
        return int(left_s * 1000)

    def end(self) -> None:
        self._left_s = [5.0]


class Service:
    """The handler, a bucket, its index, and the queue of hints."""

    def __init__(self, folder: Path) -> None:
        self.index = open_index(folder)
        self.bucket = FakeBucket("photos")
        self.waiting = 0
        self.context = Context(900.0)
        self.sent: list[ObjectRef] = []
        self.indexer = Indexer(self.bucket, self.index, Embedder(MODEL))

    def send(self, refs: Iterable[ObjectRef]) -> int:
        self.sent += refs
        return len(self.sent)

    def depth(self) -> int:
        if self.waiting:
            self.context.end()
        return self.waiting

    def deliver(self) -> None:
        self.indexer.reconcile(self.bucket.events)
        self.bucket.events.clear()

    def handle(self, *left_s: float, store: Any = None, bucket: str | None = "photos") -> Any:
        self.context = Context(*(left_s or (900.0,)))
        logger = Logger(service="drift", logger_handler=logging.NullHandler())
        return Handler(
            store or self.bucket,
            self.index,
            self,
            Settings("http://unused", MODEL, bucket, max_waiting=100),
            logger,
            Metrics(namespace="Test", service="drift"),
        )(EVENT, self.context)


@pytest.fixture
def service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Service]:
    service = Service(tmp_path / "index")
    for i in range(12):
        service.bucket.put(f"{i}.png", png(i, 24, 18))
    service.deliver()
    service.bucket.put("0.png", png(20, 24, 18))
    service.bucket.put("lost.png", png(21, 24, 18))
    service.bucket.remove("1.png")
    service.bucket.events.clear()
    yield service
    service.index.close()


def emitted(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    [line] = [text for text in capsys.readouterr().out.splitlines() if "_aws" in text]
    found = json.loads(line)
    return {name: found[name][0] for name in ("Drift", "Swept", "DriftUnfinished")}


def test_differences_are_counted_and_sent_as_hints(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = service.handle()
    assert {ref.key for ref in service.sent} == {"0.png", "1.png", "lost.png"}
    assert (answer["drift"], answer["missing"], answer["changed"], answer["extra"]) == (3, 1, 1, 1)
    assert emitted(capsys) == {"Drift": 3, "Swept": 0, "DriftUnfinished": 0}
    service.indexer.reconcile([Hint(ref) for ref in service.sent])
    assert service.handle()["drift"] == 0


def test_a_run_without_enough_time_is_continued_by_the_next(
    service: Service, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likeness.drift._PAGE", 5)
    first = service.handle(900.0, 100.0)
    assert (first["points"], first["finished"]) == (5, True)
    second = service.handle(900.0, 900.0, 100.0)
    assert (second["points"], second["next_start"]) == (7, "")
    assert {ref.key for ref in service.sent} == {"0.png", "1.png", "lost.png"}
    assert len(service.sent) == 3
    assert service.handle()["points"] == 12


def test_a_full_queue_ends_the_run_as_unfinished(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.waiting = 100
    assert service.handle()["finished"] is False
    assert service.sent == []
    assert emitted(capsys) == {"Drift": 0, "Swept": 0, "DriftUnfinished": 1}
    service.waiting = 0
    assert service.handle()["drift"] == 3


def test_a_bucket_that_does_not_answer_is_an_error_and_no_drift(service: Service) -> None:
    class Failing(FakeBucket):
        def entries(self, bucket: str, prefix: str, start_after: str = "") -> Any:
            raise StoreUnavailable("S3 answered SlowDown")

    with pytest.raises(StoreUnavailable):
        service.handle(store=Failing())
    assert service.sent == []


def test_a_missing_bucket_setting_is_named(service: Service) -> None:
    with pytest.raises(ConfigurationError, match="LIKENESS_BUCKET"):
        service.handle(bucket=None)


# As a Lambda process


def interrupt(server: ThreadingHTTPServer, call: str, action: Any) -> None:
    """Perform the action at the first matching call, before the call is applied."""
    engine = server.RequestHandlerClass.engine  # type: ignore[attr-defined]
    original = engine.call

    def interrupted(method: str, path: str, body: Any) -> Any:
        if not re.fullmatch(call, f"{method} {path}"):
            return original(method, path, body)
        engine.call = original
        action()
        raise qdrant_server.Refused(503, "interrupted")

    engine.call = interrupted


@pytest.mark.double("kills the function within a call of the server")
@pytest.mark.parametrize(
    "call",
    [
        r"POST /collections/images[^/]*/points/scroll",
        r"POST /collections/images-[0-9a-f]+/points\?.*",
    ],
    ids=["while it reads the index", "after it has sent hints"],
)
def test_a_killed_process_loses_nothing(
    aws: str, double: ThreadingHTTPServer, qdrant: IndexAddress, call: str
) -> None:
    s3, sqs = client("s3", aws), client("sqs", aws)
    bucket = f"pictures-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=bucket)
    queue = sqs.create_queue(QueueName=bucket)["QueueUrl"]
    env = {
        "AWS_ENDPOINT_URL": aws,
        **qdrant.env,
        "LIKENESS_BUCKET": bucket,
        "LIKENESS_QUEUE_URL": queue,
        "LIKENESS_EVENT_LAG_S": "0.001",
        "LIKENESS_MODEL_DIR": str(MODEL),
    }
    with LambdaProcess(INDEX, env) as index, LambdaProcess(DRIFT, env) as drift:
        for key in ("same", "gone"):
            s3.put_object(Bucket=bucket, Key=f"{key}.jpg", Body=jpeg(1))
        index.invoke(queue_event(bucket, ["same.jpg", "gone.jpg"]))
        s3.delete_object(Bucket=bucket, Key="gone.jpg")
        s3.put_object(Bucket=bucket, Key="lost ü+.jpg", Body=jpeg(2))

        def kill() -> None:
            assert drift.pid
            os.kill(drift.pid, signal.SIGKILL)

        interrupt(double, call, kill)
        with pytest.raises(ProcessDied):
            drift.invoke(EVENT, timeout_s=60)
        found = drift.invoke(EVENT, timeout_s=60)
        assert (found["missing"], found["extra"], found["finished"]) == (1, 1, True)
        messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
        keys = {hint.ref.key for m in messages for hint in parse_message(m["Body"])}
        assert keys == {"gone.jpg", "lost ü+.jpg"}
        records = [{"messageId": m["MessageId"], "body": m["Body"]} for m in messages]
        assert index.invoke({"Records": records}) == {"batchItemFailures": []}
        assert drift.invoke(EVENT, timeout_s=60)["drift"] == 0
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    live = {p.ref.key: p.object.etag for p in qdrant.open().scroll(9).points if p.object}
    assert live == {item["Key"]: item["ETag"].strip('"') for item in listed}
    s3.close()
    sqs.close()
