"""How fast a bucket is compared with its index, and in how much memory.

Points and listing are made on the fly, as the adapters' parsers would hand them over; S3, Qdrant
and the parsing take their own time. The floor is what cannot be left out: one id for each point and
each object (uuid5), and 24 bytes a point.

    ratio         seconds, over the floor's
    memory_ratio  bytes a point, over 24
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


class Side:
    """A bucket and an index that agree on `count` objects, but for one in 100,000."""

    def __init__(self, count: int) -> None:
        self.count = count
        ids = bytearray()
        for number in range(count):
            ids += uuid.UUID(ref(number).point_id).bytes
        self.order = np.argsort(np.frombuffer(ids, "S16"))  # a scroll goes by id

    def for_model(self, model: str) -> Side:
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
    side = Side(arguments.count)

    start_s = time.perf_counter()
    for number in range(100_000):
        _ = ref(number).point_id
    floor_s = 2 * (time.perf_counter() - start_s) * arguments.count / 100_000

    before = most = resident_bytes()

    def watch(what: str, count: int) -> None:
        nonlocal most
        most = max(most, resident_bytes())

    start_s = time.perf_counter()
    found: list[Any] = []
    config = DriftConfig("photos", "", "s")
    report = DriftDetector(side, side, config, found.extend, watch).run()  # type: ignore[arg-type]
    took_s = time.perf_counter() - start_s
    bytes_each = (most - before) / arguments.count
    assert report.changed == len(found) == -(-arguments.count // 100_000)
    print(
        json.dumps(
            {
                "objects": arguments.count,
                "seconds": round(took_s, 1),
                "objects_a_second": round(arguments.count / took_s),
                "bytes_a_point": round(bytes_each, 1),
                "ratio": round(took_s / floor_s, 2),
                "memory_ratio": round(bytes_each / 24, 2),
            }
        )
    )


if __name__ == "__main__":
    main()
