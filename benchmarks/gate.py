"""What the duplicate gate adds to indexing: milliseconds of CPU time for an image, on one core.

    off     indexing without a calibration: nothing is compared
    on      indexing with the bundle's calibration, pictures that have no duplicate
    copies  the same, where each picture is a smaller copy of an indexed one

The indexer over the embedded engine and a bucket in memory, in batches of ten. Also: the calls and
the searches of the index, and the partners' pictures that are read, for an image.
`likeness cost` takes its share of the gate from here.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.embedding import Embedder
from likeness.filters import Schema
from likeness.indexing import Indexer, IndexerConfig
from likeness.proof.verdicts import Calibration, load_calibration
from likeness.records import Hint, NearestQuery, ObjectBody, ObjectRef
from tests.fake_bucket import FakeBucket

MODEL = Path(__file__).resolve().parents[1] / "layers" / "model"
BATCH = 10


class CountedIndex:
    """An index that counts its calls and searches."""

    def __init__(self, index: Any, counts: Counter[str]) -> None:
        self._index = index
        self._counts = counts

    def for_model(self, model: str) -> CountedIndex:
        return CountedIndex(self._index.for_model(model), self._counts)

    def nearest(self, queries: Sequence[NearestQuery]) -> Any:
        self._counts["searches"] += sum(len(query.views) for query in queries)
        self._counts["calls"] += 1
        return self._index.nearest(queries)

    def __getattr__(self, name: str) -> Any:
        self._counts["calls"] += name != "prepare"
        return getattr(self._index, name)


class CountedBucket:
    """A bucket that counts the partners' pictures that are read."""

    def __init__(self, bucket: FakeBucket, counts: Counter[str]) -> None:
        self._bucket = bucket
        self._counts = counts

    def head(self, ref: ObjectRef) -> Any:
        return self._bucket.head(ref)

    def read(self, ref: ObjectRef, etag: str, max_bytes: int) -> ObjectBody:
        self._counts["partners"] += 1
        return self._bucket.read(ref, etag, max_bytes)


def jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def photos(folder: Path | None, count: int) -> list[bytes]:
    """Photos of a folder at 640 pixels; without one, drawn pictures that are all different."""
    if folder:
        files = sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))
        return [jpeg(_thumbnail(Image.open(path))) for path in files[:count]]
    rng = np.random.default_rng(0)
    small = (rng.integers(0, 256, (24, 32, 3), np.uint8) for _ in range(count))
    return [
        jpeg(Image.fromarray(each).resize((640, 480), Image.Resampling.BICUBIC)) for each in small
    ]


def _thumbnail(image: Image.Image, side: int = 640) -> Image.Image:
    image = image.convert("RGB")
    image.thumbnail((side, side))
    return image


def smaller(data: bytes) -> bytes:
    return jpeg(_thumbnail(Image.open(io.BytesIO(data)), 480))


def measure(files: list[bytes], calibration: Calibration | None) -> dict[str, dict[str, float]]:
    """Index the files, then smaller copies of them."""
    embedder, bucket, counts = Embedder(MODEL), FakeBucket("bench"), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        index = EmbeddedIndex(Path(folder), Layout("bench", Schema()))
        indexer = Indexer(
            bucket,
            CountedIndex(index, counts),
            embedder,
            IndexerConfig(calibration=calibration, parallel=1),
            partners=CountedBucket(bucket, counts),
        )
        rounds = {}
        for name, contents in (("photos", files), ("copies", list(map(smaller, files)))):
            for n, data in enumerate(contents):
                bucket.put(f"{n:05} {name}.jpg", data)
            hints = [Hint(bucket.ref(f"{n:05} {name}.jpg")) for n in range(len(contents))]
            counts.clear()
            start = time.process_time()
            for at in range(0, len(hints), BATCH):
                indexer.reconcile(hints[at : at + BATCH])
            took_ms = 1000 * (time.process_time() - start)
            rounds[name] = {
                "ms": took_ms / len(hints),
                **{what: counts[what] / len(hints) for what in ("calls", "searches", "partners")},
            }
        index.close()
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="a JSON object on the last line")
    parser.add_argument("--folder", type=Path, help="photos instead of drawn pictures")
    parser.add_argument("--count", type=int, default=200)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    files = photos(arguments.folder, arguments.count)
    calibration = load_calibration(MODEL, Embedder(MODEL).fingerprint)
    off, on = measure(files, None), measure(files, calibration)
    figures = {"off": off["photos"], "on": on["photos"], "copies": on["copies"]}
    print("         ms  index calls  searches  partners read, for an image")
    for name, of in figures.items():
        print(
            f"{name:7} {of['ms']:5.1f} {of['calls']:10.1f} {of['searches']:10.1f} "
            f"{of['partners']:9.2f}"
        )
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
