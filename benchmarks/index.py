"""Indexing through the real handler, against its floor: the bare decode and embedding.

    ratio  images/s of the handler with the embedded engine, over the floor's, batches of ten

The handler parses SQS messages, reads the index and the bucket, decodes, embeds, writes to the
engine on disk and looks again, as it does on Lambda. The bucket is in memory: S3's own time is not
ours. Both run on one core. The floor decodes, resizes and embeds the same bytes in the same batches
with Pillow and onnxruntime alone. A peer: the REST adapter to the test server (another thread).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from aws_lambda_powertools import Logger, Metrics

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.embed import MODEL, bare_session, bare_tensor, jpegs
from functions.index.handler import Handler
from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.adapters.qdrant_rest import RestIndex
from likeness.adapters.qdrant_transport import Transport
from likeness.adapters.sqs import hint_message
from likeness.embedding import Embedder
from likeness.filters import Schema
from likeness.indexing import Indexer
from likeness.ports import VectorIndex
from likeness.stopwatch import Stopwatch
from tests import qdrant_server
from tests.fake_bucket import FakeBucket

BATCH = 10


def handler_rate(index: VectorIndex, pictures: list[bytes], count: int) -> float:
    bucket = FakeBucket("bench")
    for i in range(count):
        bucket.put(f"{i:05}.jpg", pictures[i % len(pictures)])
    logger = Logger(service="bench", logger_handler=logging.NullHandler())
    metrics = Metrics(namespace="Bench", service="bench")
    handler = Handler(Indexer(bucket, index, Embedder(MODEL)), logger, metrics, Stopwatch())
    events = [sqs_event(bucket, first) for first in range(0, count, BATCH)]
    handler(events[0], None)  # opens the engine and creates the collection
    start = time.perf_counter()
    for event in events[1:]:
        assert handler(event, None) == {"batchItemFailures": []}
    return (count - BATCH) / (time.perf_counter() - start)


def sqs_event(bucket: FakeBucket, first: int) -> dict[str, Any]:
    refs = [bucket.ref(f"{i:05}.jpg") for i in range(first, first + BATCH)]
    return {"Records": [{"messageId": ref.key, "body": hint_message(ref)} for ref in refs]}


def floor_rate(pictures: list[bytes], count: int) -> float:
    spec = Embedder(MODEL).spec
    session = bare_session()
    start = time.perf_counter()
    for first in range(0, count, BATCH):
        batch = [
            bare_tensor(pictures[i % len(pictures)], spec) for i in range(first, first + BATCH)
        ]
        session.run([spec.embedding.name], {spec.input.name: np.concatenate(batch)})
    return count / (time.perf_counter() - start)


def measure(count: int, rounds: int) -> dict[str, float]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["POWERTOOLS_METRICS_DISABLED"] = "true"
    pictures = jpegs(640, 480)
    ours, floors, peers = [], [], []
    for _ in range(rounds):
        floors.append(floor_rate(pictures, count))
        with tempfile.TemporaryDirectory() as folder:
            index = EmbeddedIndex(Path(folder), Layout("bench", Schema()))
            ours.append(handler_rate(index, pictures, count))
            index.close()
        server = qdrant_server.start()
        rest = RestIndex(Transport(qdrant_server.url_of(server)), Layout("bench", Schema()))
        peers.append(handler_rate(rest, pictures, count // 2))
        server.shutdown()
        server.server_close()
    rate, floor, peer = (float(np.median(rates)) for rates in (ours, floors, peers))
    return {"ratio": rate / floor, "images_s": rate, "floor_images_s": floor, "rest_images_s": peer}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="a JSON object on the last line")
    parser.add_argument("--count", type=int, default=400, help="images a round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found = measure(arguments.count, arguments.rounds)
    print(f"bare decode + embed, batches of {BATCH}     {found['floor_images_s']:7.0f} images/s")
    print(
        f"handler, embedded engine            {found['images_s']:7.0f} images/s   "
        f"ratio {found['ratio']:.2f}"
    )
    print(f"handler, REST to the test server    {found['rest_images_s']:7.0f} images/s")
    if arguments.json:
        print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
