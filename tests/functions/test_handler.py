"""The index function's handler with a bucket in memory and the real embedded engine.

Invalid files, decompression bombs, repeated and reordered events, and failing dependencies.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import numpy as np
import pytest
from aws_lambda_powertools import Logger, Metrics
from PIL import Image

from functions.index.handler import Handler
from likeness.embedding import Embedder
from likeness.errors import (
    ConfigurationError,
    IndexFull,
    IndexMissing,
    StoreUnavailable,
    Unavailable,
)
from likeness.filters import Schema
from likeness.indexing import Indexer, IndexerConfig, Result
from likeness.ports import VectorIndex
from likeness.records import Hint, NearestQuery, ObjectRef, Point, State
from likeness.stopwatch import Stopwatch
from tests.fake_bucket import FakeBucket
from tests.indexes import open_index
from tests.pictures import HOSTILE, encoded, jpeg, picture, png

MODEL = Path(__file__).parents[1] / "models" / "fixed-filters"
EVENTS = Path(__file__).parents[2] / "events"
SCHEMA = Schema.declare({"brand": "keyword", "price": "float"})


class Service:
    """The handler, the bucket it watches and the index it keeps."""

    def __init__(self, index: VectorIndex) -> None:
        self.index = index
        self.bucket = FakeBucket("photos")
        self.embedder = Embedder(MODEL)
        self.store: Any = self.bucket
        self.schema = SCHEMA
        self._ids = itertools.count(1)

    def handle(self, event: dict[str, Any]) -> dict[str, Any]:
        watch = Stopwatch()
        config = IndexerConfig(self.schema)
        indexer = Indexer(self.store, self.index, self.embedder, config, stage=watch.stage)
        logger = Logger(service="index", logger_handler=logging.NullHandler())
        metrics = Metrics(namespace="Test", service="index")
        return Handler(indexer, logger, metrics, watch)(event, None)

    def deliver(self, *keys: str, times: int = 1) -> dict[str, Any]:
        """One SQS batch with a message for each key; returns the handler's answer."""
        bodies = [notification(self.bucket.name, key) for key in keys] * times
        return self.handle(self.batch(*bodies))

    def batch(self, *bodies: str) -> dict[str, Any]:
        records = [{"messageId": f"m{next(self._ids)}", "body": body} for body in bodies]
        return {"Records": records}

    def point(self, key: str) -> Point | None:
        point_id = ObjectRef(self.bucket.name, key).point_id
        return self.index.retrieve_with_vectors([point_id]).get(point_id)


def notification(bucket: str, key: str) -> str:
    s3 = {"bucket": {"name": bucket}, "object": {"key": quote_plus(key), "sequencer": "0A"}}
    return json.dumps({"Records": [{"eventTime": "2026-11-22T10:00:00.000Z", "s3": s3}]})


@pytest.fixture
def service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Service]:
    index = open_index(tmp_path / "index", SCHEMA)
    yield Service(index)
    index.close()


def animated_gif() -> bytes:
    frames = [picture(seed, 32, 24).convert("P") for seed in range(20)] * 25
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def odd_cmyk() -> bytes:
    return encoded(picture(3).convert("CMYK"), "JPEG", icc_profile=b"\x00no profile at all" * 9)


def test_an_upload_becomes_searchable_with_its_metadata(service: Service) -> None:
    service.bucket.put("a.png", png(1), {"brand": "acme", "price": "9.5", "other": "x"})
    assert service.deliver("a.png") == {"batchItemFailures": []}
    point = service.point("a.png")
    assert point is not None and point.vector is not None and point.image is not None
    assert point.meta == {"brand": "acme", "price": 9.5}
    assert (point.image.width, point.image.height, point.image.format) == (96, 72, "PNG")
    [[found]] = service.index.nearest([NearestQuery([point.vector], 5)])
    assert found.point.ref.key == "a.png"


def test_metadata_of_another_type_is_ignored_and_named(service: Service) -> None:
    service.bucket.put("a.png", png(1), {"brand": "acme", "price": "cheap"})
    service.deliver("a.png")
    point = service.point("a.png")
    assert point is not None and point.state is State.LIVE
    assert point.meta == {"brand": "acme"}
    assert point.detail == "metadata ignored, not of its type: price"


def test_tags_are_metadata_too_but_metadata_takes_precedence(service: Service) -> None:
    service.bucket.put("a.png", png(1), {"price": "2"}, tags={"brand": "zeta", "price": "1"})
    service.deliver("a.png")
    point = service.point("a.png")
    assert point is not None and point.meta == {"brand": "zeta", "price": 2.0}


@pytest.mark.parametrize(("data", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_bad_file_is_recorded_as_rejected_and_acknowledged(
    service: Service, data: bytes, reason: str
) -> None:
    service.bucket.put("bad.jpg", data)
    service.bucket.put("good.png", png(2))
    assert service.deliver("bad.jpg", "good.png") == {"batchItemFailures": []}
    bad, good = service.point("bad.jpg"), service.point("good.png")
    assert bad is not None and (bad.state, bad.reason, bad.vector) == (
        State.REJECTED,
        reason,
        None,
    )
    assert bad.detail
    assert good is not None and good.state is State.LIVE


def test_a_huge_object_is_rejected_without_being_read(service: Service) -> None:
    service.bucket.put("huge.jpg", bytes(100_000_000))
    service.store = FailingReads(service.bucket)
    assert service.deliver("huge.jpg") == {"batchItemFailures": []}
    point = service.point("huge.jpg")
    assert point is not None and point.reason == "image-too-large"


@pytest.mark.parametrize("data", [animated_gif(), odd_cmyk()], ids=["500 frames", "CMYK"])
def test_an_odd_but_valid_file_is_indexed(service: Service, data: bytes) -> None:
    service.bucket.put("odd", data)
    service.deliver("odd")
    point = service.point("odd")
    assert point is not None and point.state is State.LIVE


@pytest.mark.parametrize(
    "key", ["a%2Bb.png", "a+b c.png", "../up/./.png", "😀/ü.png", "a//b", "x" * 1000, "a\tb?&=#"]
)
def test_any_key_is_indexed_under_its_own_name(service: Service, key: str) -> None:
    service.bucket.put(key, png(1))
    assert service.deliver(key) == {"batchItemFailures": []}
    point = service.point(key)
    assert point is not None and point.ref.key == key


def test_the_same_event_five_times_stores_one_point(service: Service) -> None:
    service.bucket.put("a.png", png(1))
    for _ in range(5):
        assert service.deliver("a.png", times=5) == {"batchItemFailures": []}
    assert service.index.info().points == 1


def test_shuffled_events_of_overwrites_and_deletes_leave_the_right_points(service: Service) -> None:
    keys = [f"k{i}.png" for i in range(6)]
    for round_ in range(3):
        for i, key in enumerate(keys):
            service.bucket.put(key, png(10 * round_ + i))
        if round_ == 0:
            service.deliver(*keys)
    for key in keys[:3]:
        service.bucket.remove(key)
    events = keys * 4
    random.Random(5).shuffle(events)
    for at in range(0, len(events), 10):
        service.deliver(*events[at : at + 10])
    states = [service.point(key).state for key in keys]  # type: ignore[union-attr]
    assert states == [State.GONE] * 3 + [State.LIVE] * 3


def test_an_object_deleted_between_event_and_read_leaves_no_trace(service: Service) -> None:
    service.bucket.put("a.png", png(1))
    service.store = DeletingOnRead(service.bucket)
    assert service.deliver("a.png") == {"batchItemFailures": []}
    assert service.point("a.png") is None


def test_an_overwritten_rejected_file_becomes_live(service: Service) -> None:
    service.bucket.put("a.png", b"garbage")
    service.deliver("a.png")
    service.bucket.put("a.png", png(1))
    service.deliver("a.png")
    point = service.point("a.png")
    assert point is not None and (point.state, point.reason) == (State.LIVE, None)


def test_an_error_of_the_store_fails_its_record_alone(service: Service) -> None:
    for key in ("a.png", "b.png", "c.png"):
        service.bucket.put(key, png(ord(key[0])))
    service.store = FailingReads(service.bucket, only="b.png")
    event = service.batch(*(notification("photos", f"{key}.png") for key in "abc"))
    answer = service.handle(event)
    assert answer == {"batchItemFailures": [{"itemIdentifier": event["Records"][1]["messageId"]}]}
    assert service.point("b.png") is None
    assert service.point("a.png") and service.point("c.png")


def test_a_newly_declared_key_is_added_to_points_indexed_before(service: Service) -> None:
    service.bucket.put("a.png", png(1), {"colour": "red"})
    service.deliver("a.png")
    service.schema = Schema.declare({"colour": "keyword"})
    service.deliver("a.png")
    point = service.point("a.png")
    assert point is not None and point.meta == {"colour": "red"}


def test_new_metadata_on_the_same_bytes_is_indexed_in_an_unversioned_bucket(
    service: Service,
) -> None:
    service.bucket.versioned = False
    service.bucket.put("a.png", png(1), {"brand": "old"})
    service.deliver("a.png")
    service.bucket.put("a.png", png(1), {"brand": "new"})
    service.deliver("a.png")
    point = service.point("a.png")
    assert point is not None and point.meta == {"brand": "new"}


def test_a_dropped_collection_is_created_again_by_the_retry(service: Service) -> None:
    service.bucket.put("a.png", png(1))
    indexer = Indexer(service.bucket, DroppedOnce(service.index), service.embedder)
    hints = [Hint(service.bucket.ref("a.png"))]
    assert indexer.reconcile(hints)[hints[0].ref].result is Result.FAILED
    assert indexer.reconcile(hints)[hints[0].ref].result is Result.INDEXED


def test_a_message_with_many_records_is_processed_in_chunks(service: Service) -> None:
    keys = [f"{i}.png" for i in range(25)]
    for i, key in enumerate(keys):
        service.bucket.put(key, png(i, 24, 18))
    records = [json.loads(notification("photos", key))["Records"][0] for key in keys]
    answer = service.handle(service.batch(json.dumps({"Records": records})))
    assert answer == {"batchItemFailures": []}
    assert service.index.info().points == 25


@pytest.mark.parametrize("fault", [ConfigurationError("a decoder is missing"), MemoryError()])
def test_an_image_that_fails_by_a_server_error_fails_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    service.bucket.put("a.png", png(1))
    service.bucket.put("b.png", png(2))
    preprocess = service.embedder.preprocess
    faults = [fault]

    def failing_first(image: Image.Image) -> Any:
        if faults:
            raise faults.pop()
        return preprocess(image)

    monkeypatch.setattr(service.embedder, "preprocess", failing_first)
    assert len(service.deliver("a.png", "b.png")["batchItemFailures"]) == 1
    assert service.point("b.png") is not None
    assert service.deliver("a.png") == {"batchItemFailures": []}


def test_an_image_without_a_vector_is_rejected_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.bucket.put("a.png", png(1))
    service.bucket.put("b.png", png(2))
    extract = service.embedder.extract

    def nan_first(tensors: Any) -> Any:
        features = extract(tensors)
        features.vectors[0] = np.nan
        return features

    monkeypatch.setattr(service.embedder, "extract", nan_first)
    assert service.deliver("a.png", "b.png") == {"batchItemFailures": []}
    a, b = service.point("a.png"), service.point("b.png")
    assert a is not None and (a.state, a.reason) == (State.REJECTED, "no-detail")
    assert b is not None and b.state is State.LIVE


@pytest.mark.double("a closed folder stands for a server that is down")
def test_an_index_that_is_down_fails_every_record(service: Service) -> None:
    service.bucket.put("a.png", png(1))
    service.index.close()
    event = service.batch(notification("photos", "a.png"), notification("photos", "b.png"))
    failed = service.handle(event)["batchItemFailures"]
    assert [f["itemIdentifier"] for f in failed] == [r["messageId"] for r in event["Records"]]


def test_an_unreadable_message_fails_alone(service: Service) -> None:
    service.bucket.put("a.png", png(1))
    event = service.batch("no JSON", notification("photos", "a.png"))
    failed = service.handle(event)["batchItemFailures"]
    assert [f["itemIdentifier"] for f in failed] == [event["Records"][0]["messageId"]]
    assert service.point("a.png") is not None


def test_the_test_event_is_acknowledged(service: Service) -> None:
    event = json.loads((EVENTS / "sqs_s3_test.json").read_text())
    assert service.handle(event) == {"batchItemFailures": []}


def test_a_direct_event_returns_the_number_of_indexed_objects(service: Service) -> None:
    service.bucket.put("holiday/café + sun 100% 😀.jpg", jpeg(1))
    event = json.loads((EVENTS / "s3_put.json").read_text())
    assert service.handle(event) == {"indexed": 1}


@pytest.mark.double("a closed folder stands for a server that is down")
def test_a_direct_event_that_failed_raises_so_that_lambda_retries_it(service: Service) -> None:
    service.bucket.put("holiday/café + sun 100% 😀.jpg", jpeg(1))
    service.index.close()
    with pytest.raises(Unavailable):
        service.handle(json.loads((EVENTS / "s3_put.json").read_text()))


@pytest.mark.parametrize(
    "name",
    sorted(
        path.stem
        for path in EVENTS.glob("*.json")
        if not path.stem.startswith(("api_", "map_", "schedule"))  # other functions'
    ),
)
def test_the_function_accepts_every_event_file(service: Service, name: str) -> None:
    event = json.loads((EVENTS / f"{name}.json").read_text())
    answer = service.handle(event)
    if name.startswith("sqs_"):
        assert len(answer["batchItemFailures"]) == (name == "sqs_unreadable")
    else:
        assert answer == {"indexed": 0}  # the bucket holds none of their objects


def test_metrics_count_results_and_measure_times(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.bucket.put("a.png", png(1))
    service.bucket.put("b.png", b"garbage")
    service.deliver("a.png", "b.png")
    reasons, emitted = emitted_metrics(capsys)
    assert (reasons["reason"], reasons["Rejected"]) == ("not-an-image", [1.0])
    assert (emitted["Indexed"], emitted["Rejected"]) == ([1.0], [1.0])
    assert emitted["ReconcileLoops"] == [1.0, 1.0]
    assert emitted["ColdStart"] == [1.0]
    assert all(lag >= 0 for lag in emitted["EventLagSeconds"])
    assert emitted["EmbedMs"][0] > 0 and emitted["QdrantMs"][0] > 0


def test_an_object_in_sync_counts_as_skipped(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.bucket.put("a.png", png(1))
    service.deliver("a.png")
    service.deliver("a.png")
    first, second = emitted_metrics(capsys)
    assert "Skipped" not in first and second["Skipped"] == [1.0]
    assert "EmbedMs" not in second


@pytest.mark.fault(
    "Qdrant's memory or disk quota is reached (507), while images are indexed",
    seen="the messages stay in the queue; an alarm of its own",
    heals="the queue delivers them again, once there is room",
)
def test_objects_that_a_full_index_does_not_take_are_counted_and_stay_in_the_queue(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(model: str, points: Any) -> None:
        raise IndexFull("the index is full: a memory or disk quota ended PUT (HTTP 507)")

    service.bucket.put("a.png", png(1))
    service.bucket.put("b.png", png(2))
    monkeypatch.setattr(service.index, "write", full)
    assert len(service.deliver("a.png", "b.png")["batchItemFailures"]) == 2
    monkeypatch.undo()
    assert service.deliver("a.png", "b.png")["batchItemFailures"] == []
    refused, stored = emitted_metrics(capsys)
    assert (refused["IndexFull"], refused["Failed"]) == ([1.0, 1.0], [1.0, 1.0])
    assert stored["Indexed"] == [1.0, 1.0] and "IndexFull" not in stored


def emitted_metrics(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in capsys.readouterr().out.splitlines() if "_aws" in text]


class DroppedOnce:
    """An index whose collection is dropped after it was prepared for the first time."""

    def __init__(self, index: VectorIndex) -> None:
        self._index = index
        self._prepared = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def prepare(self, *arguments: Any) -> None:
        self._index.prepare(*arguments)
        self._prepared += 1

    def retrieve_payloads(self, model: str, ids: Any) -> Any:
        if self._prepared == 1:
            raise IndexMissing("there is no collection")
        return self._index.retrieve_payloads(model, ids)


class FailingReads:
    """A store whose reads fail: all of them, or those of one key."""

    def __init__(self, bucket: FakeBucket, only: str | None = None) -> None:
        self._bucket = bucket
        self._only = only

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket, name)

    def read(self, ref: ObjectRef, etag: str, max_bytes: int) -> Any:
        if self._only in (None, ref.key):
            raise StoreUnavailable("S3 answered SlowDown")
        return self._bucket.read(ref, etag, max_bytes)


class DeletingOnRead:
    """A store whose object is deleted just before it is read."""

    def __init__(self, bucket: FakeBucket) -> None:
        self._bucket = bucket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket, name)

    def read(self, ref: ObjectRef, etag: str, max_bytes: int) -> Any:
        self._bucket.remove(ref.key)
        return self._bucket.read(ref, etag, max_bytes)
