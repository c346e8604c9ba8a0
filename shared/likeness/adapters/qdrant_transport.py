"""JSON calls to a Qdrant server: deadline, retries, circuit breaker, errors."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any

import msgspec

from likeness.adapters.circuit_breaker import CircuitBreaker
from likeness.adapters.connections import Pool
from likeness.errors import ConfigurationError, IndexMissing, IndexRefused, IndexUnavailable

_ATTEMPTS = 3
_BACKOFF_S = 0.1
_RETRIED = {429, 500, 502, 503, 504}
_NOT_FOUND = 404
_REFUSED = {401, 403}
_COLLECTION = re.compile(r"/collections/([^/?]+)")
_NO_ANSWER = (OSError, HTTPException, msgspec.DecodeError, ValueError, RecursionError)


class Transport:
    """JSON over HTTP with a time budget, retries with full jitter and a circuit breaker.

    Every call we make may be repeated: reads, idempotent creations and conditional writes.
    """

    def __init__(
        self,
        url: str,
        read_key: Callable[[], str | None] = lambda: None,
        timeout_s: float = 5.0,
        breaker: CircuitBreaker | None = None,
        sleep: Callable[[float], None] = time.sleep,
        wall_clock: Callable[[], float] = time.time,
        patient: bool = False,
    ) -> None:
        """One call, retries included, is given `timeout_s`, but for the look-up of a name.

        `read_key` is asked for the API key now, after a restore and after a refusal. `wall_clock`:
        see Pool. `patient` waits out the pause of an open circuit, where others fail at once.
        Raises ConfigurationError where the URL names no server.
        """
        try:
            self._pool = Pool(url, wall_clock)
        except ValueError as error:  # without the URL, which may hold a password
            raise ConfigurationError(
                f"QDRANT_URL is not the address of a server: {error}"
            ) from None
        self._read_key = read_key
        self._timeout_s = timeout_s
        self._breaker = breaker or CircuitBreaker(probe_s=timeout_s + 1)
        self._sleep = sleep
        self._patient = patient
        self.reconnect()

    def reconnect(self) -> None:
        """Open connections and read the key anew: a restored snapshot's are dead and old, and
        what failed before it was taken says nothing of now.
        """
        self._pool.clear()
        headers = {"content-type": "application/json", "user-agent": "likeness"}
        if key := (self._read_key() or "").strip():  # a newline would make an invalid header
            headers["api-key"] = key
        self._headers = headers
        self._breaker.succeeded()

    def close(self) -> None:
        self._pool.clear()

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer's `result`.

        Raises IndexMissing for 404, IndexUnavailable for all else that is not success.
        """
        encoded = None if body is None else json.dumps(body, allow_nan=False).encode()
        self._pass_circuit()
        deadline_s = time.monotonic() + self._timeout_s
        for attempt in range(_ATTEMPTS):
            try:
                status, answer = self._attempt(method, path, encoded, deadline_s)
            except _NO_ANSWER as error:
                failure = f"{type(error).__name__}: no complete answer"
            else:
                if status not in _RETRIED:
                    self._breaker.succeeded()
                    if status in _REFUSED:
                        self.reconnect()  # the key may have been rotated: the next call has it
                    return _result(status, answer, method, path)
                failure = f"HTTP {status}"
            pause_s = random.uniform(0, _BACKOFF_S * 2**attempt)  # noqa: S311 - jitter, no secret
            if time.monotonic() + pause_s >= deadline_s or attempt + 1 == _ATTEMPTS:
                break
            self._sleep(pause_s)
        self._breaker.failed()
        raise IndexUnavailable(f"Qdrant is not answering ({failure})")

    def _pass_circuit(self) -> None:
        try:
            self._breaker.check()
        except IndexUnavailable as paused:
            if not self._patient or paused.retry_after_s is None:
                raise
            self._sleep(paused.retry_after_s)
            self._breaker.check()

    def _attempt(
        self, method: str, path: str, body: bytes | None, deadline_s: float
    ) -> tuple[int, Any]:
        status, data = self._pool.exchange(method, path, self._headers, body, deadline_s)
        if status in _RETRIED | _REFUSED:  # Qdrant refuses a key in plain text
            return status, None
        return status, msgspec.json.decode(data)


def _result(status: int, answer: Any, method: str, path: str) -> Any:
    if status in _REFUSED:
        raise IndexUnavailable(f"Qdrant refused the API key (HTTP {status})")
    message = answer.get("status") if isinstance(answer, dict) else None
    if status == _NOT_FOUND and (of_collection := _COLLECTION.match(path)):
        raise IndexMissing(f"Qdrant knows no {of_collection[1]}: index an image first")
    if status >= 400:
        raise IndexRefused(f"Qdrant refused {method} {path} (HTTP {status}): {message}")
    if not isinstance(answer, dict) or "result" not in answer:
        raise IndexUnavailable(f"{method} {path} did not answer as Qdrant does")
    return answer["result"]
