"""A circuit breaker for calls to Qdrant."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from likeness.errors import IndexUnavailable

_FAILURES_TO_OPEN = 5
_OPEN_S = 5.0


class CircuitBreaker:
    """After several failures in a row, calls fail at once for a while instead of waiting.

    Nygard, Release It! (2nd ed., 2018), chapter 5. After the pause one call at a time may probe
    whether Qdrant works again; its success closes the circuit. Safe to share between threads.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, probe_s: float = _OPEN_S
    ) -> None:
        """`probe_s`: how long a call may take, and so how long the next probe waits for it."""
        self._clock = clock
        self._probe_s = max(probe_s, _OPEN_S)
        self._failures = 0
        self._open_until_s = 0.0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raises IndexUnavailable while the circuit is open."""
        with self._lock:
            if self._failures < _FAILURES_TO_OPEN:
                return
            remaining_s = self._open_until_s - self._clock()
            if remaining_s > 0:
                raise IndexUnavailable(
                    "Qdrant failed repeatedly; calls are paused for a few seconds", remaining_s
                )
            # this call becomes the probe; the others wait until it must have ended
            self._open_until_s = self._clock() + self._probe_s

    def succeeded(self) -> None:
        with self._lock:
            self._failures = 0

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._open_until_s = self._clock() + _OPEN_S
