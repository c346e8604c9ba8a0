"""The transport against a server that fails by a script: retries, deadline, key, circuit."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from likeness.adapters.circuit_breaker import CircuitBreaker
from likeness.adapters.qdrant_transport import Transport
from likeness.errors import (
    ConfigurationError,
    IndexForbidden,
    IndexFull,
    IndexMissing,
    IndexRefused,
    IndexUnauthorized,
    IndexUnavailable,
)
from tests.fault_server import (
    CLOSED_AT_ONCE,
    Answer,
    Request,
    closed_port,
    error,
    half_answered,
    ok,
    serve,
)
from tests.scripted_qdrant import KEY, Clock, failure, scripted, transport

FAULTS = {
    "closed at once": CLOSED_AT_ONCE,
    "half an answer": half_answered(),
    "a length that is too large": ok(None, length=99, close=True),
    "a length that is too small": ok(None, length=9),
    "not JSON": Answer(200, b"<html>Bad gateway</html>"),
    "not UTF-8": Answer(200, b'{"result": "\xff"}'),
    "not HTTP": Answer(raw=b"SSH-2.0-OpenSSH\r\n"),
    "HTTP 408": error(408),
    "HTTP 429": error(429),
    "HTTP 500": error(500),
    "HTTP 502": Answer(502, b"<html></html>"),
    "HTTP 503": error(503),
    "HTTP 504": Answer(504),
}


@pytest.mark.parametrize("url", ["http://user:pw@qdrant:no", "http://[::1", "https://:6333"])
def test_an_invalid_server_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="QDRANT_URL is not a valid server URL") as caught:
        Transport(url)
    assert "pw" not in str(caught.value)


# What is tried again


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_call_that_fails_twice_is_tried_again_and_succeeds(fault: Answer) -> None:
    with scripted([fault, fault, ok({"a": 1})]) as (server, opened):
        assert opened.call("PUT", "/collections/x", {"b": 2}) == {"a": 1}
        assert [request.body for request in server.requests] == [{"b": 2}] * 3


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_call_that_fails_three_times_raises_index_unavailable(fault: Answer) -> None:
    with scripted([fault]) as (server, opened):
        message = failure(lambda: opened.call("GET", "/collections/x"))
        assert "Qdrant is not answering" in message
        assert len(server.requests) == 3


def test_a_refused_connection_fails_soon() -> None:
    with transport(closed_port()) as opened:
        start_s = time.monotonic()
        assert "not answering" in failure(lambda: opened.call("GET", "/collections/x"))
        assert time.monotonic() - start_s < 1


def test_the_error_names_the_status_of_the_last_failure() -> None:
    with scripted([error(503)]) as (_, opened):
        assert "HTTP 503" in failure(lambda: opened.call("GET", "/collections/x"))


def test_pauses_between_attempts_are_random_and_grow() -> None:
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
def test_a_slow_response_ends_at_the_deadline(slow: Answer) -> None:
    with scripted([slow], timeout_s=0.4) as (_, opened):
        start_s = time.monotonic()
        assert "not answering" in failure(lambda: opened.call("GET", "/collections/x"))
        assert 0.3 < time.monotonic() - start_s < 1.5


def test_all_attempts_together_end_at_the_deadline() -> None:
    with scripted([error(503, wait_s=0.4)], timeout_s=0.5) as (server, opened):
        start_s = time.monotonic()
        failure(lambda: opened.call("GET", "/collections/x"))
        assert time.monotonic() - start_s < 1.1
        assert len(server.requests) <= 2


def test_no_pause_begins_that_would_exceed_the_deadline() -> None:
    pauses: list[float] = []
    with scripted([error(503, wait_s=0.2)], timeout_s=0.2, sleep=pauses.append) as (_, opened):
        failure(lambda: opened.call("GET", "/collections/x"))
    assert pauses == []


# Answers that are final


# Qdrant's own are plain text
@pytest.mark.parametrize("body", [b"Invalid API key or JWT", b'{"status": {"error": "no"}}', b""])
def test_a_wrong_key_fails_at_once_and_is_not_in_the_message(body: bytes) -> None:
    with scripted([Answer(401, body)]) as (server, opened):
        with pytest.raises(IndexUnauthorized, match="no API key, or a wrong one") as caught:
            opened.call("GET", "/collections/x")
        assert KEY not in str(caught.value)
        assert len(server.requests) == 1


def test_a_key_that_may_not_do_this_is_another_error_with_the_servers_reason() -> None:
    body = b"Forbidden: Write access to collection x is required"
    with scripted([Answer(403, body)]) as (server, opened):
        with pytest.raises(IndexForbidden, match=r"does not permit PUT .*Write access to coll"):
            opened.call("PUT", "/collections/x/points", {})
        assert len(server.requests) == 1


def test_a_full_index_fails_at_once_by_name() -> None:
    with scripted([error(507, "quota")]) as (server, opened):
        with pytest.raises(IndexFull, match="the index is full"):
            opened.call("PUT", "/collections/x/points", {})
        assert len(server.requests) == 1


def test_a_rate_limit_is_waited_for_as_long_as_the_server_says() -> None:
    pauses: list[float] = []
    limited = error(429, headers={"retry-after": "1"})
    with scripted([limited, ok("fine")], sleep=pauses.append) as (_, opened):
        assert opened.call("GET", "/collections/x") == "fine"
    assert pauses == [1.0]


def test_a_rate_limit_beyond_the_deadline_is_passed_on_at_once() -> None:
    pauses: list[float] = []
    limited = error(429, headers={"retry-after": "30"})
    with scripted([limited], sleep=pauses.append) as (server, opened):
        with pytest.raises(IndexUnavailable) as caught:
            opened.call("GET", "/collections/x")
        assert (caught.value.retry_after_s, pauses, len(server.requests)) == (30.0, [], 1)


@pytest.mark.parametrize("header", ["", "soon", "-1", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_an_unreadable_retry_after_is_ignored(header: str) -> None:
    limited = error(429, headers={"retry-after": header})
    with scripted([limited, ok("fine")]) as (_, opened):
        assert opened.call("GET", "/collections/x") == "fine"


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ('Index required but not found for "price"', "filters on payload fields without an index"),
        ('Limit exceeded 1536 > 128 for "hnsw_ef"', "over a limit of the collection's strict"),
        ("Vector dimension error: expected dim: 4, got 8", "another model"),
    ],
)
def test_a_refused_request_names_its_cause(words: str, cause: str) -> None:
    with scripted([error(400, words)]) as (_, opened):
        message = failure(lambda: opened.call("POST", "/collections/x/points/query", {}))
        assert cause in message
        assert words.split(maxsplit=1)[0] in message


def test_an_unknown_collection_raises_index_missing() -> None:
    with scripted([error(404, "Collection `images` doesn't exist!")]) as (server, opened):
        with pytest.raises(IndexMissing, match="no collection images: index an image first"):
            opened.call("POST", "/collections/images/points/query", {})
        assert len(server.requests) == 1


@pytest.mark.parametrize("path", ["/aliases", "/collections"])
def test_an_unknown_route_raises_index_refused(path: str) -> None:
    """A wrong path in QDRANT_URL, or a gateway in front of Qdrant."""
    not_found = error(404, "no such route")
    with scripted([not_found]) as (_, opened), pytest.raises(IndexRefused, match="no such route"):
        opened.call("GET", path)


def test_a_404_that_is_not_from_qdrant_is_not_a_missing_collection() -> None:
    with scripted([Answer(404, b"<html>default backend</html>")]) as (_, opened):
        message = failure(lambda: opened.call("GET", "/collections/images"))
        assert "not answering" in message


def test_a_refused_request_quotes_qdrants_message() -> None:
    with scripted([error(400, "Wrong input: vector dimension")]) as (server, opened):
        message = failure(lambda: opened.call("PUT", "/collections/x", {}))
        assert "PUT /collections/x (HTTP 400)" in message
        assert "vector dimension" in message
        assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"[]", b"null", b'"ok"', b"{}", b'{"status": "ok"}'])
def test_json_without_a_result_is_an_unexpected_response(body: bytes) -> None:
    with scripted([Answer(200, body)]) as (_, opened):
        assert "unexpected response to GET /x" in failure(lambda: opened.call("GET", "/x"))


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


def test_a_newline_at_the_end_of_a_secret_is_removed() -> None:
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


def test_calls_share_a_connection_until_reconnecting() -> None:
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
def test_a_connection_that_was_idle_for_minutes_is_not_reused() -> None:
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


def test_leftover_bytes_never_become_the_next_response() -> None:
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


@pytest.mark.fault(
    "the circuit was open when the snapshot was taken",
    seen="nothing",
    heals="the restore hook that replaces connections closes it",
)
def test_reconnecting_after_a_restore_closes_the_circuit() -> None:
    with scripted([*[error(500)] * 15, ok("well")], breaker=CircuitBreaker(Clock())) as (_, opened):
        for _ in range(5):
            failure(lambda: opened.call("GET", "/collections/x"))
        assert "paused" in failure(lambda: opened.call("GET", "/collections/x"))
        opened.reconnect()
        assert opened.call("GET", "/collections/x") == "well"


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
            assert "a wrong one" in failure(lambda: opened.call("GET", "/collections/x"))
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


def test_a_body_that_cannot_be_encoded_does_not_use_up_the_probe() -> None:
    clock = Clock()
    with scripted([error(500)] * 15 + [ok(1)], breaker=CircuitBreaker(clock)) as (_, opened):
        for _ in range(5):
            failure(lambda: opened.call("GET", "/collections/x"))
        clock.now_s = 5.1
        with pytest.raises(TypeError):
            opened.call("POST", "/collections/x", {"query": object()})
        assert opened.call("GET", "/collections/x") == 1
