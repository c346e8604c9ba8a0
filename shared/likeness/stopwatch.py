"""Times the stages of a request or a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

StageTimer = Callable[[str], AbstractContextManager[None]]


def untimed(name: str) -> AbstractContextManager[None]:
    """A stage that is not timed."""
    return nullcontext()


class Stopwatch:
    """`took_ms` holds the milliseconds of each stage, summed over runs, failed ones included."""

    def __init__(self) -> None:
        self.took_ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            took_ms = (time.perf_counter() - start) * 1000
            self.took_ms[name] = round(self.took_ms.get(name, 0.0) + took_ms, 2)
