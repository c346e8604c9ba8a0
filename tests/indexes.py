"""Where a test's index is: the embedded engine in a folder; with TEST_QDRANT_URL, a Qdrant server.

On that server, each index has an alias of its own. All aliases of a run begin with the same random
name, so that several runs can share one server. Whatever was opened there is deleted when the test,
module or session that opened it ends (conftest.py).
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import urllib3
from msgspec import structs

from likeness.adapters import index as adapters
from likeness.filters import Schema
from likeness.ports import VectorIndex
from likeness.settings import Settings

SERVER_URL = os.environ.get("TEST_QDRANT_URL", "").rstrip("/")
API_KEY = os.environ.get("TEST_QDRANT_API_KEY") or None
RUN = f"likeness-test-{uuid.uuid4().hex[:8]}"
_on_server: list[IndexAddress] = []  # those that have not been dropped


@dataclass(frozen=True)
class IndexAddress:
    """What settings name an index by, and raw calls to its server."""

    url: str
    alias: str = "images"
    api_key: str | None = None

    @property
    def env(self) -> dict[str, str]:
        """The environment variables with which a function or a command opens this index."""
        key = {"QDRANT_API_KEY": self.api_key} if self.api_key else {}
        return {"QDRANT_URL": self.url, "LIKENESS_ALIAS": self.alias, **key}

    def open(self, schema: Schema | None = None) -> VectorIndex:
        settings = Settings.from_env(self.env)
        return adapters.open_index(structs.replace(settings, schema=schema or Schema()))

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        headers = {"api-key": self.api_key} if self.api_key else {}
        answer = urllib3.request(
            method, self.url + path, json=body, headers=headers, timeout=60, retries=3
        )
        assert answer.status < 400, f"{method} {path}: HTTP {answer.status} {answer.data!r}"
        return answer.json()["result"]

    def drop(self) -> None:
        """Delete the server's aliases and collections whose names begin with this alias."""
        aliases = [each["alias_name"] for each in self.call("GET", "/aliases")["aliases"]]
        if ours := [name for name in aliases if name.startswith(self.alias)]:
            actions = [{"delete_alias": {"alias_name": name}} for name in ours]
            self.call("POST", "/collections/aliases", {"actions": actions})
        for name in [each["name"] for each in self.call("GET", "/collections")["collections"]]:
            if name.startswith(self.alias):
                self.call("DELETE", f"/collections/{name}")


def address_of(folder: Path) -> IndexAddress:
    """The index in a folder; on the server, an alias that stands for this folder."""
    path = folder.resolve()
    if SERVER_URL:
        return on_server(hashlib.sha256(bytes(path)).hexdigest()[:12])
    return IndexAddress(path.as_uri())


def open_index(folder: Path, schema: Schema | None = None) -> VectorIndex:
    """Opened again after close(), the index of a folder has what was written to it."""
    return address_of(folder).open(schema)


@contextmanager
def empty_on_server() -> Iterator[IndexAddress]:
    """A new index on a Qdrant server; without TEST_QDRANT_URL, on a test server of its own."""
    if SERVER_URL:
        yield on_server()
    else:
        with running_double() as server:
            yield on_double(server)


def on_server(name: str | None = None) -> IndexAddress:
    """The index of this name in this run, by default a new one, at TEST_QDRANT_URL."""
    address = IndexAddress(SERVER_URL, f"{RUN}-{name or uuid.uuid4().hex[:12]}", API_KEY)
    if address not in _on_server:
        _on_server.append(address)
    return address


def on_double(server: ThreadingHTTPServer) -> IndexAddress:
    return IndexAddress(f"http://127.0.0.1:{server.server_port}")


@contextmanager
def running_double() -> Iterator[ThreadingHTTPServer]:
    from tests import qdrant_server  # imports qdrant-client, which takes seconds

    server = qdrant_server.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def dropping() -> Iterator[None]:
    """Delete from the server, at the end, the indexes that were opened inside."""
    before = len(_on_server)
    try:
        yield
    finally:
        while len(_on_server) > before:
            _on_server.pop().drop()


def drop_run() -> None:
    """Delete what is left of this run, such as what a process wrote after its test had ended."""
    if SERVER_URL:
        IndexAddress(SERVER_URL, RUN, API_KEY).drop()
