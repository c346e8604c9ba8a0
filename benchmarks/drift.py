"""Speed and memory of comparing a bucket with its index.

Points and listing are generated on the fly, in the form that the adapters' parsers return; the time
of S3, of Qdrant and of parsing comes on top. The floor is the unavoidable work: one id (uuid5) for
each point and each object, and 24 bytes per point.

    ratio         seconds, divided by the floor's
    memory_ratio  bytes per point, divided by 24
"""

from __future__ import annotations

import argparse
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from likeness.drift import DriftConfig, DriftDetector
from likeness.records import (
    CollectionInfo,
    ListedObject,
    ObjectRef,
    ObjectState,
    Page,
    Point,
    State,
    Version,
)

ETAG = "d41d8cd98f00b204e9800998ecf8427e"
STATE = ObjectState(ETAG, None, 7, "image/jpeg", 5.0)


def ref(number: int) -> ObjectRef:
    return ObjectRef("photos", f"holiday/2026/{number:010d}.jpg")


class GeneratedStores:
    """A bucket and an index of `count` objects, in sync except for one object in 100,000."""

    def __init__(self, count: int) -> None:
        self.count = count
        ids = bytearray()
        for number in range(count):
            ids += uuid.UUID(ref(number).point_id).bytes
        self.order = np.argsort(np.frombuffer(ids, "S16"))  # Qdrant scrolls by id

    def for_model(self, model: str) -> GeneratedStores:
        return self

    def info(self) -> CollectionInfo:
        return CollectionInfo("images", "m", 2, self.count)

    def scroll(self, limit: int, cursor: str | None, filter: Mapping[str, Any]) -> Page:
        if "must" in filter:
            return Page([], None)  # no tombstones
        at = int(cursor or 0)
        points = [
            Point(ref(number), State.LIVE, Version(1), "m", 5.0, STATE, settings="s")
            for number in self.order[at : at + limit].tolist()
        ]
        return Page(points, str(at + limit) if at + limit < self.count else None)

    def entries(self, bucket: str, prefix: str, start_after: str = "") -> Iterator[ListedObject]:
        start = int(start_after[-14:-4]) + 1 if start_after else 0
        for number in range(start, self.count):
            etag = "other" if number % 100_000 == 0 else ETAG
            yield ListedObject(ref(number), etag, 7, 5.0)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    arguments = parser.parse_args()
    stores = GeneratedStores(arguments.count)

    start_s = time.perf_counter()
    for number in range(100_000):
        _ = ref(number).point_id
    floor_s = 2 * (time.perf_counter() - start_s) * arguments.count / 100_000

    before = peak = resident_bytes()

    def watch(what: str, count: int) -> None:
        nonlocal peak
        peak = max(peak, resident_bytes())

    start_s = time.perf_counter()
    differences: list[Any] = []
    config = DriftConfig("photos", "", "s")
    detector = DriftDetector(stores, stores, config, differences.extend, watch)  # type: ignore[arg-type]
    report = detector.run()
    elapsed_s = time.perf_counter() - start_s
    bytes_per_point = (peak - before) / arguments.count
    assert report.changed == len(differences) == -(-arguments.count // 100_000)
    print(
        json.dumps(
            {
                "objects": arguments.count,
                "seconds": round(elapsed_s, 1),
                "objects_a_second": round(arguments.count / elapsed_s),
                "bytes_a_point": round(bytes_per_point, 1),
                "ratio": round(elapsed_s / floor_s, 2),
                "memory_ratio": round(bytes_per_point / 24, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
