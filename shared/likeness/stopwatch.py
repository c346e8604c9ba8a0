"""How long the stages of one piece of work take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

Stage = Callable[[str], AbstractContextManager[None]]


def untimed(name: str) -> AbstractContextManager[None]:
    """A stage whose time nobody asks for."""
    return nullcontext()


class Stopwatch:
    """`took_ms` has the milliseconds of each stage that ran, those of its repetitions added up, and
    of those that failed too.
    """

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
