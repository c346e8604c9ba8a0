"""Connections in the clear and over TLS, against a server that does as it is told."""

from __future__ import annotations

import gc
import itertools
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, IncompleteRead

import pytest

from likeness.adapters.connections import Pool
from likeness.errors import ConfigurationError
from tests.fault_server import (
    CLOSED_AT_ONCE,
    Answer,
    Request,
    closed_port,
    half_answered,
    ok,
    serve,
)
from tests.tls_server import Keys


@contextmanager
def pool(url: str) -> Iterator[Pool]:
    opened = Pool(url)
    try:
        yield opened
    finally:
        opened.clear()


def get(opened: Pool, path: str = "/", timeout_s: float = 2.0) -> tuple[int, bytes]:
    return opened.exchange("GET", path, {"api-key": "k"}, None, time.monotonic() + timeout_s)


@pytest.fixture
def trusted(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's, by an authority that this system trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(keys.authority))
    return keys.serving("signed")


def test_a_request_arrives_as_it_was_given() -> None:
    with serve([Answer(201, b"made")]) as server, pool(f"{server.url}/behind/a/proxy") as opened:
        deadline_s = time.monotonic() + 2
        made = opened.exchange("PUT", "/x?wait=true", {"api-key": "k"}, b'{"a": 1}', deadline_s)
        [request] = server.requests
    assert made == (201, b"made")
    assert (request.method, request.path) == ("PUT", "/behind/a/proxy/x?wait=true")
    assert request.body == {"a": 1}
    assert request.headers["api-key"] == "k"
    assert server.url.endswith(request.headers["host"])


def test_tls_connections_are_kept_open_too(trusted: ssl.SSLContext) -> None:
    with serve([ok(None)], trusted) as server, pool(server.url) as opened:
        assert [get(opened)[0] for _ in range(3)] == [200] * 3
        assert len({request.connection for request in server.requests}) == 1


def test_a_tls_peer_without_a_valid_certificate_is_sent_nothing(
    trusted: ssl.SSLContext, keys: Keys
) -> None:
    with serve([ok(None)], keys.serving("unsigned")) as server, pool(server.url) as opened:
        with pytest.raises(ssl.SSLCertVerificationError):
            get(opened)
        assert server.requests == []


def test_a_peer_that_never_shakes_hands_is_left_in_time(trusted: ssl.SSLContext) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        start_s = time.monotonic()
        with pool(f"https://127.0.0.1:{port}") as opened, pytest.raises(TimeoutError):
            get(opened, timeout_s=0.3)
    assert time.monotonic() - start_s < 1.5


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_trickle_ends_with_the_deadline(part: str, trusted: ssl.SSLContext) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n" + b"\r\n" * (part == "body")
    drip = Answer(raw=b"" if part == "headers" else head, body=head + b"x" * 900, pause_s=0.02)
    for tls in (None, trusted):
        with serve([drip], tls) as server, pool(server.url) as opened:
            start_s = time.monotonic()
            with pytest.raises(TimeoutError):
                get(opened, timeout_s=0.4)
            assert 0.3 < time.monotonic() - start_s < 1.5


def test_no_time_left_is_no_request() -> None:
    with serve([ok(None)]) as server, pool(server.url) as opened:
        for _ in range(2):  # with a connection to open, and with one that is open
            with pytest.raises(TimeoutError):
                get(opened, timeout_s=-1)
            get(opened)
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (CLOSED_AT_ONCE, ConnectionError),
        (half_answered(), IncompleteRead),
        (Answer(raw=b"SSH-2.0-OpenSSH\r\n"), HTTPException),
    ],
    ids=["nothing", "half an answer", "not HTTP"],
)
def test_after_a_fault_the_next_exchange_has_a_connection_of_its_own(
    fault: Answer, error: type[Exception]
) -> None:
    with serve([fault, ok("fine")]) as server, pool(server.url) as opened:
        with pytest.raises(error):
            get(opened)
        assert get(opened) == (200, ok("fine").body)
        first, second = server.requests
        assert first.connection != second.connection


def test_a_connection_that_was_closed_while_idle_costs_no_failure() -> None:
    """The server says nothing of it: it closes after an answer that promised to stay."""
    sent = itertools.count()

    def closing(request: Request) -> Answer:
        return Answer(200, b"a", close=next(sent) % 2 == 0)

    with serve(closing) as server, pool(server.url) as opened:
        for _ in range(6):
            assert get(opened) == (200, b"a")
            time.sleep(0.02)  # for the close to arrive
        assert len({request.connection for request in server.requests}) == 4


def test_clearing_closes_what_is_idle() -> None:
    with serve([ok(None)]) as server, pool(server.url) as opened:
        get(opened)
        opened.clear()
        get(opened)
        first, second = server.requests
        assert first.connection != second.connection


def test_a_pool_that_is_dropped_leaves_no_connection_open() -> None:
    """A socket that was left to the collector would be a ResourceWarning, and so an error."""
    with serve([ok(None)]) as server:
        get(Pool(server.url))
        gc.collect()


def test_a_refused_connection_is_an_os_error() -> None:
    with pool(closed_port()) as opened, pytest.raises(ConnectionRefusedError):
        get(opened)


@pytest.mark.parametrize("url", ["http://", "https://:6333", "http://qdrant:no", "http://q:99999"])
def test_an_address_that_names_no_server_is_told(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the address of a server"):
        Pool(url)
