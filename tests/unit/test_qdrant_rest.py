"""The REST adapter against a server that fails as it is told, and against Qdrant's own models."""

from __future__ import annotations

import itertools
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from qdrant_client import models

from likeness.adapters.circuit_breaker import CircuitBreaker
from likeness.adapters.qdrant_mapping import Layout
from likeness.adapters.qdrant_rest import RestIndex
from likeness.adapters.qdrant_transport import Transport
from likeness.errors import (
    ConfigurationError,
    IndexMissing,
    IndexRefused,
    IndexUnavailable,
)
from likeness.filters import Schema
from likeness.records import (
    Exactly,
    ImageInfo,
    NearestQuery,
    ObjectRef,
    ObjectState,
    OlderThan,
    Point,
    PointWrite,
    State,
    Version,
)
from tests import qdrant_server
from tests.fault_server import (
    CLOSED_AT_ONCE,
    Answer,
    FaultServer,
    Request,
    Script,
    closed_port,
    error,
    half_answered,
    ok,
    serve,
)

MODEL, DIM = "0123456789abcdef", 4
KEY = "s3cr3t-k3y"
SCHEMA = Schema.declare({"brand": "keyword", "price": "float", "since": "datetime"})
LAYOUT = Layout("images", SCHEMA)
FAULTS = {
    "closed at once": CLOSED_AT_ONCE,
    "half an answer": half_answered(),
    "a length that is too large": ok(None, length=99, close=True),
    "a length that is too small": ok(None, length=9),
    "not JSON": Answer(200, b"<html>Bad gateway</html>"),
    "not UTF-8": Answer(200, b'{"result": "\xff"}'),
    "not HTTP": Answer(raw=b"SSH-2.0-OpenSSH\r\n"),
    "HTTP 429": error(429),
    "HTTP 500": error(500),
    "HTTP 502": Answer(502, b"<html></html>"),
    "HTTP 503": error(503),
    "HTTP 504": Answer(504),
}


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def transport(url: str, **options: Any) -> Iterator[Transport]:
    usual = {"read_key": lambda: KEY, "timeout_s": 2.0, "sleep": lambda pause_s: None}
    opened = Transport(url, **{**usual, **options})
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def scripted(script: Script, **options: Any) -> Iterator[tuple[FaultServer, Transport]]:
    with serve(script) as server, transport(server.url, **options) as opened:
        yield server, opened


@contextmanager
def scripted_index(script: Script) -> Iterator[tuple[FaultServer, RestIndex]]:
    with scripted(script) as (server, opened):
        yield server, RestIndex(opened, LAYOUT)


def failure(call: Callable[[], object]) -> str:
    """The message of the IndexUnavailable that a call ends with, its causes included."""
    with pytest.raises(IndexUnavailable) as caught:
        call()
    assert KEY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def write_of(condition: OlderThan | Exactly, key: str = "a") -> PointWrite:
    vector = np.array([1, 0, 0, 0], np.float32)
    found = ObjectState("e", None, 7, "image/png", 1.5)
    image = ImageInfo("PNG", 4, 3, "ab")
    ref, meta = ObjectRef("photos", key), {"brand": "acme", "price": 1.5}
    point = Point(ref, State.LIVE, Version(1), MODEL, 2.5, found, image, meta=meta, vector=vector)
    return PointWrite(point, condition)


@pytest.mark.parametrize("url", ["http://user:pw@qdrant:no", "http://[::1", "https://:6333"])
def test_an_address_that_names_no_server_is_a_wrong_configuration(url: str) -> None:
    with pytest.raises(ConfigurationError, match="QDRANT_URL is not the address") as caught:
        Transport(url)
    assert "pw" not in str(caught.value)


# What is tried again


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_call_that_fails_twice_is_tried_again_and_succeeds(fault: Answer) -> None:
    with scripted([fault, fault, ok({"a": 1})]) as (server, opened):
        assert opened.call("PUT", "/collections/x", {"b": 2}) == {"a": 1}
        assert [request.body for request in server.requests] == [{"b": 2}] * 3


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_call_that_fails_three_times_tells_that_the_index_is_unavailable(fault: Answer) -> None:
    with scripted([fault]) as (server, opened):
        message = failure(lambda: opened.call("GET", "/collections/x"))
        assert "Qdrant is not answering" in message
        assert len(server.requests) == 3


def test_a_refused_connection_is_told_soon() -> None:
    with transport(closed_port()) as opened:
        start_s = time.monotonic()
        assert "not answering" in failure(lambda: opened.call("GET", "/collections/x"))
        assert time.monotonic() - start_s < 1


def test_the_status_of_the_last_failure_is_told() -> None:
    with scripted([error(503)]) as (_, opened):
        assert "HTTP 503" in failure(lambda: opened.call("GET", "/collections/x"))


def test_the_pauses_between_tries_are_random_and_grow() -> None:
    pauses: list[float] = []
    with scripted([error(500)], sleep=pauses.append) as (_, opened):
        for _ in range(4):
            failure(lambda: opened.call("GET", "/collections/x"))
    assert len(set(pauses)) == 8
    assert all(0 <= pause <= 0.1 for pause in pauses[::2])
    assert all(0 <= pause <= 0.2 for pause in pauses[1::2])


# The time budget


@pytest.mark.parametrize(
    "slow",
    [
        ok(None, wait_s=30),
        ok("x" * 1000, pause_s=0.05),
        Answer(raw=b"", body=b"HTTP/1.1 200 OK\r\nserver: " + b"x" * 1000, pause_s=0.05),
        error(500, wait_s=30),
    ],
    ids=["silence", "a trickle of bytes", "a trickle of headers", "a late error"],
)
def test_a_slow_answer_ends_within_the_time_budget(slow: Answer) -> None:
    with scripted([slow], timeout_s=0.4) as (_, opened):
        start_s = time.monotonic()
        assert "not answering" in failure(lambda: opened.call("GET", "/collections/x"))
        assert 0.3 < time.monotonic() - start_s < 1.5


def test_all_tries_together_end_within_the_time_budget() -> None:
    with scripted([error(503, wait_s=0.4)], timeout_s=0.5) as (server, opened):
        start_s = time.monotonic()
        failure(lambda: opened.call("GET", "/collections/x"))
        assert time.monotonic() - start_s < 1.1
        assert len(server.requests) <= 2


def test_no_pause_is_begun_that_would_pass_the_time_budget() -> None:
    pauses: list[float] = []
    with scripted([error(503, wait_s=0.2)], timeout_s=0.2, sleep=pauses.append) as (_, opened):
        failure(lambda: opened.call("GET", "/collections/x"))
    assert pauses == []


# Answers that are final


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("body", [b"Invalid API key or JWT", b'{"status": {"error": "no"}}', b""])
def test_a_refused_key_is_told_at_once_and_never_named(status: int, body: bytes) -> None:
    # Qdrant's own 401 and 403 are plain text
    with scripted([Answer(status, body)]) as (server, opened):
        message = failure(lambda: opened.call("GET", "/collections/x"))
        assert message == f"Qdrant refused the API key (HTTP {status})"
        assert len(server.requests) == 1


def test_an_unknown_collection_is_missing() -> None:
    with scripted([error(404, "Collection `images` doesn't exist!")]) as (server, opened):
        with pytest.raises(IndexMissing, match="knows no images: index an image first"):
            opened.call("POST", "/collections/images/points/query", {})
        assert len(server.requests) == 1


@pytest.mark.parametrize("path", ["/aliases", "/collections"])
def test_an_address_that_has_no_such_route_is_refused(path: str) -> None:
    """A wrong path in QDRANT_URL, or a gateway in front of Qdrant."""
    not_found = error(404, "no such route")
    with scripted([not_found]) as (_, opened), pytest.raises(IndexRefused, match="no such route"):
        opened.call("GET", path)


def test_a_404_that_is_not_from_qdrant_is_no_missing_collection() -> None:
    with scripted([Answer(404, b"<html>default backend</html>")]) as (_, opened):
        message = failure(lambda: opened.call("GET", "/collections/images"))
        assert "not answering" in message


def test_a_refused_request_carries_what_qdrant_said() -> None:
    with scripted([error(400, "Wrong input: vector dimension")]) as (server, opened):
        message = failure(lambda: opened.call("PUT", "/collections/x", {}))
        assert "PUT /collections/x (HTTP 400)" in message
        assert "vector dimension" in message
        assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"[]", b"null", b'"ok"', b"{}", b'{"status": "ok"}'])
def test_json_that_is_not_qdrants_is_told(body: bytes) -> None:
    with scripted([Answer(200, body)]) as (_, opened):
        assert "did not answer as Qdrant does" in failure(lambda: opened.call("GET", "/x"))


def test_a_redirection_is_not_followed_so_that_the_key_stays_with_its_server() -> None:
    with serve([ok(None)]) as elsewhere:
        away = Answer(307, b"", {"location": f"{elsewhere.url}/collections/x"})
        with scripted([away]) as (_, opened):
            failure(lambda: opened.call("GET", "/collections/x"))
        assert elsewhere.requests == []


# The connection and the key


def test_the_key_is_sent_with_every_call() -> None:
    with scripted([ok(None)]) as (server, opened):
        opened.call("GET", "/collections/x")
        opened.call("PUT", "/collections/x", {})
        assert [request.headers["api-key"] for request in server.requests] == [KEY, KEY]
        assert {request.headers["content-type"] for request in server.requests} == {
            "application/json"
        }


@pytest.mark.parametrize("key", [None, "", " \n"])
def test_without_a_key_no_header_is_sent(key: str | None) -> None:
    with scripted([ok(None)], read_key=lambda: key) as (server, opened):
        opened.call("GET", "/collections/x")
        assert "api-key" not in server.requests[0].headers


def test_a_newline_at_the_end_of_a_secret_does_no_harm() -> None:
    with scripted([ok(None)], read_key=lambda: f"{KEY}\n") as (server, opened):
        opened.call("GET", "/collections/x")
        assert server.requests[0].headers["api-key"] == KEY


def test_after_a_refusal_the_key_is_read_again() -> None:
    keys = iter(["old", "new"])

    def only_new(request: Request) -> Answer:
        good = request.headers["api-key"] == "new"
        return ok("fine") if good else Answer(401, b"Invalid API key or JWT")

    with scripted(only_new, read_key=lambda: next(keys)) as (_, opened):
        failure(lambda: opened.call("GET", "/collections/x"))
        assert opened.call("GET", "/collections/x") == "fine"
        assert opened.call("GET", "/collections/x") == "fine"


def test_calls_share_a_connection_until_it_is_opened_anew() -> None:
    keys = iter(["first", "second"])
    with scripted([ok(None)], read_key=lambda: next(keys)) as (server, opened):
        opened.call("GET", "/collections/x")
        opened.call("GET", "/collections/x")
        opened.reconnect()
        opened.call("GET", "/collections/x")
        first, second, third = server.requests
        assert first.connection == second.connection != third.connection
        assert [r.headers["api-key"] for r in server.requests] == ["first", "first", "second"]


def test_a_connection_that_the_server_closed_in_between_is_opened_again() -> None:
    with scripted([ok("a", close=True)]) as (server, opened):
        assert [opened.call("GET", "/collections/x") for _ in range(3)] == ["a"] * 3
        assert len({request.connection for request in server.requests}) == 3


@pytest.mark.fault(
    "a proxy in front of Qdrant dropped a connection while the function was frozen",
    seen="nothing",
    heals="connections that were idle for a minute are replaced",
)
def test_a_connection_that_was_idle_for_minutes_is_not_trusted() -> None:
    clock, served = Clock(), itertools.count()

    def forgetful(request: Request) -> Answer:
        """The second answer, and all after it on the first connection, never come."""
        first = server.requests[0].connection
        lost = next(served) > 0 and request.connection == first
        return ok(None, wait_s=30 if lost else 0)

    with scripted(forgetful, timeout_s=2.0, wall_clock=clock) as (server, opened):
        opened.call("GET", "/collections/x")
        clock.now_s = 61.0
        opened.call("GET", "/collections/x")
        opened.call("GET", "/collections/x")
        first, second, third = (request.connection for request in server.requests)
        assert first != second == third


def test_the_rest_of_an_answer_never_becomes_the_next_one() -> None:
    lying = ok("first", length=2, close=False)
    with scripted([lying, ok("second"), ok("third")]) as (_, opened):
        assert [opened.call("GET", "/collections/x") for _ in range(2)] == ["second", "third"]


def test_a_transport_serves_many_threads_at_once() -> None:
    with scripted(lambda request: ok(request.path, wait_s=0.01)) as (_, opened):
        paths = [f"/collections/c{i}" for i in range(64)]
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(lambda path: opened.call("GET", path), paths)) == paths


def test_many_threads_may_reconnect_while_others_call() -> None:
    with scripted(lambda request: ok(request.path)) as (_, opened):

        def work(i: int) -> object:
            return opened.reconnect() if i % 8 == 0 else opened.call("GET", f"/collections/c{i}")

        with ThreadPoolExecutor(8) as pool:
            assert sum(found is not None for found in pool.map(work, range(64))) == 56


# The circuit breaker


def opened_breaker(clock: Clock, probe_s: float = 5.0) -> CircuitBreaker:
    breaker = CircuitBreaker(clock, probe_s)
    for _ in range(5):
        breaker.check()
        breaker.failed()
    return breaker


def lets_through(breaker: CircuitBreaker) -> bool:
    try:
        breaker.check()
    except IndexUnavailable:
        return False
    return True


def test_five_failures_in_a_row_open_the_circuit_and_no_more_requests_are_sent() -> None:
    with scripted([error(500)], breaker=CircuitBreaker(Clock())) as (server, opened):
        for _ in range(5):
            assert "not answering" in failure(lambda: opened.call("GET", "/collections/x"))
        sent = len(server.requests)
        assert sent == 15
        start_s = time.monotonic()
        assert "paused" in failure(lambda: opened.call("GET", "/collections/x"))
        assert time.monotonic() - start_s < 0.2
        assert len(server.requests) == sent


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = CircuitBreaker(Clock())
    for _ in range(3):
        for _ in range(4):
            breaker.failed()
        breaker.succeeded()
    assert lets_through(breaker)


def test_a_paused_call_says_when_the_next_one_is_let_through() -> None:
    clock = Clock()
    breaker = opened_breaker(clock)
    clock.now_s = 1.5
    with pytest.raises(IndexUnavailable) as caught:
        breaker.check()
    assert caught.value.retry_after_s == 3.5
    clock.now_s += caught.value.retry_after_s
    assert lets_through(breaker)


@pytest.mark.fault(
    "the circuit was open when the snapshot was taken",
    seen="nothing",
    heals="the restore hook that replaces connections closes it",
)
def test_a_restored_process_does_not_believe_the_failures_of_the_snapshot() -> None:
    with scripted([*[error(500)] * 15, ok("well")], breaker=CircuitBreaker(Clock())) as (_, opened):
        for _ in range(5):
            failure(lambda: opened.call("GET", "/collections/x"))
        assert "paused" in failure(lambda: opened.call("GET", "/collections/x"))
        opened.reconnect()
        assert opened.call("GET", "/collections/x") == "well"


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["succeeds", "fails", "never ends"]), st.floats(0, 8)),
        max_size=60,
    )
)
def test_the_circuit_holds_back_only_after_five_failures_and_only_for_so_long(
    steps: list[tuple[str, float]],
) -> None:
    """Whatever calls do: one that is held back follows five failures in a row, is told a time of at
    most one pause or probe, and is let through after it; of those that wait for it, one alone.
    """
    clock, failures = Clock(), 0
    breaker = CircuitBreaker(clock, probe_s=6.0)
    for outcome, passes_s in steps:
        clock.now_s += passes_s
        try:
            breaker.check()
        except IndexUnavailable as refused:
            assert failures >= 5
            assert refused.retry_after_s is not None
            assert 0 < refused.retry_after_s <= 6.0
            clock.now_s += refused.retry_after_s + 1e-6  # sums of floats round
            assert lets_through(breaker)
            assert not lets_through(breaker)
        if outcome == "succeeds":
            breaker.succeeded()
            failures = 0
        elif outcome == "fails":
            breaker.failed()
            failures += 1


def test_after_its_pause_the_circuit_lets_one_probe_through_and_closes_on_success() -> None:
    clock = Clock()
    answers = [error(500)] * 15 + [ok("well again")]
    with scripted(answers, breaker=CircuitBreaker(clock), timeout_s=5.0) as (server, opened):
        for _ in range(5):
            failure(lambda: opened.call("GET", "/collections/x"))
        clock.now_s = 4.9
        assert "paused" in failure(lambda: opened.call("GET", "/collections/x"))
        clock.now_s = 5.1
        assert opened.call("GET", "/collections/x") == "well again"
        assert opened.call("GET", "/collections/x") == "well again"
        assert len(server.requests) == 17


def test_a_failed_probe_pauses_the_calls_again() -> None:
    clock = Clock()
    breaker = opened_breaker(clock)
    clock.now_s = 5.1
    assert lets_through(breaker)
    breaker.failed()
    clock.now_s = 10.0
    assert not lets_through(breaker)
    clock.now_s = 10.2
    assert lets_through(breaker)


def test_a_patient_call_waits_until_the_circuit_lets_it_through() -> None:
    clock = Clock()

    def sleep(pause_s: float) -> None:
        clock.now_s += pause_s

    answers = [error(500)] * 15 + [ok("well again")]
    breaker = CircuitBreaker(clock)
    with scripted(answers, breaker=breaker, sleep=sleep, patient=True) as (server, opened):
        for _ in range(5):
            failure(lambda: opened.call("GET", "/collections/x"))
        opened_s = clock.now_s
        assert opened.call("GET", "/collections/x") == "well again"
        assert clock.now_s >= opened_s + 5
        assert len(server.requests) == 16


def test_a_refused_key_does_not_open_the_circuit() -> None:
    with scripted([Answer(401)]) as (server, opened):
        for _ in range(8):
            assert "refused the API key" in failure(lambda: opened.call("GET", "/collections/x"))
        assert len(server.requests) == 8


def test_a_missing_collection_closes_the_circuit() -> None:
    clock = Clock()
    with scripted([error(500)] * 15 + [error(404)], breaker=CircuitBreaker(clock)) as (_, opened):
        for _ in range(5):
            failure(lambda: opened.call("GET", "/collections/x"))
        clock.now_s = 6.0
        for _ in range(2):
            with pytest.raises(IndexMissing):
                opened.call("GET", "/collections/x")


def test_only_one_of_many_threads_may_probe() -> None:
    for _ in range(30):
        clock = Clock()
        breaker = opened_breaker(clock)
        clock.now_s = 5.1
        start = threading.Barrier(8)

        def probe(start: threading.Barrier, breaker: CircuitBreaker) -> bool:
            start.wait()
            return lets_through(breaker)

        with ThreadPoolExecutor(8) as pool:
            tries = [pool.submit(probe, start, breaker) for _ in range(8)]
            assert sum(done.result() for done in tries) == 1


def test_only_one_call_of_many_threads_reaches_a_server_that_is_still_down() -> None:
    clock = Clock()
    opening, refused = 5 * 3, 7  # requests that open the circuit; calls that are held back
    seen, held_back = itertools.count(), threading.Semaphore(0)

    def still_down(request: Request) -> Answer:
        if next(seen) == opening:  # the probe, under way until all the others were refused
            for _ in range(refused):
                assert held_back.acquire(timeout=10)
        return error(500)

    with scripted(still_down, breaker=CircuitBreaker(clock), timeout_s=20.0) as (server, opened):

        def call() -> str:
            message = failure(lambda: opened.call("GET", "/collections/x"))
            held_back.release()
            return message

        for _ in range(5):
            failure(lambda: opened.call("GET", "/collections/x"))
        clock.now_s = 5.1
        with ThreadPoolExecutor(refused + 1) as pool:
            messages = [done.result() for done in [pool.submit(call) for _ in range(refused + 1)]]
        assert sum("paused" in message for message in messages) == refused
        assert len(server.requests) == opening + 3


def test_the_next_probe_waits_for_one_that_takes_long() -> None:
    clock = Clock()
    breaker = opened_breaker(clock, probe_s=31.0)
    clock.now_s = 5.1
    assert lets_through(breaker)
    clock.now_s = 36.0
    assert not lets_through(breaker)
    clock.now_s = 36.2
    assert lets_through(breaker)


def test_a_probe_that_never_ends_does_not_keep_the_circuit_open_for_ever() -> None:
    clock = Clock()
    breaker = opened_breaker(clock)
    for i in range(1, 4):
        clock.now_s = 5.1 * i
        assert lets_through(breaker)
        assert not lets_through(breaker)


def test_a_body_that_cannot_be_sent_does_not_use_up_the_probe() -> None:
    clock = Clock()
    with scripted([error(500)] * 15 + [ok(1)], breaker=CircuitBreaker(clock)) as (_, opened):
        for _ in range(5):
            failure(lambda: opened.call("GET", "/collections/x"))
        clock.now_s = 5.1
        with pytest.raises(ValueError, match="JSON compliant"):
            opened.call("POST", "/collections/x", {"query": [float("nan")]})
        assert opened.call("GET", "/collections/x") == 1


# Writes


@pytest.mark.parametrize("status", ["acknowledged", "wait_timeout", None])
def test_a_write_that_is_not_completed_is_no_write(status: str | None) -> None:
    with scripted_index([ok({"operation_id": 1, "status": status})]) as (_, index):
        message = failure(lambda: index.write(MODEL, [write_of(OlderThan(Version(1)))]))
        assert str(status) in message


def test_strong_ordering_is_asked_only_for_compare_and_set() -> None:
    older, exactly = write_of(OlderThan(Version(1))), write_of(Exactly(Version(1)), "b")
    with scripted_index([ok({"status": "completed"})]) as (server, index):
        index.write(MODEL, [older])
        index.write(MODEL, [older, exactly])
        index.write(MODEL, [exactly])
    path = f"PUT /collections/images-{MODEL}/points?wait=true&ordering="
    assert server.paths == [f"{path}weak", f"{path}strong", f"{path}strong"]


# Preparation

DESCRIBED = {"config": {"metadata": {"model": MODEL, "dim": DIM}}, "payload_schema": {}}


def prepared(create: Answer, *after: Answer) -> FaultServer:
    """The server after a preparation that found no collection and got these answers."""
    done = {"status": "completed"}
    alias = {"aliases": [{"alias_name": "images", "collection_name": "other"}]}
    indexes = [ok(done)] * len(LAYOUT.indexes)
    script = [error(404), create, *(after or (ok(DESCRIBED), *indexes, ok(alias)))]
    with scripted_index(script) as (server, index):
        index.prepare(MODEL, DIM)
    return server


def test_a_collection_that_another_function_creates_meanwhile_is_taken() -> None:
    taken = error(409, f"Collection `images-{MODEL}` already exists!")
    indexes = [ok({"status": "completed"})] * len(LAYOUT.indexes)
    made = ok(DESCRIBED)
    server = prepared(taken, made, made, *indexes, ok({"aliases": []}), ok(True), made)
    assert "POST /collections/aliases" in server.paths


def test_why_a_collection_cannot_be_created_is_told() -> None:
    with pytest.raises(IndexUnavailable, match=r"HTTP 400.*no space left") as caught:
        prepared(error(400, "no space left"), error(404))
    assert not isinstance(caught.value, IndexMissing)


def test_a_collection_of_another_model_is_a_wrong_configuration() -> None:
    other = {"config": {"metadata": {"model": "other", "dim": DIM}}}
    with pytest.raises(ConfigurationError, match="holds model other"):
        prepared(ok(True), ok(other))


def test_a_collection_that_is_not_ours_is_a_wrong_configuration() -> None:
    with pytest.raises(ConfigurationError, match="holds model None"):
        prepared(ok(True), ok({"config": {}}))


def test_an_alias_that_exists_stays_where_it_is() -> None:
    assert "POST /collections/aliases" not in prepared(ok(True)).paths


# Every body, by Qdrant's own models

Recorded = list[tuple[str, str, Any]]
ROUTES = {
    r"GET /(aliases|collections/[^/]+)": None,
    r"PUT /collections/[^/]+": models.CreateCollection,
    r"PUT /collections/[^/]+/index\?wait=true": models.CreateFieldIndex,
    r"POST /collections/aliases": models.ChangeAliasesOperation,
    r"POST /collections/[^/]+/points(\?consistency=majority)?": models.PointRequest,
    r"PUT /collections/[^/]+/points\?wait=true&ordering=(weak|strong)": models.PointsList,
    r"PUT /collections/images-notes/points\?wait=true": models.PointsList,
    r"POST /collections/[^/]+/points/delete\?wait=true": models.PointIdsList,
    r"POST /collections/[^/]+/points/query/batch": models.QueryRequestBatch,
    r"POST /collections/[^/]+/points/scroll": models.ScrollRequest,
}


@pytest.fixture
def recorded() -> Iterator[tuple[RestIndex, Recorded]]:
    """An index on the small test server, and every call that it makes."""
    server = qdrant_server.start()
    engine = server.RequestHandlerClass.engine  # type: ignore[attr-defined]
    original, calls = engine.call, []

    def call(method: str, path: str, body: Any) -> Any:
        calls.append((method, path, body))
        return original(method, path, body)

    engine.call = call
    with transport(qdrant_server.url_of(server)) as opened:
        yield RestIndex(opened, LAYOUT), calls
    server.shutdown()
    server.server_close()


def model_of(method: str, path: str) -> Any:
    [found] = [model for route, model in ROUTES.items() if re.fullmatch(route, f"{method} {path}")]
    return found


def test_every_body_is_valid_by_qdrants_models(recorded: tuple[RestIndex, Recorded]) -> None:
    index, calls = recorded
    index.prepare(MODEL, DIM)
    first = write_of(OlderThan(Version(1 << 71)))
    index.write(MODEL, [first, write_of(Exactly(Version()), "b")])
    gone = Point(first.point.ref, State.GONE, Version(5, 1), MODEL, 1.0)
    index.write(MODEL, [PointWrite(gone, Exactly(Version(1)))])
    index.retrieve(MODEL, [first.point.id])
    index.info()
    index.fetch([first.point.id])
    vector = np.array([0, 1, 0, 0], np.float32)
    conditions = [
        {"key": "brand", "match": {"any": ["acme"]}},
        {"key": "brand", "match": {"except": ["zeta"]}},
        {"key": "price", "range": {"gte": 1}},
        {"should": {"key": "size", "match": {"value": 7}}},
    ]
    wanted = SCHEMA.compile({"must": conditions, "must_not": []})
    index.nearest(
        [
            NearestQuery([vector], 5),
            NearestQuery([vector], 5, offset=1, filter=wanted, score_threshold=0.5, full=True),
        ]
    )
    page = index.scroll(1, filter={"must": [{"key": "state", "match": {"value": "live"}}]})
    index.scroll(1, cursor=page.next_cursor or first.point.id)
    index.put_note("feedback", "1", {"kind": "click"})
    index.delete_note("feedback", "1")
    index.list_notes("feedback", 5)

    kinds = set()
    for method, path, body in calls:
        model = model_of(method, path)
        if model is None:
            assert body is None
            continue
        kinds.add(model)
        parsed = model.model_validate(body, extra="forbid")
        # nothing that we said was lost on the way
        assert parsed.model_dump(mode="json", by_alias=True, exclude_unset=True) == body
        for part in (body, *body.get("searches", [])):
            for said in (part.get("filter"), part.get("update_filter")):
                if said:
                    models.Filter.model_validate(said, extra="forbid")
    assert kinds == {model for model in ROUTES.values() if model}


def test_who_writes_notes_need_not_be_allowed_to_create_their_collection(
    recorded: tuple[RestIndex, Recorded],
) -> None:
    index, calls = recorded
    index.prepare(MODEL, DIM)
    prepared = len(calls)
    index.put_note("feedback", "1", {"kind": "click"})
    path = "/collections/images-notes"
    assert [call[:2] for call in calls[prepared:]] == [("PUT", f"{path}/points?wait=true")]
    field = {"field_name": "kind", "field_schema": "keyword"}
    assert ("PUT", f"{path}/index?wait=true", field) in calls[:prepared]


def test_notes_that_are_written_before_anything_is_indexed_get_their_collection(
    recorded: tuple[RestIndex, Recorded],
) -> None:
    index, _ = recorded
    index.put_note("feedback", "1", {"kind": "click"})
    assert index.list_notes("feedback", 5) == ([{"kind": "click"}], None)


def test_the_options_of_a_write_are_known_to_qdrant() -> None:
    assert {"weak", "strong"} <= {ordering.value for ordering in models.WriteOrdering}
    assert "majority" in {level.value for level in models.ReadConsistencyType}
    statuses = {status.value for status in models.UpdateStatus}
    assert {"acknowledged", "completed"} <= statuses
