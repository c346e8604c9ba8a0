"""Hints at objects that no event tells of, fed so slowly that live events hardly wait for them."""

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

# Of the files that are taken for pictures by their names.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".heic", ".heif", ".avif"}
)
# SQS counts its messages approximately: what was just sent is not in the count at once.
_SETTLE_S = 15.0


def may_be_image(key: str, size: int) -> bool:
    """Not folders' markers, empty objects and what has the suffix of another kind of file.

    A key without a suffix may be a picture: only its bytes would tell.
    """
    suffix = PurePosixPath(key).suffix.lower()
    return size > 0 and not key.endswith("/") and (not suffix or suffix in IMAGE_SUFFIXES)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class HintFeeder:
    """Sends hints while fewer than `max_waiting` messages wait, whoever sent them.

    Live events share the queue, which is worked off roughly in order: so long is what lies before
    them.
    """

    def __init__(
        self,
        queue: HintQueue,
        max_waiting: int = MAX_WAITING,
        left_s: Callable[[], float] = lambda: float("inf"),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`left_s` tells how long there is still to wait for room."""
        self._queue = queue
        self._most_waiting = max_waiting
        self._left_s = left_s
        self._sleep = sleep
        self._room = 0
        self._asked = False

    def send(self, refs: Sequence[ObjectRef]) -> None:
        """Returns once the queue has taken all of them: they are sent as a whole or not at all, but
        for a fault of the queue.

        Raises QueueFull where no room came in time, StoreUnavailable where a hint was not taken.
        """
        if not refs:
            return
        while self._room <= 0:
            if self._asked:
                if self._left_s() < _SETTLE_S:
                    raise QueueFull(f"{self._most_waiting - self._room} hints wait in the queue")
                self._sleep(_SETTLE_S)
            self._room = self._most_waiting - self._queue.depth()
            self._asked = True
        self._room -= self._queue.send(refs)
