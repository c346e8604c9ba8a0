"""Plain and TLS connections, against a scripted server."""

from __future__ import annotations

import gc
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPException, IncompleteRead

import pytest

from likeness.adapters.connections import Pool, connect
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
    return opened.exchange("GET", path, {"api-key": "k"}, None, time.monotonic() + timeout_s)[:2]


@pytest.fixture
def trusted(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's, by an authority that this system trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(keys.authority))
    return keys.serving("signed")


def test_a_request_arrives_unchanged() -> None:
    with serve([Answer(201, b"made")]) as server, pool(f"{server.url}/behind/a/proxy") as opened:
        deadline_s = time.monotonic() + 2
        made = opened.exchange("PUT", "/x?wait=true", {"api-key": "k"}, b'{"a": 1}', deadline_s)[:2]
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


@pytest.mark.parametrize("timeout_s", [0.3, 10])
def test_a_peer_that_never_completes_the_handshake_leaves_time_for_another(
    timeout_s: float, trusted: ssl.SSLContext
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        start_s = time.monotonic()
        with pool(url) as opened, pytest.raises(TimeoutError):
            get(opened, timeout_s=timeout_s)
    assert time.monotonic() - start_s < 2.5


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


def test_after_the_deadline_no_request_is_sent() -> None:
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


def test_a_connection_that_was_closed_while_idle_is_replaced() -> None:
    """The server closes the connection without announcing it in its response."""
    sent = itertools.count()

    def closing(request: Request) -> Answer:
        return Answer(200, b"a", close=next(sent) % 2 == 0)

    with serve(closing) as server, pool(server.url) as opened:
        for _ in range(6):
            assert get(opened) == (200, b"a")
            time.sleep(0.02)  # for the close to arrive
        assert len({request.connection for request in server.requests}) == 4


def test_clearing_closes_idle_connections() -> None:
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


@pytest.mark.parametrize(
    "url", ["http://", "https://:6333", "http://qdrant:no", "http://q:99999", "http://[::1"]
)
def test_a_url_without_a_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Pool(url)


@pytest.mark.parametrize("status", [401, 413])
def test_a_response_before_the_whole_request_was_sent_is_read(status: int) -> None:
    """A server that refuses a key need not read the body first. The rest of it cannot be told
    from a next request: the connection is not used again.
    """
    with refusing(status) as (url, connections), pool(url) as opened:
        deadline_s = time.monotonic() + 5
        for _ in range(2):
            assert opened.exchange("PUT", "/", {}, b"x" * 6_000_000, deadline_s)[:2] == (
                status,
                b"no",
            )
        assert len(connections) == 2


@contextmanager
def refusing(status: int) -> Iterator[tuple[str, list[int]]]:
    """Reads the head of each request, answers, and closes; also a list of its connections."""
    connections: list[int] = []

    def serve_all(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, (_, port) = listening.accept()
                connections.append(port)
                with client, suppress(OSError):
                    client.recv(1024)
                    client.sendall(b"HTTP/1.1 %d No\r\ncontent-length: 2\r\n\r\nno" % status)
                    time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve_all, args=(listening,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", connections
        listening.shutdown(socket.SHUT_RDWR)


def test_dead_addresses_take_no_longer_than_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        place = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: [place] * 8)
        waiting = [socket.socket() for _ in range(4)]  # who comes after them is not let in
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        start_s = time.monotonic()
        with pool(f"http://qdrant:{port}") as opened, pytest.raises(TimeoutError):
            get(opened, timeout_s=1.5)
        assert time.monotonic() - start_s < 2.5
        for each in waiting:
            each.close()


@pytest.mark.parametrize(
    "claim",
    [b"content-length: 1000000000000000", b"content-length: " + b"9" * 23],
    ids=["a petabyte", "more than a number holds"],
)
def test_an_absurd_content_length_is_an_incomplete_response(claim: bytes) -> None:
    huge = Answer(raw=b"HTTP/1.1 200 OK\r\n" + claim + b"\r\n\r\n{}")
    with serve([huge]) as server, pool(server.url) as opened, pytest.raises(IncompleteRead):
        get(opened)


def test_an_informational_response_is_never_the_final_one() -> None:
    early = Answer(raw=b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
    with serve([early, ok("fine")]) as server, pool(server.url) as opened:
        with pytest.raises(HTTPException):
            get(opened)
        assert get(opened) == (200, ok("fine").body)


def test_a_trailing_dot_is_removed_before_a_name_is_verified(trusted: ssl.SSLContext) -> None:
    with serve([ok(None)], trusted) as server:
        port = server.url.rpartition(":")[2]
        deadline_s = time.monotonic() + 2
        tls = ssl.create_default_context()
        with closing(connect("images.test.", int(port), deadline_s, 1, tls, "127.0.0.1")):
            pass


def test_a_path_may_hold_any_character() -> None:
    with serve([ok(None)]) as server, pool(f"{server.url}/für alle") as opened:
        get(opened, "/collections/my images?wait=true")
        assert server.requests[0].path == "/f%C3%BCr%20alle/collections/my%20images?wait=true"


def test_the_number_of_idle_connections_is_limited() -> None:
    with serve(lambda request: ok(None, wait_s=0.05)) as server, pool(server.url) as opened:
        with ThreadPoolExecutor(32) as threads:
            list(threads.map(lambda _: get(opened), range(32)))
        before = {request.connection for request in server.requests}
        with ThreadPoolExecutor(32) as threads:
            list(threads.map(lambda _: get(opened), range(32)))
        assert len(before & {r.connection for r in server.requests[32:]}) <= 8


def test_a_connection_in_use_during_a_clearing_is_not_reused() -> None:
    with serve(lambda request: ok(None, wait_s=0.2)) as server, pool(server.url) as opened:
        with ThreadPoolExecutor(1) as thread:
            asked = thread.submit(get, opened)
            time.sleep(0.1)
            opened.clear()
            asked.result()
        get(opened)
        first, second = server.requests
        assert first.connection != second.connection
