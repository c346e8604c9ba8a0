"""A circuit breaker around calls to Qdrant."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from likeness.errors import IndexUnavailable

_FAILURES_TO_OPEN = 5
_OPEN_S = 5.0


class CircuitBreaker:
    """After some failures in a row, fail at once for a while instead of waiting each time.

    Nygard, Release It! (2nd ed., 2018), chapter 5. One call at a time may probe a dependency
    that failed; its success closes the circuit.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, probe_s: float = _OPEN_S
    ) -> None:
        """`probe_s` is how long a call may take: the next probe waits for this one."""
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
            left_s = self._open_until_s - self._clock()
            if left_s > 0:
                raise IndexUnavailable(
                    "Qdrant failed repeatedly; calls are paused for seconds", left_s
                )
            # let this call probe, and hold the others back until it has ended
            self._open_until_s = self._clock() + self._probe_s

    def succeeded(self) -> None:
        with self._lock:
            self._failures = 0

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._open_until_s = self._clock() + _OPEN_S
