"""Hints for objects without an event, sent slowly enough that live events hardly wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath
from typing import TypeVar

from likeness.errors import QueueFull
from likeness.ports import HintQueue
from likeness.records import ObjectRef
from likeness.settings import MAX_WAITING

T = TypeVar("T")

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".heic", ".heif", ".avif"}
)
# SQS counts messages approximately: those just sent are missing from the count for a while.
_SETTLE_S = 15.0


def may_be_image(key: str, size: int) -> bool:
    """False for folder markers, empty objects and files with the suffix of another type.

    A key without a suffix may hold an image, which only its bytes show.
    """
    suffix = PurePosixPath(key).suffix.lower()
    return size > 0 and not key.endswith("/") and (not suffix or suffix in IMAGE_SUFFIXES)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class HintFeeder:
    """Sends hints while fewer than `max_waiting` messages wait in the queue, whoever sent them.

    Live events share the queue, which is processed roughly in order, so this bounds their delay.
    """

    def __init__(
        self,
        queue: HintQueue,
        max_waiting: int = MAX_WAITING,
        left_s: Callable[[], float] = lambda: float("inf"),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`left_s` returns for how many seconds there is still time to wait for room."""
        self._queue = queue
        self._max_waiting = max_waiting
        self._left_s = left_s
        self._sleep = sleep
        self._room = 0
        self._depth_known = False

    def send(self, refs: Sequence[ObjectRef]) -> None:
        """Returns once all hints are in the queue. Except for an error of the queue, either all of
        them are sent or none.

        Raises QueueFull if there was no room in time, StoreUnavailable if the queue refused a hint.
        """
        if not refs:
            return
        while self._room <= 0:
            if self._depth_known:
                if self._left_s() < _SETTLE_S:
                    raise QueueFull(f"{self._max_waiting - self._room} hints wait in the queue")
                self._sleep(_SETTLE_S)
            self._room = self._max_waiting - self._queue.depth()
            self._depth_known = True
        self._room -= self._queue.send(refs)
