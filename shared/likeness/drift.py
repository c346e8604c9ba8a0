"""Drift: where index and bucket differ although every event was processed.

The two sides are joined by point id. The index is held in memory, 24 bytes a point: its id and a
fingerprint of everything that must agree. The bucket's listing then streams past it; points that no
listed object matched are left over, because their objects are gone. The index is read before the
bucket, as in reconciliation: a change between the two reads shows as a difference, and a hint too
many does no harm.

Where an index has replicas, points that they hold differently are looked for too: a search finds
one form or the other, and a read from all replicas leaves such a point out.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from enum import StrEnum
from itertools import takewhile

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from likeness.errors import IndexMissing, QueueFull
from likeness.feeding import batches, may_be_image
from likeness.ports import ObjectListing, VectorIndex
from likeness.records import CollectionInfo, ListedObject, ObjectRef, Point, State
from likeness.settings import EVENT_LAG_S
from likeness.sync import point_fingerprint, sync_fingerprint

# Longer than a message lives: 4 days in the queue, 14 in the dead-letter queue.
TOMBSTONE_S = 30 * 24 * 3600.0
_PAGE = 1000
# The part of a run's time that may be spent on reading the index; the bucket takes longer.
_INDEX_SHARE = 0.4
_RESERVE_S = 20.0
_TOMBSTONE = {"key": "state", "match": {"value": State.GONE.value}}


class DifferenceKind(StrEnum):
    """How index and bucket, or the index's replicas, differ on an object."""

    MISSING = "missing"
    CHANGED = "changed"
    EXTRA = "extra"
    DIFFERING = "differing"


class Difference(Struct, frozen=True):
    ref: ObjectRef
    kind: DifferenceKind


class DriftReport(Struct, frozen=True):
    """The counts of one run: `objects` were compared, `young` ones are left to their events, and
    `ignored` ones have no point and cannot be images. `swept` counts old tombstones, `differing`
    points that replicas hold differently.

    `next_start` is the point id at which the next run starts, empty for the beginning. A run that
    is not `finished` ran out of time, and the next one repeats its range.
    """

    objects: int
    points: int
    missing: int
    changed: int
    extra: int
    young: int
    ignored: int
    swept: int
    finished: bool
    next_start: str = ""
    differing: int = 0

    @property
    def drift(self) -> int:
        return self.missing + self.changed + self.extra


class DriftConfig(Struct, frozen=True):
    """What is compared: the objects under a bucket's prefix with points of these settings.

    `settings` is the digest that points are indexed under (sync.settings_digest). An object that
    changed within `lag_s` is left to its event, which is still on its way. Without `sweep`, old
    tombstones are counted and kept. The bucket is listed by `parallel` threads. The points of one
    run, at most `max_points`, take 25 bytes each: by default a third of a function's 1,769 MB.
    """

    bucket: str
    prefix: str
    settings: str
    lag_s: float = EVENT_LAG_S
    sweep: bool = True
    parallel: int = 8
    max_points: int = 20_000_000


class IndexSnapshot:
    """Points in id order: `ids`, S16 (N,), sorted, and `fingerprints`, uint64 (N,)."""

    def __init__(self, ids: NDArray[np.bytes_], fingerprints: NDArray[np.uint64]) -> None:
        self._ids = ids
        self._fingerprints = fingerprints
        self._matched = np.zeros(len(ids), bool)

    def __len__(self) -> int:
        return len(self._ids)

    def join(
        self, ids: NDArray[np.bytes_], fingerprints: NDArray[np.uint64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Two masks: the objects that have no point, and those whose fingerprint differs."""
        if not len(self):
            return np.ones(len(ids), bool), np.zeros(len(ids), bool)
        at = np.searchsorted(self._ids, ids)
        at[at == len(self)] = 0  # beyond the last point, so different from the first
        found = self._ids[at] == ids
        self._matched[at[found]] = True
        return ~found, found & (self._fingerprints[at] != fingerprints)

    def unmatched(self) -> Iterator[str]:
        """Ids of the points that no joined object matched."""
        for at in np.flatnonzero(~self._matched):
            # numpy strips NUL bytes from the end, taking them for padding
            yield str(uuid.UUID(bytes=bytes(self._ids[at]).ljust(16, b"\0")))


class _IndexRange(Struct, frozen=True):
    """The points of one run: ids from `first` up to, but excluding, `end` (empty for no bound).

    `sample_keys` are some of their keys, by which the bucket's listing is split. The replicas hold
    the `differing` ones differently.
    """

    model: str
    snapshot: IndexSnapshot
    sample_keys: list[str]
    differing: list[ObjectRef]
    first: bytes
    end: bytes

    def includes(self, point_id: bytes) -> bool:
        return self.first <= point_id and (not self.end or point_id < self.end)


class _OutOfTime(Exception):
    pass


class DriftDetector:
    """Compares a bucket, or the objects under a prefix of it, with the index."""

    def __init__(
        self,
        store: ObjectListing,
        index: VectorIndex,
        config: DriftConfig,
        repair: Callable[[list[Difference]], None],
        on_progress: Callable[[str, int], None] = lambda what, count: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`repair` gets the differences as they are found, one call at a time. `on_progress` gets
        “points” or “objects” and how many more were read.
        """
        self._store = store
        self._index = index
        self._config = config
        self._repair = repair
        self._on_progress = on_progress
        self._clock = clock
        self._lock = threading.Lock()

    def run(
        self, start: str = "", left_s: Callable[[], float] = lambda: float("inf")
    ) -> DriftReport:
        """Sweep old tombstones, then compare points from the id `start` on, while time is left.

        `left_s` returns the remaining seconds. A killed run does no harm: it only sends hints and
        deletes old tombstones.
        """
        counts: Counter[str] = Counter()
        finished = True
        try:
            info = self._index.info()
            view = self._index.for_model(info.model)  # the alias may be switched during the run
            counts["swept"] = self._sweep(view, info.model)
            part, end = self._load_index(view, info, start, left_s)
        except IndexMissing:  # nothing has been indexed yet
            part, end = _IndexRange("", _snapshot(b"", b""), [], [], _id_bytes(start), b""), ""
        try:
            self._look_again(part, counts)
            self._compare(part, counts, left_s)
            self._find_extra(part, counts)
        except (_OutOfTime, QueueFull):
            finished, end = False, start
        names = ("objects", "missing", "changed", "extra", "young", "ignored", "swept", "differing")
        found = {name: counts[name] for name in names}
        return DriftReport(points=len(part.snapshot), finished=finished, next_start=end, **found)

    def _load_index(
        self, view: VectorIndex, info: CollectionInfo, start: str, left_s: Callable[[], float]
    ) -> tuple[_IndexRange, str]:
        """As many points as there is time and memory for, and the id of the first one left out."""
        ids, fingerprints, sample_keys = bytearray(), bytearray(), list[str]()
        differing = list[ObjectRef]()
        # a tombstone of the replica that answers may be an image on another one
        wanted = None if info.replicas > 1 else {"must_not": [_TOMBSTONE]}
        bucket_needs_s = left_s() * (1 - _INDEX_SHARE)
        cursor: str | None = start or None
        while True:
            page = view.scroll(_PAGE, cursor, wanted)
            if info.replicas > 1:
                differing += self._differing(info.model, [point.ref for point in page.points])
            compared = [point for point in page.points if self._is_compared(point)]
            for point in compared:
                ids += _id_bytes(point.id)
                fingerprints += point_fingerprint(point)
            sample_keys += [point.ref.key for point in compared[:1]]
            self._on_progress("points", len(page.points))
            cursor = page.next_cursor
            full = len(fingerprints) // 8 >= self._config.max_points
            if cursor is None or full or left_s() < bucket_needs_s:
                end = cursor or ""
                snapshot = _snapshot(ids, fingerprints)
                first_id, end_id = _id_bytes(start), _id_bytes(end)
                part = _IndexRange(info.model, snapshot, sample_keys, differing, first_id, end_id)
                return part, end

    def _differing(self, model: str, refs: Sequence[ObjectRef]) -> list[ObjectRef]:
        """Those of these objects whose points the replicas hold differently."""
        by_id = {ref.point_id: ref for ref in refs if self._is_in_scope(ref)}
        if not by_id:
            return []
        stored = self._index.retrieve_payloads(model, list(by_id))
        return [by_id[point_id] for point_id in sorted(stored.differing)]

    def _look_again(self, part: _IndexRange, counts: Counter[str]) -> None:
        """Report the points that the replicas still hold differently: a write that was under way
        shows as a difference too, and takes milliseconds.
        """
        for refs in batches(part.differing, _PAGE):
            still = self._differing(part.model, refs)
            self._report([Difference(ref, DifferenceKind.DIFFERING) for ref in still], counts)

    def _is_in_scope(self, ref: ObjectRef) -> bool:
        return ref.bucket == self._config.bucket and ref.key.startswith(self._config.prefix)

    def _is_compared(self, point: Point) -> bool:
        return self._is_in_scope(point.ref) and point.object is not None

    def _compare(
        self, part: _IndexRange, counts: Counter[str], left_s: Callable[[], float]
    ) -> None:
        """List the bucket in parallel: a single listing gets 10,000 objects a second."""
        failed = threading.Event()

        def work(keys: tuple[str, str | None]) -> None:
            after, last = keys
            listed = self._store.entries(self._config.bucket, self._config.prefix, after)
            if last is not None:
                listed = takewhile(lambda entry: entry.ref.key <= last, listed)
            try:
                for page in batches(listed, _PAGE):
                    if failed.is_set() or left_s() < _RESERVE_S:
                        raise _OutOfTime
                    self._compare_page(part, page, counts)
            except BaseException:
                failed.set()
                raise

        parallel = self._config.parallel
        with ThreadPoolExecutor(parallel) as pool:
            parts = [pool.submit(work, keys) for keys in _key_ranges(part.sample_keys, parallel)]
            try:
                wait(parts)
            except BaseException:  # only the main thread gets Ctrl-C
                failed.set()
                raise
        # the first error, rather than the _OutOfTime that it caused in the other threads
        errors = [error for each in parts if (error := each.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, _OutOfTime)):
            raise error

    def _compare_page(
        self, part: _IndexRange, page: Sequence[ListedObject], counts: Counter[str]
    ) -> None:
        listed = [(_id_bytes(entry.ref.point_id), entry) for entry in page]
        listed = [(point_id, entry) for point_id, entry in listed if part.includes(point_id)]
        fingerprints = b"".join(
            sync_fingerprint(part.model, self._config.settings, entry) for _, entry in listed
        )
        ids = np.array([point_id for point_id, _ in listed], "S16")
        with self._lock:
            missing, changed = part.snapshot.join(ids, np.frombuffer(fingerprints, np.uint64))
            self._on_progress("objects", len(page))
            counts["objects"] += len(listed)
            found = []
            for at in np.flatnonzero(missing | changed):
                kind = DifferenceKind.MISSING if missing[at] else DifferenceKind.CHANGED
                _, entry = listed[at]
                if self._clock() - entry.last_modified_s < self._config.lag_s:
                    counts["young"] += 1
                elif kind is DifferenceKind.MISSING and not may_be_image(entry.ref.key, entry.size):
                    counts["ignored"] += 1
                else:
                    found.append(Difference(entry.ref, kind))
            self._report(found, counts)

    def _find_extra(self, part: _IndexRange, counts: Counter[str]) -> None:
        """Points without an object. They are read again for their keys, which leaves out most that
        were deleted meanwhile.

        A deletion has no time, so one whose event still waits in the queue is found too.
        """
        for ids in batches(part.snapshot.unmatched(), _PAGE):
            points = self._index.retrieve_payloads(part.model, ids).points.values()
            self._report(
                [Difference(p.ref, DifferenceKind.EXTRA) for p in points if p.object], counts
            )

    def _report(self, found: list[Difference], counts: Counter[str]) -> None:
        if found:
            self._repair(found)
            counts.update(Counter(difference.kind.value for difference in found))

    def _sweep(self, view: VectorIndex, model: str) -> int:
        before_s = self._clock() - TOMBSTONE_S
        old = {"must": [_TOMBSTONE, {"key": "indexed_at", "range": {"lt": before_s}}]}
        swept, cursor = 0, None
        while True:
            page = view.scroll(_PAGE, cursor, old)
            if page.points and self._config.sweep:
                view.delete_tombstones(model, [point.id for point in page.points], before_s)
            swept += len(page.points)
            cursor = page.next_cursor
            if cursor is None:
                return swept


def _id_bytes(point_id: str) -> bytes:
    return bytes.fromhex(point_id.replace("-", ""))


def _snapshot(ids: bytes | bytearray, fingerprints: bytes | bytearray) -> IndexSnapshot:
    return IndexSnapshot(np.frombuffer(ids, "S16"), np.frombuffer(fingerprints, np.uint64))


def _key_ranges(sample_keys: Sequence[str], count: int) -> list[tuple[str, str | None]]:
    """Splits the listing into about equal ranges: keys after the first, up to the second."""
    keys = sorted(sample_keys)
    cuts = sorted({keys[len(keys) * part // count] for part in range(1, count)}) if keys else []
    return list(zip(["", *cuts], [*cuts, None], strict=True))
