"""A conditional write of ten points through the adapter, over its floor: the bytes alone.

    ratio       ours: QdrantIndex.write, over the floor; lower is better
    ratio_lean  the same body as dicts over our transport, without qdrant-client's models
    ratio_peer  the same write by qdrant-client's own `upsert`, over its own HTTP connection

The floor sends the body, encoded before, over one connection, and reads the response. The points
are real images with 256 numbers and their descriptors. The server is a process of its own, which
reads requests and answers at once: what Qdrant does with a write is the same for all. Times are
processor time, which other programs disturb less than wall-clock time: the median of rounds in
which all take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs
from qdrant_client import QdrantClient, models

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.embed import MODEL, jpegs
from benchmarks.rerank import indexed
from likeness.adapters.qdrant_index import QdrantIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.adapters.qdrant_points import to_payload, to_vectors, update_filter
from likeness.adapters.qdrant_transport import Transport
from likeness.embedding import Embedder
from likeness.filters import Schema
from likeness.records import ObjectRef, Point

BATCH = 10
LAYOUT = Layout("bench", Schema())
RESULT = {"operation_id": 1, "status": "completed"}
COMPLETED = json.dumps({"result": RESULT, "status": "ok", "time": 0.0}).encode()
VERSION = b'{"title": "qdrant - vector search engine", "version": "1.19.0"}'


class Handler(BaseHTTPRequestHandler):
    """A Qdrant server that completes every write."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = VERSION if self.path == "/" else COMPLETED
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve(port: Connection) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.send(server.server_port)
    server.serve_forever()


@contextlib.contextmanager
def server_process() -> Iterator[int]:
    """The port of a server in a process of its own."""
    ours, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(its,), daemon=True)
    process.start()
    its.close()  # or waiting for a server that failed would not end
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def ten_points(embedder: Embedder) -> list[Point]:
    images = itertools.cycle(indexed(jpegs(640, 480), embedder))
    refs = [ObjectRef("bench", f"{number}.jpg") for number in range(BATCH)]
    return [structs.replace(next(images), ref=ref) for ref in refs]


def plain(points: list[Point]) -> dict[str, Any]:
    return {
        "points": [{"id": p.id, "vector": to_vectors(p), "payload": to_payload(p)} for p in points],
        "update_filter": update_filter(points),
    }


def path(model: str) -> str:
    return f"/collections/{LAYOUT.collection(model)}/points?wait=true&ordering=medium"


def sends_bytes(port: int, model: str, points: list[Point]) -> Callable[[], object]:
    connection = HTTPConnection("127.0.0.1", port)
    body, headers = msgspec.json.encode(plain(points)), {"content-type": "application/json"}

    def send() -> None:
        connection.request("PUT", path(model), body, headers)
        assert connection.getresponse().read() == COMPLETED

    return send


def upserts(port: int, model: str, points: list[Point]) -> Callable[[], object]:
    client = QdrantClient(url=f"http://127.0.0.1:{port}", check_compatibility=False)
    name = LAYOUT.collection(model)

    def upsert() -> None:
        client.upsert(
            name,
            [
                models.PointStruct(id=p.id, vector={**to_vectors(p)}, payload=to_payload(p))
                for p in points
            ],
            ordering=models.WriteOrdering.MEDIUM,
            update_filter=models.Filter.model_validate(update_filter(points)),
        )

    return upsert


def median_ms(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Processor milliseconds of each call, the median of its rounds; they take turns."""
    for work in works.values():
        work()  # opens its connection
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            times[name].append((time.process_time() - start) * 1000)
    return {name: statistics.median(taken) for name, taken in times.items()}


def measure(rounds: int) -> dict[str, float]:
    embedder = Embedder(MODEL)
    points, model = ten_points(embedder), embedder.fingerprint
    with server_process() as port:
        transport = Transport(f"http://127.0.0.1:{port}")
        index = QdrantIndex(transport, LAYOUT)
        works = {
            "floor_ms": sends_bytes(port, model, points),
            "ours_ms": lambda: index.write(model, points),
            "lean_ms": lambda: transport.call("PUT", path(model), plain(points)),
            "peer_ms": upserts(port, model, points),
        }
        found = median_ms(works, rounds)
    return {
        "ratio": found["ours_ms"] / found["floor_ms"],
        "ratio_lean": found["lean_ms"] / found["floor_ms"],
        "ratio_peer": found["peer_ms"] / found["floor_ms"],
        **found,
        "body_bytes": len(msgspec.json.encode(plain(points))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="a JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=300)
    arguments = parser.parse_args()
    found = measure(arguments.rounds)
    print(f"{BATCH} points, {found['body_bytes']:.0f} bytes")
    print(f"bytes alone            {found['floor_ms']:6.2f} ms")
    for title, name in (("ours", ""), ("without the client", "_lean"), ("client.upsert", "_peer")):
        ms = found[f"{name.strip('_') or 'ours'}_ms"]
        print(f"{title:<22} {ms:6.2f} ms   ratio {found[f'ratio{name}']:.2f}")
    if arguments.json:
        print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
