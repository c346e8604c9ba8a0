"""Calls to a Qdrant server: deadline, retries, circuit breaker, error mapping."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any, NamedTuple

import msgspec

from likeness.adapters.circuit_breaker import CircuitBreaker
from likeness.adapters.connections import Pool
from likeness.adapters.qdrant_refusals import KEY_REFUSED, RETRIED, error_words, refusal
from likeness.errors import ConfigurationError, IndexUnavailable

_ATTEMPTS = 3
_BACKOFF_S = 0.1
_INCOMPLETE = (OSError, HTTPException)
_NOT_JSON = (msgspec.DecodeError, ValueError, RecursionError)


class _Response(NamedTuple):
    data: bytes
    decoded: Any


class _Failure(NamedTuple):
    """An attempt that may be repeated, and what the server says about when."""

    why: str
    retry_after_s: float | None = None


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
        """The `result` field of the response. Raises as `exchange`."""
        encoded = None if body is None else msgspec.json.encode(body)
        answer = self._exchange(method, path, encoded).decoded
        if not isinstance(answer, dict) or "result" not in answer:
            raise IndexUnavailable(
                f"unexpected response to {method} {path}: is this a Qdrant server?"
            )
        return answer["result"]

    def exchange(self, method: str, path: str, body: bytes | None) -> bytes:
        """The body of a successful response, which is JSON.

        Raises the errors of `qdrant_refusals` for a request that Qdrant refuses, IndexUnavailable
        for every other failure.
        """
        return self._exchange(method, path, body).data

    def _exchange(self, method: str, path: str, body: bytes | None) -> _Response:
        self._wait_for_circuit()
        deadline_s = time.monotonic() + self._timeout_s
        for attempt in itertools.count(1):
            found = self._try_once(method, path, body, deadline_s)
            if isinstance(found, _Response):
                return found
            longest_s = _BACKOFF_S * 2 ** (attempt - 1)
            pause_s = random.uniform(0, longest_s)  # noqa: S311 - jitter, no secret
            pause_s = max(pause_s, found.retry_after_s or 0)
            if time.monotonic() + pause_s >= deadline_s or attempt == _ATTEMPTS:
                self._breaker.failed()
                raise IndexUnavailable(
                    f"Qdrant is not answering ({found.why})", found.retry_after_s
                )
            self._sleep(pause_s)
        raise AssertionError("unreachable")

    def _wait_for_circuit(self) -> None:
        try:
            self._breaker.check()
        except IndexUnavailable as paused:
            if not self._patient or paused.retry_after_s is None:
                raise
            self._sleep(paused.retry_after_s)
            self._breaker.check()

    def _try_once(
        self, method: str, path: str, body: bytes | None, deadline_s: float
    ) -> _Response | _Failure:
        try:
            reply = self._pool.exchange(method, path, self._headers, body, deadline_s)
        except _INCOMPLETE as error:
            return _Failure(f"{type(error).__name__}: no complete response")
        if reply.status in RETRIED:
            words = f"HTTP {reply.status}: {error_words(reply.data)}"
            return _Failure(words, _seconds(reply.retry_after))
        if reply.status in KEY_REFUSED:
            self._breaker.succeeded()
            self.reconnect()  # the key may have been rotated: read it again
            text = reply.data.decode("utf-8", "replace")
            raise refusal(reply.status, text, method, path)
        try:
            response = _Response(reply.data, msgspec.json.decode(reply.data))
        except _NOT_JSON:
            return _Failure("its response is not JSON: is this a Qdrant server?")
        self._breaker.succeeded()
        if reply.status >= 400:
            raise refusal(reply.status, response.decoded, method, path)
        return response


def _seconds(retry_after: str | None) -> float | None:
    """Of a Retry-After header; None for a date, which Qdrant does not send (RFC 9110, 10.2.3)."""
    return float(retry_after) if retry_after and retry_after.isdecimal() else None
