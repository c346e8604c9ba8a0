"""Hints are sent only as fast as they are processed."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from likeness.errors import QueueFull
from likeness.feeding import HintFeeder, may_be_image
from likeness.records import ObjectRef


class Queue:
    """Counts waiting messages; `work` of them are processed during each pause."""

    def __init__(self, work: int = 0) -> None:
        self.waiting = 0
        self.deepest = 0
        self.pauses = 0
        self._work = work

    def send(self, refs: Iterable[ObjectRef]) -> int:
        sent = len(list(refs))
        self.waiting += sent
        self.deepest = max(self.deepest, self.waiting)
        return sent

    def depth(self) -> int:
        return self.waiting

    def sleep(self, pause_s: float) -> None:
        self.pauses += 1
        self.waiting = max(0, self.waiting - self._work)


def refs(count: int) -> list[ObjectRef]:
    return [ObjectRef("photos", f"{i}.jpg") for i in range(count)]


def test_the_queue_never_holds_more_than_its_limit_and_one_page() -> None:
    queue = Queue(work=7)
    feeder = HintFeeder(queue, max_waiting=40, sleep=queue.sleep)
    for _ in range(100):
        feeder.send(refs(10))
    assert queue.deepest <= 40 + 10
    assert queue.waiting + 7 * queue.pauses >= 1000


def test_messages_of_other_senders_count_too() -> None:
    queue = Queue(work=30)
    queue.waiting = 65
    HintFeeder(queue, max_waiting=40, sleep=queue.sleep).send(refs(1))
    assert queue.pauses == 1
    assert queue.waiting == 36


def test_a_short_list_is_sent_without_a_pause() -> None:
    queue = Queue()
    feeder = HintFeeder(queue, max_waiting=40, sleep=queue.sleep)
    for _ in range(4):
        feeder.send(refs(10))
    feeder.send([])
    assert (queue.waiting, queue.pauses) == (40, 0)


def test_without_time_to_wait_a_full_queue_raises_and_gets_nothing() -> None:
    queue = Queue()
    queue.waiting = 40
    with pytest.raises(QueueFull, match="40 hints wait"):
        HintFeeder(queue, max_waiting=40, left_s=lambda: 0.0).send(refs(3))
    assert queue.waiting == 40


@pytest.mark.parametrize(
    ("key", "size", "expected"),
    [
        ("a.jpg", 1, True),
        ("folder/A.JPEG", 1, True),
        ("b.heic", 1, True),
        ("no suffix", 1, True),
        ("v1.2/5f3a", 1, True),
        ("a.jpg", 0, False),
        ("folder/", 9, False),
        ("folder.jpg/", 0, False),
        ("notes.txt", 9, False),
        ("a.jpg.bak", 9, False),
        (".DS_Store", 9, True),  # a name without a suffix: only its bytes would tell
    ],
)
def test_files_that_cannot_be_images_are_recognised_by_name_and_size(
    key: str, size: int, expected: bool
) -> None:
    assert may_be_image(key, size) is expected
