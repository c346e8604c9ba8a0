"""HTTP/1.1 over http.client, where one deadline holds from connecting to the last byte.

urllib3 gives TCP, TLS and each read a timeout of their own, so that a peer that sends byte by byte
outlasts them all; and importing it would be a tenth of a cold start (benchmarks/coldstart.py). Only
the look-up of a name has no limit: the system's resolver takes none.
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
_MOST_IDLE = 8
# Load balancers and NAT forget idle connections after minutes, some without a word.
_IDLE_S = 60.0
_FIRST_FINAL_STATUS = 200
_PATH_CHARACTERS = "%/?:@!$&'()*+,;=~"  # RFC 3986, beside letters, digits and "-._"


class _TimedSocket(socket.socket):
    """Each read waits only until the deadline: with a timeout each, a trickle would never end."""

    deadline_s = 0.0

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(left_s(self.deadline_s))
        return super().recv_into(*args, **kwargs)


class _TimedTlsSocket(ssl.SSLSocket):
    """The same, encrypted: OpenSSL reads from the system, past a socket that lies beneath."""

    deadline_s = 0.0

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(left_s(self.deadline_s))
        return super().recv_into(*args, **kwargs)


def left_s(deadline_s: float) -> float:
    """The time until a deadline on time.monotonic()'s clock. Raises TimeoutError where none is."""
    remaining_s = deadline_s - time.monotonic()
    if remaining_s <= 0:
        raise TimeoutError
    return remaining_s


def connect(
    name: str,
    port: int,
    deadline_s: float,
    connect_s: float,
    tls: ssl.SSLContext | None = None,
    address: str | None = None,
) -> HTTPConnection:
    """An open connection; each exchange over it is given its time with `allow_until`.

    `connect_s` limits the connection to one address, and the handshake: another try may meet a
    healthy peer. `address` is where to go instead of asking for the name's. Raises OSError:
    TimeoutError, ssl.SSLError.
    """
    timed: _TimedSocket | _TimedTlsSocket = _first_that_connects(
        address or name, port, deadline_s, connect_s
    )
    try:
        if tls:
            tls.sslsocket_class = _TimedTlsSocket
            timed.settimeout(min(connect_s, left_s(deadline_s)))
            secure = tls.wrap_socket(timed, server_hostname=name.removesuffix("."))
            assert isinstance(secure, _TimedTlsSocket)
            timed = secure
        connection = HTTPConnection(name, port)
    except BaseException:
        timed.close()
        raise
    connection.default_port = _HTTPS if tls else _HTTP  # others stand in the header Host
    connection.auto_open = 0  # or it would open another one by itself, and ask for the name again
    connection.sock = timed
    return connection


def _first_that_connects(host: str, port: int, deadline_s: float, connect_s: float) -> _TimedSocket:
    failure: OSError | None = None
    for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        timed = _TimedSocket(family, kind, protocol)
        try:
            timed.settimeout(min(connect_s, left_s(deadline_s)))
            timed.connect(place)
            timed.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            timed.close()
            failure = error
        else:
            return timed
    raise failure or OSError(f"{host} has no address")


def allow_until(connection: HTTPConnection, deadline_s: float) -> None:
    """Give the next exchange a deadline. Raises TimeoutError where it has passed."""
    timed = connection.sock
    assert isinstance(timed, _TimedSocket | _TimedTlsSocket)
    timed.deadline_s = deadline_s
    timed.settimeout(left_s(deadline_s))  # for what is sent


def pieces(response: HTTPResponse) -> Iterator[bytes]:
    """The body as it comes, whatever length was claimed. Raises IncompleteRead where it is cut."""
    while part := response.read1(_CHUNK_BYTES):
        yield part
    if response.length:  # read1 counts it down
        raise IncompleteRead(b"", response.length)


class _Idle(NamedTuple):
    connection: HTTPConnection
    since_s: float


class Pool:
    """Connections to one server, kept open between exchanges. Safe to share between threads."""

    def __init__(self, url: str, wall_clock: Callable[[], float] = time.time) -> None:
        """`url`: http(s)://host[:port][/path]; the path goes before that of each request.

        `wall_clock` goes on while a function is frozen; a monotonic one may not. Raises ValueError
        for what names no server.
        """
        parts = urlsplit(url)
        if not parts.hostname:
            raise ValueError("a URL without a host")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._name = parts.hostname
        self._port = parts.port or (_HTTPS if self._tls else _HTTP)
        self._path = parts.path
        self._wall_clock = wall_clock
        self._idle: list[_Idle] = []
        self._cleared = 0
        weakref.finalize(self, _close_all, self._idle)  # nobody has to clear a pool

    def exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        deadline_s: float,
    ) -> tuple[int, bytes]:
        """Status and body. Raises OSError or HTTPException where there is no whole answer."""
        cleared, sent = self._cleared, False
        target = quote(self._path + path, safe=_PATH_CHARACTERS)
        connection = self._take(deadline_s)
        try:
            allow_until(connection, deadline_s)
            # who refuses a key, or a long body, may answer before all of it was read
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, target, body, dict(headers))
                sent = True
            with connection.getresponse() as response:
                if response.status < _FIRST_FINAL_STATUS:  # http.client takes 103 for an answer
                    raise HTTPException(f"status {response.status}")
                data = b"".join(pieces(response))
        except BaseException:
            connection.close()
            raise
        # None: the server closes it
        keep = connection.sock and sent and cleared == self._cleared
        if keep and len(self._idle) < _MOST_IDLE:
            self._idle.append(_Idle(connection, self._wall_clock()))
        else:
            connection.close()
        return response.status, data

    def clear(self) -> None:
        """Close what is idle, and do not use again what is not."""
        self._cleared += 1
        _close_all(self._idle)

    def _take(self, deadline_s: float) -> HTTPConnection:
        while idle := _popped(self._idle):
            if self._wall_clock() - idle.since_s < _IDLE_S and _is_quiet(idle.connection):
                return idle.connection
            idle.connection.close()
        return connect(self._name, self._port, deadline_s, _CONNECT_TIMEOUT_S, self._tls)


def _popped(idle: list[_Idle]) -> _Idle | None:
    try:
        return idle.pop()
    except IndexError:  # another thread may have been faster
        return None


def _close_all(idle: list[_Idle]) -> None:
    while left := _popped(idle):
        left.connection.close()


def _is_quiet(connection: HTTPConnection) -> bool:
    """Whether an idle connection is open, and holds nothing of an earlier answer."""
    connection.sock.settimeout(0)
    try:
        connection.sock.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        pass
    return False
