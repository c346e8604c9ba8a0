"""A scripted HTTP server on loopback: one `Answer` for each request.

It records every request, so that tests can check what was sent.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Answer:
    """The response to one request.

    `wait_s` passes before the first byte, `pause_s` before each byte of the body. `length` is the
    content-length header, `sent` how many bytes of the body are actually sent. `raw` is sent
    instead of an HTTP response: b"" only closes the connection.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    pause_s: float = 0.0
    length: int | None = None
    sent: int | None = None
    close: bool = False
    raw: bytes | None = None


@dataclass(frozen=True)
class Request:
    """`connection` is the client's port: the same for each request of one connection."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    connection: int


Script = Iterable[Answer] | Callable[[Request], Answer]


def ok(result: Any, **how: Any) -> Answer:
    """A successful response of Qdrant."""
    body = json.dumps({"result": result, "status": "ok", "time": 0.0}).encode()
    return Answer(200, body, **how)


def error(status: int, message: str = "no", **how: Any) -> Answer:
    """An error response of Qdrant."""
    body = json.dumps({"status": {"error": message}, "time": 0.0}).encode()
    return Answer(status, body, **how)


def half_answered(result: Any = None) -> Answer:
    """The connection is closed in the middle of the body."""
    whole = ok(result)
    return Answer(200, whole.body, length=len(whole.body), sent=len(whole.body) // 2, close=True)


CLOSED_AT_ONCE = Answer(raw=b"")


class FaultServer:
    """Answers by its script; the last answer of a list is repeated."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.stopping = threading.Event()
        self._script = script if callable(script) else list(script)
        self._lock = threading.Lock()
        handler = type("BoundHandler", (_Handler,), {"faults": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._scheme = "https" if tls else "http"
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    @property
    def paths(self) -> list[str]:
        return [f"{request.method} {request.path}" for request in self.requests]

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append(request)
            if callable(self._script):
                return self._script(request)
            return self._script.pop(0) if len(self._script) > 1 else self._script[0]

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # for many clients at once


class _Handler(BaseHTTPRequestHandler):
    faults: FaultServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle(self) -> None:
        # a client that timed out leaves its connection broken
        with suppress(ConnectionError):
            super().handle()

    def _answer(self) -> None:
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        body = json.loads(data) if data else None
        headers = {name.lower(): text for name, text in self.headers.items()}
        port: int = self.client_address[1]
        answer = self.faults.answer(Request(self.command, self.path, headers, body, port))
        self.faults.stopping.wait(answer.wait_s)
        self.close_connection = answer.close or answer.raw is not None
        self.wfile.write(_head(answer) if answer.raw is None else answer.raw)
        body_sent = answer.body[: answer.sent]
        if answer.pause_s:
            for i in range(len(body_sent)):
                self.faults.stopping.wait(answer.pause_s)
                self.wfile.write(body_sent[i : i + 1])
        else:
            self.wfile.write(body_sent)

    do_GET = do_HEAD = do_PUT = do_POST = _answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _head(answer: Answer) -> bytes:
    length = len(answer.body) if answer.length is None else answer.length
    headers = {"content-type": "application/json", "content-length": length, **answer.headers}
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {text}" for name, text in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


@contextmanager
def serve(script: Script, tls: ssl.SSLContext | None = None) -> Iterator[FaultServer]:
    server = FaultServer(script, tls)
    try:
        yield server
    finally:
        server.stop()


def closed_port() -> str:
    """The URL of a port that refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    return f"http://127.0.0.1:{port}"
