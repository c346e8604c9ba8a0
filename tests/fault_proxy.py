"""A TCP proxy on loopback, in front of a real server, that simulates network faults.

All it knows of HTTP is that a response follows each request: the client's bytes after a response
begin the next request. `fault_server` has servers that are scripted completely.
"""

from __future__ import annotations

import itertools
import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

_HTTP_PORT = 80
_CHUNK_BYTES = 65_536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s; closing then sends a reset


@dataclass(frozen=True)
class Fault:
    """The fault of one request. By default request and response pass unchanged.

    `reset`: the connection is reset before the request is passed on. `silent`: there is never a
    response, as when a host vanishes. `answer`: sent instead of the server's response. `wait_s`
    passes before the server's response, `pause_s` before each byte of it. `cut_after`: after this
    many bytes of the response the connection is reset; the server has processed the request.
    """

    reset: bool = False
    silent: bool = False
    answer: bytes | None = None
    wait_s: float = 0.0
    pause_s: float = 0.0
    cut_after: int | None = None


NONE = Fault()


def http_answer(status: str, body: bytes = b"", kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + body


class FaultProxy:
    """`requests` counts requests; `on_answer` is called when the server has answered, before the
    client receives any of it.
    """

    def __init__(self, upstream: str) -> None:
        """`upstream` is the http URL of a server."""
        self.requests = 0
        self.on_answer: Callable[[], object] = lambda: None
        self._upstream = urlsplit(upstream)
        self._faults: Iterator[Fault] = itertools.repeat(NONE)
        self._only = b""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        here = f"127.0.0.1:{self._listening.getsockname()[1]}"
        return self._upstream._replace(netloc=here).geturl()

    @contextmanager
    def failing(self, fault: Fault, times: int | None = None, only: bytes = b"") -> Iterator[None]:
        """Apply a fault to requests that start with `only`, at most to `times` of them."""
        self._only = only
        many = itertools.repeat(fault) if times is None else itertools.repeat(fault, times)
        self._faults = itertools.chain(many, itertools.repeat(NONE))
        try:
            yield
        finally:
            self._faults = itertools.repeat(NONE)

    def stop(self) -> None:
        self._stopping.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):  # either side may close at any time
            host, port = self._upstream.hostname or "", self._upstream.port or _HTTP_PORT
            server = socket.create_connection((host, port))
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with server, selectors.DefaultSelector() as ready:
                ready.register(client, selectors.EVENT_READ)
                ready.register(server, selectors.EVENT_READ)
                self._relay(client, server, ready)

    def _relay(
        self, client: socket.socket, server: socket.socket, ready: selectors.BaseSelector
    ) -> None:
        fault, answering, sent = NONE, True, 0
        while not self._stopping.is_set():
            for key, _ in ready.select(0.5):
                data = client.recv(_CHUNK_BYTES) if key.fileobj is client else b""
                if key.fileobj is client and answering and data:
                    fault, answering, sent = self._next_fault(data), False, 0
                    if fault.reset or fault.silent or fault.answer is not None:
                        self._refuse(client, fault)
                        return
                if key.fileobj is client:
                    server.sendall(data)
                else:
                    data = server.recv(_CHUNK_BYTES)
                    if not answering:
                        answering = True
                        self.on_answer()
                        self._stopping.wait(fault.wait_s)
                    sent += self._pass_on(data, client, fault, sent)
                if not data:
                    return

    def _next_fault(self, request: bytes) -> Fault:
        with self._lock:
            self.requests += 1
            return next(self._faults) if request.startswith(self._only) else NONE

    def _refuse(self, client: socket.socket, fault: Fault) -> None:
        if fault.reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            return
        if fault.answer is not None:
            client.sendall(fault.answer)
            client.shutdown(socket.SHUT_WR)
        # read what else it sends: closing earlier would reset the connection
        client.settimeout(0.5)
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                if not client.recv(_CHUNK_BYTES):
                    return

    def _pass_on(self, data: bytes, client: socket.socket, fault: Fault, sent: int) -> int:
        if fault.cut_after is not None and sent + len(data) > fault.cut_after:
            client.sendall(data[: fault.cut_after - sent])
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            raise ConnectionResetError
        step = 1 if fault.pause_s else max(1, len(data))
        for at in range(0, len(data), step):
            self._stopping.wait(fault.pause_s)
            client.sendall(data[at : at + step])
        return len(data)
