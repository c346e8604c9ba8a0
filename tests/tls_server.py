"""A scripted TLS server on loopback, and certificates for it."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

IMAGE = b"\xff\xd8 not quite a picture"
OPENSSL = """
[req]
distinguished_name = name
prompt = no
[name]
CN = a throwaway of the tests
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[unsigned]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectAltName = DNS:images.test, DNS:*.cdn.test, DNS:xn--bcher-kva.test, IP:127.0.0.1
[signed]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectAltName = DNS:images.test, DNS:*.cdn.test, DNS:xn--bcher-kva.test, IP:127.0.0.1
authorityKeyIdentifier = keyid
"""
# Pieces that are sent in order, where a number is a pause in seconds.
Pieces = Iterable[bytes | float]


class Keys:
    """A certificate authority, and server certificates: signed by it and self-signed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "openssl.cnf").write_text(OPENSSL)
        new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config openssl.cnf"
        for name in ("authority", "unsigned"):
            self._openssl(
                f"req -x509 {new} -days 2 -extensions {name} -keyout {name}.key -out {name}.pem"
            )
        self._openssl(f"req -new {new} -keyout signed.key -out signed.csr")
        self._openssl(
            "x509 -req -in signed.csr -CA authority.pem -CAkey authority.key -CAcreateserial "
            "-days 2 -extfile openssl.cnf -extensions signed -out signed.pem"
        )

    def _openssl(self, command: str) -> None:
        subprocess.run(
            ["openssl", *command.split()], cwd=self._folder, check=True, capture_output=True
        )

    @property
    def authority(self) -> Path:
        return self._folder / "authority.pem"

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority)

    def serving(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        return context


class Peer:
    """Counts its connections, keeps the head of each request, and sends every one the same."""

    def __init__(self, pieces: Pieces, context: ssl.SSLContext | None, host: str) -> None:
        self.connections = 0
        self.requests: list[str] = []
        self.pieces = pieces
        self._context = context
        self._stopping = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.create_server((host, 0), family=family)
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            connection, _ = self._listening.accept()
            if self._stopping.is_set():
                connection.close()
                return
            self.connections += 1
            # a client that refuses us, or that gave up, leaves the connection broken
            with connection, suppress(OSError):
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        if self._context is None:
            self._send(connection)
            return
        with self._context.wrap_socket(connection, server_side=True) as secure:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                if not (part := secure.recv(65_536)):
                    return
                head += part
            self.requests.append(head.decode())
            self._send(secure)

    def _send(self, connection: socket.socket) -> None:
        for piece in self.pieces:
            if isinstance(piece, bytes):
                connection.sendall(piece)
            elif self._stopping.wait(piece):
                return

    def stop(self) -> None:
        self._stopping.set()
        with suppress(OSError):  # wakes accept up
            socket.create_connection(self._listening.getsockname()[:2], 1).close()
        self._thread.join()
        self._listening.close()


def head(status: str = "200 OK", **headers: object) -> bytes:
    lines = [f"{name.replace('_', '-')}: {text}" for name, text in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def whole(body: bytes = IMAGE, status: str = "200 OK", **headers: object) -> bytes:
    return head(status, content_length=len(body), **headers) + body


@contextmanager
def serve(
    pieces: Pieces, context: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> Iterator[Peer]:
    peer = Peer(pieces, context, host)
    try:
        yield peer
    finally:
        peer.stop()
