"""The REST adapter against a server that answers by a script."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from likeness.adapters.qdrant_index import QdrantIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.adapters.qdrant_transport import Transport
from likeness.errors import IndexUnavailable
from likeness.filters import Schema
from tests.fault_server import Answer, FaultServer, Script, error, ok, serve

MODEL, DIM = "0123456789abcdef", 4
KEY = "s3cr3t-k3y"
SCHEMA = Schema.declare({"brand": "keyword", "price": "float", "since": "datetime"})
LAYOUT = Layout("images", SCHEMA)
VERSION = Answer(200, b'{"title": "qdrant - vector search engine", "version": "1.19.0"}')
COMPLETED = {"operation_id": 1, "status": "completed"}
ALIAS = {"alias_name": "images", "collection_name": f"images-{MODEL}"}


def described(metadata: Mapping[str, Any] | None, **config: Any) -> dict[str, Any]:
    """A collection's description, with the fields that the official client requires."""
    vectors = {"image": {"size": DIM, "distance": "Cosine"}} if metadata else {}
    return {
        "status": "green",
        "optimizer_status": "ok",
        "segments_count": 1,
        "payload_schema": {},
        "config": {
            "params": {"vectors": vectors},
            "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
            "optimizer_config": {
                "deleted_threshold": 0.2,
                "vacuum_min_vector_number": 1000,
                "default_segment_number": 0,
                "flush_interval_sec": 5,
            },
            "metadata": metadata,
            **config,
        },
    }


DESCRIBED = described({"model": MODEL, "dim": DIM})


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
def scripted_index(script: Script) -> Iterator[tuple[FaultServer, QdrantIndex]]:
    with scripted(script) as (server, opened):
        yield server, QdrantIndex(opened, LAYOUT)


def failure(call: Callable[[], object]) -> str:
    """The message of the IndexUnavailable that a call ends with, its causes included."""
    with pytest.raises(IndexUnavailable) as caught:
        call()
    assert KEY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def prepared(
    create: Answer, *after: Answer, aliases: Sequence[Mapping[str, str]] = (ALIAS,)
) -> FaultServer:
    """The server after a preparation that found no collection and got these answers."""
    indexes = [ok(COMPLETED)] * len(LAYOUT.indexes)
    script = [VERSION, ok({"aliases": list(aliases)}), error(404), create]
    script += after or (ok(DESCRIBED), *indexes, ok(described(None)), ok(COMPLETED))
    with scripted_index(script) as (server, index):
        index.prepare(MODEL, DIM)
    return server
