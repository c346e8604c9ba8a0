"""Reading the pictures of indexed images: in order, a few at a time, each one once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from likeness.partner_pictures import PartnerPictures
from likeness.proof.pixel_proof import ProofImage
from likeness.records import (
    ImageInfo,
    ObjectBody,
    ObjectRef,
    Point,
    State,
    Version,
)
from likeness.settings import Limits
from tests.fake_bucket import FakeBucket
from tests.pictures import png


class Bucket:
    """Counts the reads that are under way at the same moment."""

    def __init__(self, inner: FakeBucket) -> None:
        self.read_keys: list[str] = []
        self.most = 0
        self._inner = inner
        self._reading = 0
        self._lock = threading.Lock()

    def head(self, ref: ObjectRef) -> Any:
        return self._inner.head(ref)

    def read(self, ref: ObjectRef, etag: str, max_bytes: int) -> ObjectBody:
        with self._lock:
            self.read_keys.append(ref.key)
            self._reading += 1
            self.most = max(self.most, self._reading)
        time.sleep(0.02)
        with self._lock:
            self._reading -= 1
        return self._inner.read(ref, etag, max_bytes)


def points(bucket: FakeBucket, count: int) -> list[Point]:
    found = []
    for n in range(count):
        bucket.put(f"{n}.png", png(n, 20 + n, 15))
        ref = bucket.ref(f"{n}.png")
        info = ImageInfo("PNG", 20 + n, 15, f"sha of {n}")
        found.append(Point(ref, State.LIVE, Version(1), "m", 1.0, bucket.head(ref), info))
    return found


def widths(pictures: Sequence[ProofImage | None]) -> list[int | None]:
    return [each.image.width if each else None for each in pictures]


@pytest.mark.parametrize("parallel", [None, 8])
def test_pictures_come_in_the_order_of_their_points_four_at_a_time(parallel: int | None) -> None:
    bucket = FakeBucket()
    wanted = points(bucket, 10)
    bucket.remove("3.png")
    store = Bucket(bucket)
    pool = ThreadPoolExecutor(parallel) if parallel else None
    found = list(PartnerPictures(store, Limits(), 2, pool).read(wanted))
    assert widths(found) == [20, 21, 22, None, 24, 25, 26, 27, 28, 29]
    assert store.most == (4 if parallel else 1)


def test_no_picture_is_read_before_it_is_asked_for_and_none_twice() -> None:
    bucket = FakeBucket()
    wanted = points(bucket, 8)
    store = Bucket(bucket)
    pictures = PartnerPictures(store, Limits(), 2)
    pictures.start({"sha of 1": png(1, 33, 15)})
    assert widths([next(pictures.read(wanted))]) == [20]
    assert store.read_keys == ["0.png", "2.png", "3.png"]  # one of this batch needs no reading
    assert widths(list(pictures.read(wanted[:4]))) == [20, 33, 22, 23]
    assert len(store.read_keys) == 3
    pictures.start({})
    assert widths(list(pictures.read(wanted[:2]))) == [20, 21]


def test_only_the_last_pictures_are_kept() -> None:
    bucket = FakeBucket()
    wanted = points(bucket, 40)
    store = Bucket(bucket)
    pictures = PartnerPictures(store, Limits(), 2)
    assert None not in widths(list(pictures.read(wanted)))
    list(pictures.read(wanted[-4:]))
    assert len(store.read_keys) == 40
    list(pictures.read(wanted[:4]))
    assert len(store.read_keys) == 44
