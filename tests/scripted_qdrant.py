"""The REST adapter against a server that answers by a script."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from likeness.adapters.qdrant_layout import Layout
from likeness.adapters.qdrant_rest import RestIndex
from likeness.adapters.qdrant_transport import Transport
from likeness.errors import IndexUnavailable
from likeness.filters import Schema
from tests.fault_server import Answer, FaultServer, Script, error, ok, serve

MODEL, DIM = "0123456789abcdef", 4
KEY = "s3cr3t-k3y"
SCHEMA = Schema.declare({"brand": "keyword", "price": "float", "since": "datetime"})
LAYOUT = Layout("images", SCHEMA)
DESCRIBED = {"config": {"metadata": {"model": MODEL, "dim": DIM}}, "payload_schema": {}}


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def transport(url: str, **options: Any) -> Iterator[Transport]:
    usual = {"read_key": lambda: KEY, "timeout_s": 2.0, "sleep": lambda pause_s: None}
    opened = Transport(url, **{**usual, **options})
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def scripted(script: Script, **options: Any) -> Iterator[tuple[FaultServer, Transport]]:
    with serve(script) as server, transport(server.url, **options) as opened:
        yield server, opened


@contextmanager
def scripted_index(script: Script) -> Iterator[tuple[FaultServer, RestIndex]]:
    with scripted(script) as (server, opened):
        yield server, RestIndex(opened, LAYOUT)


def failure(call: Callable[[], object]) -> str:
    """The message of the IndexUnavailable that a call ends with, its causes included."""
    with pytest.raises(IndexUnavailable) as caught:
        call()
    assert KEY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def prepared(create: Answer, *after: Answer) -> FaultServer:
    """The server after a preparation that found no collection and got these answers."""
    done = {"status": "completed"}
    alias = {"aliases": [{"alias_name": "images", "collection_name": "other"}]}
    indexes = [ok(done)] * len(LAYOUT.indexes)
    script = [error(404), create, *(after or (ok(DESCRIBED), *indexes, ok(alias)))]
    with scripted_index(script) as (server, index):
        index.prepare(MODEL, DIM)
    return server
