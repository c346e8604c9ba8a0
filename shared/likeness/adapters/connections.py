"""HTTP/1.1 over http.client with one deadline, from connecting to the last byte.

urllib3 has separate timeouts for TCP, TLS and each read, so a peer that sends single bytes can
exceed their sum; importing it would also be a tenth of a cold start (benchmarks/coldstart.py).
The deadline does not cover name resolution: the system's resolver accepts no timeout.
"""

from __future__ import annotations

import socket
import ssl
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

_CONNECT_TIMEOUT_S = 1.0
_HTTP, _HTTPS = 80, 443
_CHUNK_BYTES = 65_536
_MAX_IDLE = 8
# Load balancers and NAT drop idle connections after minutes, some without closing them.
_IDLE_S = 60.0
_FIRST_FINAL_STATUS = 200
_PATH_CHARACTERS = "%/?:@!$&'()*+,;=~"  # RFC 3986, besides letters, digits and "-._"


class _DeadlineSocket(socket.socket):
    """Every read ends at the deadline, so that a slow trickle of bytes cannot go on for ever."""

    deadline_s = 0.0

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(remaining_s(self.deadline_s))
        return super().recv_into(*args, **kwargs)


class _DeadlineTlsSocket(ssl.SSLSocket):
    """The same for TLS: OpenSSL reads from the file descriptor, not through the Python socket."""

    deadline_s = 0.0

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(remaining_s(self.deadline_s))
        return super().recv_into(*args, **kwargs)


def remaining_s(deadline_s: float) -> float:
    """The time until a deadline by time.monotonic(). Raises TimeoutError once it has passed."""
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def connect(
    name: str,
    port: int,
    deadline_s: float,
    connect_s: float,
    tls: ssl.SSLContext | None = None,
    address: str | None = None,
) -> HTTPConnection:
    """An open connection; `set_deadline` sets the deadline of each exchange over it.

    `connect_s` limits connecting to one address, and the TLS handshake: another attempt may reach
    a healthy peer. `address` skips name resolution. Raises OSError, such as TimeoutError or
    ssl.SSLError.
    """
    sock: _DeadlineSocket | _DeadlineTlsSocket = _connect_any(
        address or name, port, deadline_s, connect_s
    )
    try:
        if tls:
            tls.sslsocket_class = _DeadlineTlsSocket
            sock.settimeout(min(connect_s, remaining_s(deadline_s)))
            secure = tls.wrap_socket(sock, server_hostname=name.removesuffix("."))
            assert isinstance(secure, _DeadlineTlsSocket)
            sock = secure
        connection = HTTPConnection(name, port)
    except BaseException:
        sock.close()
        raise
    connection.default_port = _HTTPS if tls else _HTTP  # any other is named in the Host header
    connection.auto_open = 0  # or http.client would reconnect by itself, resolving the name again
    connection.sock = sock
    return connection


def _connect_any(host: str, port: int, deadline_s: float, connect_s: float) -> _DeadlineSocket:
    failure: OSError | None = None
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, address in found:
        sock = _DeadlineSocket(family, kind, protocol)
        try:
            sock.settimeout(min(connect_s, remaining_s(deadline_s)))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure or OSError(f"{host} has no address")


def set_deadline(connection: HTTPConnection, deadline_s: float) -> None:
    """Set the deadline of the next exchange. Raises TimeoutError where it has passed."""
    sock = connection.sock
    assert isinstance(sock, _DeadlineSocket | _DeadlineTlsSocket)
    sock.deadline_s = deadline_s
    sock.settimeout(remaining_s(deadline_s))  # limits sending


def iter_body(response: HTTPResponse) -> Iterator[bytes]:
    """The body in chunks as they arrive. Raises IncompleteRead where it ends early."""
    while chunk := response.read1(_CHUNK_BYTES):
        yield chunk
    if response.length:  # read1 counts it down
        raise IncompleteRead(b"", response.length)


class Reply(NamedTuple):
    """A complete response. `retry_after` is the header of that name."""

    status: int
    data: bytes
    retry_after: str | None = None


class _Idle(NamedTuple):
    connection: HTTPConnection
    since_s: float


class Pool:
    """Connections to one server, kept open between exchanges. Safe to share between threads."""

    def __init__(self, url: str, wall_clock: Callable[[], float] = time.time) -> None:
        """`url`: http(s)://host[:port][/path]; the path is a prefix of each request's path.

        `wall_clock` must advance while a function is frozen, which a monotonic clock may not.
        Raises ValueError for a URL without a host.
        """
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError("the URL has no host")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._name = parts.hostname
        self._port = parts.port or (_HTTPS if self._tls else _HTTP)
        self._path = parts.path
        self._wall_clock = wall_clock
        self._idle: list[_Idle] = []
        self._generation = 0
        weakref.finalize(self, _close_all, self._idle)  # a pool need not be cleared

    def exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        deadline_s: float,
    ) -> Reply:
        """Raises OSError or HTTPException without a complete response."""
        generation, sent = self._generation, False
        target = quote(self._path + path, safe=_PATH_CHARACTERS)
        connection = self._acquire(deadline_s)
        try:
            set_deadline(connection, deadline_s)
            # a server may refuse a key or a long body before it has read all of the request
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, target, body, dict(headers))
                sent = True
            with connection.getresponse() as response:
                # http.client mistakes 103 for the final response
                if response.status < _FIRST_FINAL_STATUS:
                    raise HTTPException(f"status {response.status}")
                data = b"".join(iter_body(response))
        except BaseException:
            connection.close()
            raise
        # http.client sets `sock` to None where the server closes the connection
        reusable = connection.sock and sent and generation == self._generation
        if reusable and len(self._idle) < _MAX_IDLE:
            self._idle.append(_Idle(connection, self._wall_clock()))
        else:
            connection.close()
        return Reply(response.status, data, response.headers.get("retry-after"))

    def clear(self) -> None:
        """Close idle connections now, and those in use after their exchange."""
        self._generation += 1
        _close_all(self._idle)

    def _acquire(self, deadline_s: float) -> HTTPConnection:
        while idle := _pop(self._idle):
            if self._wall_clock() - idle.since_s < _IDLE_S and _is_clean(idle.connection):
                return idle.connection
            idle.connection.close()
        return connect(self._name, self._port, deadline_s, _CONNECT_TIMEOUT_S, self._tls)


def _pop(idle: list[_Idle]) -> _Idle | None:
    try:
        return idle.pop()
    except IndexError:  # another thread may have taken the last one
        return None


def _close_all(idle: list[_Idle]) -> None:
    while last := _pop(idle):
        last.connection.close()


def _is_clean(connection: HTTPConnection) -> bool:
    """Whether an idle connection is open, with no leftover bytes of an earlier response."""
    connection.sock.settimeout(0)
    try:
        connection.sock.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        pass
    return False
