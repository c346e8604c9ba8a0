"""The event bus: with botocore's stub, then with the API of a local AWS."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import msgspec
import pytest
from botocore.config import Config
from botocore.stub import Stubber

from likeness.adapters.eventbridge import EventBus
from likeness.embedding import Embedder
from likeness.errors import Unavailable
from likeness.proof.verdicts import CALIBRATION
from likeness.records import DuplicateMatch, ObjectRef, Point, State, Version
from tests import lambda_runtime
from tests.calibrations import BUNDLES, calibration_of
from tests.fault_server import closed_port
from tests.pictures import jpeg, png

PATTERN = {"source": ["likeness"], "detail-type": ["Duplicate Found"]}


def matches(count: int, key: str, verdict: str = "copy") -> tuple[DuplicateMatch, ...]:
    return tuple(DuplicateMatch(f"{i:036}", f"{i}{key}", verdict, 0.9731) for i in range(count))


def point(n: int = 0, key: str = "b.jpg", partners: int = 1, variants: int = 0) -> Point:
    return Point(
        ObjectRef("photos", f"{n}{key}"),
        State.LIVE,
        Version(1),
        "m",
        1.0,
        partners=matches(partners, key),
        original="0" * 36,
        group="1" * 36,
        variants=matches(variants, key, "variant"),
        variant_original="2" * 36,
        variant_group="3" * 36,
    )


@pytest.fixture
def stub() -> Iterator[Stubber]:
    client = boto3.client(
        "events", "us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def accepted(count: int) -> dict[str, Any]:
    return {"FailedEntryCount": 0, "Entries": [{"EventId": f"{n}"} for n in range(count)]}


def entry(of: Point) -> dict[str, str]:
    detail = {
        "bucket": "photos",
        "key": of.ref.key,
        "id": of.id,
        "group": of.group,
        "original": of.original or of.id,
        "duplicates": msgspec.to_builtins(of.partners),
        "variants": msgspec.to_builtins(of.variants),
    }
    return {
        "EventBusName": "bus",
        "Source": "likeness",
        "DetailType": "Duplicate Found",
        "Detail": json.dumps(detail, ensure_ascii=False, separators=(",", ":")),
    }


def announce(stub: Stubber, points: Sequence[Point]) -> None:
    EventBus("bus", stub.client).announce(points)


def test_an_event_names_the_image_its_group_and_its_duplicates(stub: Stubber) -> None:
    found = point(key=" ü+😀.jpg", partners=2)
    first = msgspec.structs.replace(found, original=None)
    stub.add_response("put_events", accepted(2), {"Entries": [entry(found), entry(first)]})
    announce(stub, [found, first])


def test_an_event_names_the_tenant_where_there_are_any(stub: Stubber) -> None:
    plain = entry(point())
    detail = {**json.loads(plain["Detail"]), "tenant": "acme"}
    wanted = {**plain, "Detail": json.dumps(detail, separators=(",", ":"))}
    stub.add_response("put_events", accepted(1), {"Entries": [wanted]})
    announce(stub, [msgspec.structs.replace(point(), tenant="acme")])


def test_an_image_with_variants_and_no_duplicates_is_announced_as_another_kind_of_event(
    stub: Stubber,
) -> None:
    found = point(partners=0, variants=2)
    plain = entry(found)
    of_variants = {"group": "3" * 36, "original": "2" * 36}
    detail = {**json.loads(plain["Detail"]), **of_variants}
    wanted = {
        **plain,
        "DetailType": "Variant Found",
        "Detail": json.dumps(detail, separators=(",", ":")),
    }
    stub.add_response("put_events", accepted(1), {"Entries": [wanted]})
    announce(stub, [found])


def test_events_are_sent_five_at_a_time(stub: Stubber) -> None:
    points = [point(n) for n in range(13)]
    for at, count in ((0, 5), (5, 5), (10, 3)):
        wanted = {"Entries": [entry(found) for found in points[at : at + count]]}
        stub.add_response("put_events", accepted(count), wanted)
    announce(stub, points)


def test_without_points_nothing_is_sent(stub: Stubber) -> None:
    announce(stub, [])


def test_the_longest_events_fit_into_one_request(stub: Stubber) -> None:
    # 21 keys of 1,024 bytes each; the limit of PutEvents was 256 KB before it was raised
    points = [point(n, "€" * 341, partners=10, variants=10) for n in range(5)]
    assert sum(len(text.encode()) for p in points for text in entry(p).values()) < 256_000
    stub.add_response("put_events", accepted(5), {"Entries": [entry(found) for found in points]})
    announce(stub, points)


def test_a_refused_event_raises_with_its_reason(stub: Stubber) -> None:
    answer = accepted(3)
    answer["FailedEntryCount"] = 1
    answer["Entries"][1] = {"ErrorCode": "ThrottlingException", "ErrorMessage": "slow down"}
    stub.add_response("put_events", answer)
    with pytest.raises(Unavailable, match="refused 1 events: ThrottlingException"):
        announce(stub, [point(n) for n in range(3)])


@pytest.mark.parametrize("code", ["AccessDeniedException", "InternalException"])
def test_a_failing_call_raises_with_its_reason(stub: Stubber, code: str) -> None:
    stub.add_client_error("put_events", code, http_status_code=400)
    with pytest.raises(Unavailable, match=f"the event bus is not answering.*{code}"):
        announce(stub, [point()])


def test_an_unreachable_bus_raises() -> None:
    client = boto3.client(
        "events",
        "us-east-1",
        endpoint_url=closed_port(),
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}),
    )
    with pytest.raises(Unavailable, match="not answering"):
        EventBus("bus", client).announce([point()])


# A local AWS


class Bus:
    """An event bus, and a queue that receives its events."""

    def __init__(self, url: str) -> None:
        self.client = lambda_runtime.client("events", url)
        self._sqs = lambda_runtime.client("sqs", url)
        self.name = f"bus-{uuid.uuid4().hex[:8]}"
        self.arn = self.client.create_event_bus(Name=self.name)["EventBusArn"]
        self._queue = self._sqs.create_queue(QueueName=self.name)["QueueUrl"]
        facts = self._sqs.get_queue_attributes(QueueUrl=self._queue, AttributeNames=["QueueArn"])
        pattern = json.dumps(PATTERN)
        self.client.put_rule(Name="all", EventBusName=self.name, EventPattern=pattern)
        target = {"Id": "queue", "Arn": facts["Attributes"]["QueueArn"]}
        self.client.put_targets(Rule="all", EventBusName=self.name, Targets=[target])

    def received(self) -> list[Any]:
        """All received events, in any order."""
        bodies: list[Any] = []
        while True:
            answer = self._sqs.receive_message(
                QueueUrl=self._queue, MaxNumberOfMessages=10, WaitTimeSeconds=1
            )
            if not answer.get("Messages"):
                return bodies
            for message in answer["Messages"]:
                bodies.append(json.loads(message["Body"]))
                self._sqs.delete_message(
                    QueueUrl=self._queue, ReceiptHandle=message["ReceiptHandle"]
                )


@pytest.fixture
def bus(aws: str) -> Bus:
    return Bus(aws)


@pytest.mark.parametrize("by", ["name", "arn"])
def test_a_rule_on_the_bus_receives_the_events(bus: Bus, by: str) -> None:
    points = [point(n, key=" ü+😀.jpg") for n in range(12)]
    EventBus(getattr(bus, by), bus.client).announce(points)
    received = bus.received()
    assert len(received) == 12
    details = {event["detail"]["id"]: event["detail"] for event in received}
    assert details == {found.id: json.loads(entry(found)["Detail"]) for found in points}


@pytest.mark.parametrize("reachable", [True, False])
def test_the_index_function_announces_duplicates_and_works_without_the_bus(
    aws: str, bus: Bus, tmp_path: Path, reachable: bool
) -> None:
    bundle = tmp_path / "model"
    shutil.copytree(BUNDLES[0], bundle)
    calibration = calibration_of(Embedder(bundle).spec)
    (bundle / CALIBRATION).write_bytes(msgspec.json.encode(calibration))
    s3 = lambda_runtime.client("s3", aws)
    s3.create_bucket(Bucket=bus.name)
    for key, data in {"a.png": png(1), "b.jpg": jpeg(1), "c.png": png(2)}.items():
        s3.put_object(Bucket=bus.name, Key=key, Body=data)
    environment = {
        "QDRANT_URL": (tmp_path / "index").as_uri(),
        "AWS_ENDPOINT_URL": aws,
        "LIKENESS_MODEL_DIR": str(bundle),
        "LIKENESS_EVENT_BUS": bus.name,
        **({} if reachable else {"AWS_ENDPOINT_URL_EVENTBRIDGE": closed_port()}),
    }
    with lambda_runtime.LambdaProcess("functions.index.app.handler", environment) as function:
        answer = function.invoke(lambda_runtime.queue_event(bus.name, ["a.png", "b.jpg", "c.png"]))
        assert answer == {"batchItemFailures": []}
        log = function.log
    if reachable:
        [event] = bus.received()
        assert event["detail"]["key"] == "b.jpg"
        assert event["detail"]["original"] == ObjectRef(bus.name, "a.png").point_id
        [match] = event["detail"]["duplicates"]
        assert (match["key"], match["verdict"]) == ("a.png", "copy")
        assert "Unannounced" not in log
    else:
        assert bus.received() == []
        assert "duplicates not announced" in log
        assert '"Unannounced":[1.0]' in log
