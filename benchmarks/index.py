"""Indexing through the real handler, compared with a floor: bare decode and embedding.

    ratio  images/s of the handler with the embedded engine, over the floor's, batches of ten

The handler parses SQS messages, reads the index and the bucket, decodes, embeds, writes to the
engine on disk and checks the object again, as on Lambda. The bucket is in memory, so S3's own time
is not included. Both run on one core. The floor decodes, resizes and embeds the same bytes in the
same batches with Pillow and onnxruntime alone. Also measured: the REST adapter to the test server,
which runs in another thread.
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
from likeness.adapters.qdrant_index import QdrantIndex
from likeness.adapters.qdrant_layout import Layout
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


def handler_rate(index: VectorIndex, jpeg_files: list[bytes], count: int) -> float:
    bucket = FakeBucket("bench")
    for i in range(count):
        bucket.put(f"{i:05}.jpg", jpeg_files[i % len(jpeg_files)])
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


def floor_rate(jpeg_files: list[bytes], count: int) -> float:
    spec = Embedder(MODEL).spec
    session = bare_session()
    start = time.perf_counter()
    for first in range(0, count, BATCH):
        batch = [
            bare_tensor(jpeg_files[i % len(jpeg_files)], spec) for i in range(first, first + BATCH)
        ]
        session.run([spec.embedding.name], {spec.input.name: np.concatenate(batch)})
    return count / (time.perf_counter() - start)


def measure(count: int, rounds: int) -> dict[str, float]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["POWERTOOLS_METRICS_DISABLED"] = "true"
    jpeg_files = jpegs(640, 480)
    ours, floors, rests = [], [], []
    for _ in range(rounds):
        floors.append(floor_rate(jpeg_files, count))
        with tempfile.TemporaryDirectory() as folder:
            index = EmbeddedIndex(Path(folder), Layout("bench", Schema()))
            ours.append(handler_rate(index, jpeg_files, count))
            index.close()
        server = qdrant_server.start()
        rest = QdrantIndex(Transport(qdrant_server.url_of(server)), Layout("bench", Schema()))
        rests.append(handler_rate(rest, jpeg_files, count // 2))
        server.shutdown()
        server.server_close()
    rate, floor, rest_rate = (float(np.median(rates)) for rates in (ours, floors, rests))
    return {
        "ratio": rate / floor,
        "images_s": rate,
        "floor_images_s": floor,
        "rest_images_s": rest_rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="a JSON object on the last line")
    parser.add_argument("--count", type=int, default=400, help="images per round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    figures = measure(arguments.count, arguments.rounds)
    print(f"bare decode + embed, batches of {BATCH}     {figures['floor_images_s']:7.0f} images/s")
    print(
        f"handler, embedded engine            {figures['images_s']:7.0f} images/s   "
        f"ratio {figures['ratio']:.2f}"
    )
    print(f"handler, REST to the test server    {figures['rest_images_s']:7.0f} images/s")
    if arguments.json:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
