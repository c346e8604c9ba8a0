"""The feed function's handler: a batch of a listing, as Step Functions sends it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from aws_lambda_powertools import Logger

from functions.feed.handler import Handler
from likeness.errors import (
    ConfigurationError,
    InvalidRequest,
    QueueFull,
    StoreUnavailable,
)
from likeness.records import ObjectRef
from likeness.settings import Settings

EVENT = json.loads((Path(__file__).parents[2] / "events" / "map_batch.json").read_text())


class Queue:
    def __init__(self, waiting: int = 0) -> None:
        self.waiting = waiting
        self.sent: list[ObjectRef] = []

    def send(self, refs: Iterable[ObjectRef]) -> int:
        self.sent += refs
        return len(self.sent)

    def depth(self) -> int:
        return self.waiting


def handle(queue: Any, event: Any, bucket: str | None = "photos") -> Any:
    settings = Settings("http://unused", Path("unused"), bucket, max_waiting=100)
    logger = Logger(service="feed", logger_handler=logging.NullHandler())
    return Handler(queue, settings, logger)(event, None)


def test_a_batch_of_a_listing_becomes_hints_for_its_images() -> None:
    queue = Queue()
    assert handle(queue, EVENT) == {"sent": 2, "skipped": 2}
    assert queue.sent == [ObjectRef("photos", "in/a+b ü%.jpg"), ObjectRef("photos", "in/5f3a")]


def test_with_the_option_all_every_object_gets_a_hint() -> None:
    queue = Queue()
    event = {**EVENT, "BatchInput": {"all": True}}
    assert handle(queue, event) == {"sent": 4, "skipped": 0}


def test_a_full_queue_gets_nothing_and_the_state_machine_retries() -> None:
    queue = Queue(waiting=100)
    with pytest.raises(QueueFull):
        handle(queue, EVENT)
    assert queue.sent == []
    queue.waiting = 99
    assert handle(queue, EVENT)["sent"] == 2


def test_a_batch_without_images_needs_no_room() -> None:
    items = [{"Key": "in/", "Size": 0}]
    assert handle(Queue(waiting=10**6), {**EVENT, "Items": items}) == {"sent": 0, "skipped": 1}


def test_an_error_of_the_queue_is_raised() -> None:
    class Failing(Queue):
        def send(self, refs: Iterable[ObjectRef]) -> int:
            raise StoreUnavailable("the queue refused a hint")

    with pytest.raises(StoreUnavailable):
        handle(Failing(), EVENT)


@pytest.mark.parametrize(
    "event",
    [{}, [], "no", {"Items": [{"Key": "a.jpg"}]}, {"Items": [{"Key": "a", "Size": "x"}]},
     {"Items": 7}, {"Items": [], "BatchInput": []}],
)  # fmt: skip
def test_an_event_that_is_no_batch_of_a_listing_is_refused(event: Any) -> None:
    with pytest.raises(InvalidRequest, match="not a batch of a listing"):
        handle(Queue(), event)


def test_a_missing_bucket_setting_is_named() -> None:
    with pytest.raises(ConfigurationError, match="LIKENESS_BUCKET"):
        handle(Queue(), EVENT, bucket=None)
