"""HTTP/1.1 connections over http.client, where one deadline holds for the whole of an exchange.

urllib3 gives TCP, TLS and each read a timeout of their own, so that a peer that sends byte by byte
outlasts them all; and importing it would be a tenth of a cold start (benchmarks/coldstart.py).
"""

from __future__ import annotations

import socket
import ssl
import time
import weakref
from collections.abc import Mapping
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from likeness.errors import ConfigurationError

_CONNECT_TIMEOUT_S = 1.0
_HTTP, _HTTPS = 80, 443


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

    `connect_s` limits TCP's part. `address` is where to go instead of asking for the name's.
    Raises OSError: TimeoutError, ssl.SSLError.
    """
    plain = socket.create_connection((address or name, port), min(connect_s, left_s(deadline_s)))
    with plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.settimeout(left_s(deadline_s))
        if tls is None:
            timed: _TimedSocket | _TimedTlsSocket = _TimedSocket(fileno=plain.detach())
        else:
            tls.sslsocket_class = _TimedTlsSocket
            secure = tls.wrap_socket(plain, server_hostname=name)
            assert isinstance(secure, _TimedTlsSocket)
            timed = secure
    connection = HTTPConnection(name, port)
    connection.default_port = _HTTPS if tls else _HTTP  # others stand in the header Host
    connection.auto_open = 0  # or it would open another one by itself, and ask for the name again
    connection.sock = timed
    return connection


def allow_until(connection: HTTPConnection, deadline_s: float) -> None:
    """Give the next exchange a deadline. Raises TimeoutError where it has passed."""
    timed = connection.sock
    assert isinstance(timed, _TimedSocket | _TimedTlsSocket)
    timed.deadline_s = deadline_s
    timed.settimeout(left_s(deadline_s))  # for what is sent


class Pool:
    """Connections to one server, kept open between exchanges. Safe to share between threads."""

    def __init__(self, url: str) -> None:
        """`url`: http(s)://host[:port][/path]; the path goes before that of each request.

        Raises ConfigurationError for what names no server.
        """
        parts = urlsplit(url)
        try:
            name, port = parts.hostname, parts.port
        except ValueError:
            name, port = None, None
        if not name:
            raise ConfigurationError(f"{url!r} is not the address of a server")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._name, self._port = name, port or (_HTTPS if self._tls else _HTTP)
        self._path = parts.path
        self._idle: list[HTTPConnection] = []
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
        connection = self._take(deadline_s)
        try:
            allow_until(connection, deadline_s)
            connection.request(method, self._path + path, body, dict(headers))
            with connection.getresponse() as response:
                data = response.read()
        except BaseException:
            connection.close()
            raise
        if connection.sock:  # the server keeps it open, too
            self._idle.append(connection)
        return response.status, data

    def clear(self) -> None:
        """Close what is idle."""
        _close_all(self._idle)

    def _take(self, deadline_s: float) -> HTTPConnection:
        while connection := _popped(self._idle):
            if _is_quiet(connection):
                return connection
            connection.close()
        return connect(self._name, self._port, deadline_s, _CONNECT_TIMEOUT_S, self._tls)


def _popped(idle: list[HTTPConnection]) -> HTTPConnection | None:
    try:
        return idle.pop()
    except IndexError:  # another thread may have been faster
        return None


def _close_all(idle: list[HTTPConnection]) -> None:
    while connection := _popped(idle):
        connection.close()


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
