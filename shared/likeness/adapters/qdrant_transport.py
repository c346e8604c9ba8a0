"""JSON calls to a Qdrant server: deadline, retries, circuit breaker, error mapping."""

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
_INCOMPLETE = (OSError, HTTPException, msgspec.DecodeError, ValueError, RecursionError)


class Transport:
    """JSON over HTTP with a deadline, retries with full jitter and a circuit breaker.

    Every call may be retried: they are reads, idempotent creations and conditional writes.
    Safe to share between threads.
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
        """`timeout_s` limits a whole call with its retries, except for name resolution.

        `read_key` returns the API key; it is called now, after a restore and after a refusal.
        `wall_clock`: see Pool. With `patient`, calls wait until an open circuit lets them through
        instead of failing at once. Raises ConfigurationError for an invalid URL.
        """
        try:
            self._pool = Pool(url, wall_clock)
        except ValueError as error:  # not quoting the URL, which may contain a password
            raise ConfigurationError(f"QDRANT_URL is not a valid server URL: {error}") from None
        self._read_key = read_key
        self._timeout_s = timeout_s
        self._breaker = breaker or CircuitBreaker(probe_s=timeout_s + 1)
        self._sleep = sleep
        self._patient = patient
        self.reconnect()

    def reconnect(self) -> None:
        """Discard connections, read the key again and close the circuit.

        In a process restored from a snapshot, connections are dead, the key may be old, and
        earlier failures no longer count.
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
        """The `result` field of the response.

        Raises IndexMissing for an unknown collection, IndexRefused for a request that Qdrant
        refuses, IndexUnavailable for every other failure.
        """
        encoded = None if body is None else json.dumps(body, allow_nan=False).encode()
        self._wait_for_circuit()
        deadline_s = time.monotonic() + self._timeout_s
        for attempt in range(_ATTEMPTS):
            try:
                status, response = self._send_once(method, path, encoded, deadline_s)
            except _INCOMPLETE as error:
                failure = f"{type(error).__name__}: no complete response"
            else:
                if status not in _RETRIED:
                    self._breaker.succeeded()
                    if status in _REFUSED:  # the key may have been rotated: read it again
                        self.reconnect()
                    return _result(status, response, method, path)
                failure = f"HTTP {status}"
            pause_s = random.uniform(0, _BACKOFF_S * 2**attempt)  # noqa: S311 - jitter, no secret
            if time.monotonic() + pause_s >= deadline_s or attempt + 1 == _ATTEMPTS:
                break
            self._sleep(pause_s)
        self._breaker.failed()
        raise IndexUnavailable(f"Qdrant is not answering ({failure})")

    def _wait_for_circuit(self) -> None:
        try:
            self._breaker.check()
        except IndexUnavailable as paused:
            if not self._patient or paused.retry_after_s is None:
                raise
            self._sleep(paused.retry_after_s)
            self._breaker.check()

    def _send_once(
        self, method: str, path: str, body: bytes | None, deadline_s: float
    ) -> tuple[int, Any]:
        status, data = self._pool.exchange(method, path, self._headers, body, deadline_s)
        if status in _RETRIED | _REFUSED:  # their bodies may be plain text
            return status, None
        return status, msgspec.json.decode(data)


def _result(status: int, response: Any, method: str, path: str) -> Any:
    if status in _REFUSED:
        raise IndexUnavailable(f"Qdrant refused the API key (HTTP {status})")
    message = response.get("status") if isinstance(response, dict) else None
    if status == _NOT_FOUND and (found := _COLLECTION.match(path)):
        raise IndexMissing(f"Qdrant has no collection {found[1]}: index an image first")
    if status >= 400:
        raise IndexRefused(f"Qdrant refused {method} {path} (HTTP {status}): {message}")
    if not isinstance(response, dict) or "result" not in response:
        raise IndexUnavailable(f"unexpected response to {method} {path}: is this a Qdrant server?")
    return response["result"]
