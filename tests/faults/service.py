"""Shared by the fault tests: both functions in processes of their own, the queue between S3 and the
index function, and a proxy in front of Qdrant and of S3.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from console.local.aws import poll_once
from likeness.adapters.sqs import SqsQueue
from likeness.records import ObjectRef, Point, State
from tests.fault_proxy import Fault, FaultProxy, http_answer
from tests.indexes import IndexAddress
from tests.lambda_runtime import LambdaProcess, client, http_event

# As on AWS: each function's Timeout in template.yaml, and the queue's maxReceiveCount.
INDEX_TIMEOUT_S, SEARCH_TIMEOUT_S, MAX_RECEIVES = 60.0, 28.0, 10
QDRANT_TIMEOUT_S = 1.5
# The bucket whose objects queries may name; its events are not sent anywhere.
QUERIES = "photos-of-queries"
# Faults of Qdrant, used for both functions.
QDRANT_FAULTS = {
    "is down: connections are reset": Fault(reset=True),
    "is half-open: accepts connections, never answers": Fault(silent=True),
    "is slow: answers after the time limit of a call": Fault(wait_s=2 * QDRANT_TIMEOUT_S),
    "is slow: its response arrives byte by byte": Fault(pause_s=0.01),
    "answers 5xx": Fault(answer=http_answer("503 Service Unavailable")),
    "answers with a proxy's error page": Fault(
        answer=http_answer("200 OK", b"<html>Bad gateway</html>", "text/html")
    ),
    "cuts its response off in the middle": Fault(cut_after=150),
    "executes the request, and its response is lost": Fault(cut_after=0),
}
SLOW_DOWN = http_answer(
    "503 Slow Down",
    b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>",
    "application/xml",
)


class Functions:
    """The two functions; `qdrant` and `s3` are the proxies of their connections."""

    def __init__(self, aws_url: str, qdrant: IndexAddress) -> None:
        self.aws_url = aws_url
        self.stored = qdrant.open()
        self.qdrant, self.s3 = FaultProxy(qdrant.url), FaultProxy(aws_url)
        env = {
            **replace(qdrant, url=self.qdrant.url).env,
            "AWS_ENDPOINT_URL": self.s3.url,
            "LIKENESS_BUCKET": QUERIES,
            "QDRANT_TIMEOUT_S": str(QDRANT_TIMEOUT_S),
        }
        self.index = LambdaProcess("functions.index.app.handler", env)
        self.search = LambdaProcess("functions.search.app.handler", env)
        with closing(client("s3", aws_url)) as s3:
            s3.create_bucket(Bucket=QUERIES)

    def close(self) -> None:
        for part in (self.qdrant, self.s3):
            part.stop()
        for function in (self.index, self.search):
            with function:
                pass
        self.stored.close()

    def search_by_image(self, image: bytes, timeout_s: float = SEARCH_TIMEOUT_S) -> Answer:
        """Search by an image. Raises TimedOut where Lambda would have ended the function."""
        return self.call(http_event("POST", "/v1/search", image), timeout_s)

    def call(self, event: dict[str, Any], timeout_s: float = SEARCH_TIMEOUT_S) -> Answer:
        return Answer(self.search.invoke(event, timeout_s))


class Answer:
    """An HTTP response, as the function returns it to API Gateway."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.status: int = answer["statusCode"]
        self.headers: dict[str, str] = answer["headers"]
        self.json: Any = json.loads(answer["body"])

    def assert_retry_later(self, slug: str) -> None:
        found = (self.status, self.json["type"], self.headers["content-type"])
        assert found == (503, f"urn:likeness:problem:{slug}", "application/problem+json")
        assert int(self.headers["retry-after"]) >= 1


class Bucket:
    """A versioned bucket for one test, whose events go to a queue of its own.

    A failed message is visible again at once, without the wait that AWS has in between.
    """

    def __init__(self, functions: Functions) -> None:
        self.name = f"photos-{uuid.uuid4().hex[:8]}"
        self._functions = functions
        self.s3, self._sqs = client("s3", functions.aws_url), client("sqs", functions.aws_url)
        self._dead = self._create_queue(f"{self.name}-dead")
        redrive = {"deadLetterTargetArn": self._arn(self._dead), "maxReceiveCount": MAX_RECEIVES}
        self._queue = self._create_queue(self.name, RedrivePolicy=json.dumps(redrive))
        self.s3.create_bucket(Bucket=self.name)
        self.s3.put_bucket_versioning(
            Bucket=self.name, VersioningConfiguration={"Status": "Enabled"}
        )
        events = ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]
        notify = {"QueueArn": self._arn(self._queue), "Events": events}
        self.s3.put_bucket_notification_configuration(
            Bucket=self.name, NotificationConfiguration={"QueueConfigurations": [notify]}
        )
        self.drain()  # S3's test event

    def close(self) -> None:
        self.s3.close()
        self._sqs.close()

    # actions of the bucket's owner

    def put(self, **files: bytes) -> None:
        for key, data in files.items():
            self.s3.put_object(Bucket=self.name, Key=key, Body=data)

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.s3.delete_object(Bucket=self.name, Key=key)

    # actions of the queue

    def process_batch(self, timeout_s: float = INDEX_TIMEOUT_S) -> int:
        """Send one batch to the index function; returns how many messages it acknowledged."""

        def invoke(event: Any, _: Any) -> Any:
            return self._functions.index.invoke(event, timeout_s)

        return poll_once(self._sqs, self._queue, invoke, wait_s=0)

    def receive_without_deleting(self) -> None:
        """Receive every message once without deleting any, as if the function had died."""
        remaining = self.waiting()
        while remaining > 0:
            received = self._sqs.receive_message(QueueUrl=self._queue, MaxNumberOfMessages=10)
            remaining -= len(received["Messages"])

    def deliver(self) -> None:
        """Process batches until the queue is empty; some messages may become dead letters."""
        while self.waiting():
            self.process_batch()

    def waiting(self) -> int:
        return self._count(self._queue)

    def dead_letters(self) -> int:
        return self._count(self._dead)

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self._sqs.send_message(QueueUrl=self._queue, MessageBody=body)

    def hint(self, *keys: str) -> None:
        """Send hints, like `likeness backfill s3://…` and the drift function."""
        SqsQueue(self._queue, self._sqs).send(ObjectRef(self.name, key) for key in keys)

    def drain(self) -> list[str]:
        """Empty the queue; returns the bodies of its messages, in order."""
        return self._drain(self._queue)

    def redrive(self) -> None:
        """Move the dead letters back to the queue, as an operator does."""
        self.send(*self._drain(self._dead))

    # results

    def points(self) -> dict[str, Point]:
        """The index's points of this bucket, by key. Fails if an object has two points."""
        found, cursor = [], None
        while True:
            page = self._functions.stored.scroll(1000, cursor)
            found += [point for point in page.points if point.ref.bucket == self.name]
            if not (cursor := page.next_cursor):
                break
        assert max(Counter(point.ref.key for point in found).values(), default=0) <= 1
        return {point.ref.key: point for point in found}

    def indexed(self) -> dict[str, tuple[str, str | None]]:
        """ETag and version of each object that is in the bucket according to the index."""
        return {
            key: (point.object.etag, point.object.version_id)
            for key, point in self.points().items()
            if point.object
        }

    def objects(self) -> dict[str, tuple[str, str]]:
        """ETag and version of each object in the bucket."""
        listed = self.s3.list_object_versions(Bucket=self.name).get("Versions", [])
        return {o["Key"]: (o["ETag"].strip('"'), o["VersionId"]) for o in listed if o["IsLatest"]}

    def assert_indexed(self, rejected: Iterable[str] = ()) -> None:
        """Assert that the index equals the bucket, and that no message is left."""
        assert self.indexed() == self.objects()
        points, bad = self.points(), set(rejected)
        states = {key: point.state for key, point in points.items() if point.object}
        expected = {k: State.REJECTED if k in bad else State.LIVE for k in self.objects()}
        assert states == expected
        assert {p.state for p in points.values() if not p.object} <= {State.GONE}
        assert (self.waiting(), self.dead_letters()) == (0, 0)

    def times_embedded(self, key: str) -> int:
        """How often the function wrote an object's vector, according to its log."""
        lines = re.findall(r'^\{.*"reconciled".*\}$', self._functions.index.log, re.MULTILINE)
        results = [(entry["key"], entry["result"]) for entry in map(json.loads, lines)]
        return results.count((key, "indexed"))

    def _create_queue(self, name: str, **attributes: str) -> str:
        options = {"VisibilityTimeout": "0", **attributes}
        url: str = self._sqs.create_queue(QueueName=name, Attributes=options)["QueueUrl"]
        return url

    def _arn(self, url: str) -> str:
        return str(self._attribute(url, "QueueArn"))

    def _count(self, url: str) -> int:
        return int(self._attribute(url, "ApproximateNumberOfMessages"))

    def _attribute(self, url: str, name: str) -> str:
        answer = self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[name])
        return str(answer["Attributes"][name])

    def _drain(self, url: str) -> list[str]:
        bodies: list[str] = []
        while True:
            messages = self._sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=1).get(
                "Messages"
            )
            if not messages:
                return bodies
            bodies.append(messages[0]["Body"])
            self._sqs.delete_message(QueueUrl=url, ReceiptHandle=messages[0]["ReceiptHandle"])


def notification(bucket: str, keys: Iterable[str]) -> str:
    """One S3 notification about many objects."""
    records = [
        {"s3": {"bucket": {"name": bucket}, "object": {"key": quote(key), "sequencer": "0A"}}}
        for key in keys
    ]
    return json.dumps({"Records": records})
