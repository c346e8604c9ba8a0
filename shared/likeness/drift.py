"""Drift: where the index disagrees with the bucket although every event was worked off.

The two are joined by point id. The index's side is held in memory, 24 bytes a point: its id and a
mark of all that must agree. Then the bucket's listing streams past it. What is left over at the end
are points whose objects are gone. The index is read before the bucket, as in reconciliation: what
changes between them shows as a difference, and a needless hint does no harm.
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
from likeness.records import ListedObject, ObjectRef, Point, State
from likeness.settings import EVENT_LAG_S
from likeness.sync import sync_fingerprint

# Longer than a message lives: 4 days in the queue, 14 in the dead-letter queue.
TOMBSTONE_S = 30 * 24 * 3600.0
_PAGE = 1000
_PARALLEL = 8
# 25 bytes each: a third of the memory of a function with 1,769 MB.
_MOST_POINTS = 20_000_000
# Of a run's time for reading the index; the bucket takes longer.
_SHARE_OF_INDEX = 0.4
_RESERVE_S = 20.0
_GONE = {"key": "state", "match": {"value": State.GONE.value}}


class Kind(StrEnum):
    """How index and bucket disagree on an object."""

    MISSING = "missing"
    CHANGED = "changed"
    EXTRA = "extra"


class Difference(Struct, frozen=True):
    ref: ObjectRef
    kind: Kind


class Report(Struct, frozen=True):
    """What a run found. `objects` were compared, `young` ones were left to their events, and
    `ignored` ones have no point and can be no picture.

    `next_start` is the point id at which the next run goes on, empty for the beginning. A run that
    is not `finished` had no time for its whole range, and the next one begins it anew.
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

    @property
    def drift(self) -> int:
        return self.missing + self.changed + self.extra


class IndexSnapshot:
    """Points in id order: `ids`, S16 (N,), sorted, and `marks`, uint64 (N,)."""

    def __init__(self, ids: NDArray[np.bytes_], marks: NDArray[np.uint64]) -> None:
        self._ids = ids
        self._marks = marks
        self._seen = np.zeros(len(ids), bool)

    def __len__(self) -> int:
        return len(self._ids)

    def join(
        self, ids: NDArray[np.bytes_], marks: NDArray[np.uint64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which of these objects have no point, and which have one with another mark."""
        if not len(self):
            return np.ones(len(ids), bool), np.zeros(len(ids), bool)
        at = np.searchsorted(self._ids, ids)
        at[at == len(self)] = 0  # beyond the last one: unlike the first
        found = self._ids[at] == ids
        self._seen[at[found]] = True
        return ~found, found & (self._marks[at] != marks)

    def unseen(self) -> Iterator[str]:
        """Ids of the points that no joined object had."""
        for at in np.flatnonzero(~self._seen):
            # numpy takes NUL at the end of a text for padding
            yield str(uuid.UUID(bytes=bytes(self._ids[at]).ljust(16, b"\0")))


class _OutOfTime(Exception):
    pass


class Audit:
    """Compares one bucket, or what lies under a prefix of it, with the index."""

    def __init__(
        self,
        store: ObjectListing,
        index: VectorIndex,
        bucket: str,
        prefix: str,
        settings: str,
        mend: Callable[[list[Difference]], None],
        lag_s: float = EVENT_LAG_S,
        sweep: bool = True,
        clock: Callable[[], float] = time.time,
        parallel: int = _PARALLEL,
        most_points: int = _MOST_POINTS,
        tell: Callable[[str, int], None] = lambda what, count: None,
    ) -> None:
        """`settings` is the digest that points are indexed under (agreement.settings_digest).

        An object that changed within `lag_s` is left to its event, which is under way.

        `mend` gets the differences as they are found, one call at a time. Without `sweep`, old
        tombstones are only counted. `tell` hears of points and objects that were read.
        """
        self._store = store
        self._index = index
        self._bucket = bucket
        self._prefix = prefix
        self._settings = settings
        self._mend_them = mend
        self._lag_s = lag_s
        self._sweeps = sweep
        self._clock = clock
        self._parallel = parallel
        self._most_points = most_points
        self._tell = tell
        self._lock = threading.Lock()

    def run(self, start: str = "", left_s: Callable[[], float] = lambda: float("inf")) -> Report:
        """Compare the points from the id `start` on, as many as there is time for; sweep first.

        A run that is killed has done no harm: it only ever sent hints and deleted old tombstones.
        """
        counts: Counter[str] = Counter()
        finished = True
        try:
            model = self._index.info().model
            view = self._index.for_model(model)  # the alias may move to another model's meanwhile
            counts["swept"] = self._sweep(view, model)
            held, some_keys, end = self._hold(view, start, left_s)
        except IndexMissing:  # nothing was ever indexed
            model, held, some_keys, end = "", _held(bytearray(), bytearray()), list[str](), ""
        try:
            self._compare(model, held, _id(start), _id(end), some_keys, counts, left_s)
            self._find_extra(model, held, counts)
        except (_OutOfTime, QueueFull):
            finished, end = False, start
        names = ("objects", "missing", "changed", "extra", "young", "ignored", "swept")
        found = {name: counts[name] for name in names}
        return Report(points=len(held), finished=finished, next_start=end, **found)

    def _hold(
        self, view: VectorIndex, start: str, left_s: Callable[[], float]
    ) -> tuple[IndexSnapshot, list[str], str]:
        """Points from `start` on, a sample of their keys, and the id of the first one left out."""
        ids, marks, some_keys = bytearray(), bytearray(), []
        enough_s = left_s() * (1 - _SHARE_OF_INDEX)
        cursor: str | None = start or None
        while True:
            page = view.scroll(_PAGE, cursor, {"must_not": [_GONE]})
            ours = [point for point in page.points if self._is_ours(point)]
            for point in ours:
                assert point.object is not None
                ids += _id(point.id)
                marks += sync_fingerprint(point.model, point.settings, point.object)
            some_keys += [point.ref.key for point in ours[:1]]
            self._tell("points", len(page.points))
            cursor = page.next_cursor
            full = len(marks) // 8 >= self._most_points
            if cursor is None or full or left_s() < enough_s:
                return _held(ids, marks), some_keys, cursor or ""

    def _is_ours(self, point: Point) -> bool:
        ref = point.ref
        ours = ref.bucket == self._bucket and ref.key.startswith(self._prefix)
        return ours and point.object is not None

    def _compare(
        self,
        model: str,
        held: IndexSnapshot,
        first: bytes,
        end: bytes,
        some_keys: Sequence[str],
        counts: Counter[str],
        left_s: Callable[[], float],
    ) -> None:
        """List the bucket in parts side by side: one listing gets 10,000 objects a second."""
        failed = threading.Event()

        def work(part: tuple[str, str | None]) -> None:
            after, last = part
            listed = self._store.entries(self._bucket, self._prefix, after)
            if last is not None:
                listed = takewhile(lambda entry: entry.ref.key <= last, listed)
            try:
                for page in batches(listed, _PAGE):
                    if failed.is_set() or left_s() < _RESERVE_S:
                        raise _OutOfTime
                    self._judge(model, held, first, end, page, counts)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(self._parallel) as pool:
            parts = [pool.submit(work, part) for part in _parts(some_keys, self._parallel)]
            try:
                wait(parts)
            except BaseException:  # Ctrl-C is the main thread's alone
                failed.set()
                raise
        # the reason, rather than what it stopped in the others
        errors = [error for part in parts if (error := part.exception())]
        for error in sorted(errors, key=lambda error: isinstance(error, _OutOfTime)):
            raise error

    def _judge(
        self,
        model: str,
        held: IndexSnapshot,
        first: bytes,
        end: bytes,
        page: Sequence[ListedObject],
        counts: Counter[str],
    ) -> None:
        ids = [_id(entry.ref.point_id) for entry in page]
        ours = [at for at, i in enumerate(ids) if first <= i and (not end or i < end)]
        entries = [page[at] for at in ours]
        marks = b"".join(sync_fingerprint(model, self._settings, entry) for entry in entries)
        with self._lock:
            missing, changed = held.join(
                np.array([ids[at] for at in ours], "S16"), np.frombuffer(marks, np.uint64)
            )
            self._tell("objects", len(page))
            counts["objects"] += len(entries)
            found = []
            for at in np.flatnonzero(missing | changed):
                kind = Kind.MISSING if missing[at] else Kind.CHANGED
                entry = entries[at]
                if self._clock() - entry.last_modified_s < self._lag_s:
                    counts["young"] += 1
                elif kind is Kind.MISSING and not may_be_image(entry.ref.key, entry.size):
                    counts["ignored"] += 1
                else:
                    found.append(Difference(entry.ref, kind))
            self._mend(found, counts)

    def _find_extra(self, model: str, held: IndexSnapshot, counts: Counter[str]) -> None:
        """Read anew, as they are needed for their keys: most that were deleted meanwhile are gone.

        A deletion tells no time. One whose event waits in the queue is found too.
        """
        for ids in batches(held.unseen(), _PAGE):
            points = self._index.retrieve_payloads(model, ids).values()
            self._mend([Difference(p.ref, Kind.EXTRA) for p in points if p.object], counts)

    def _mend(self, found: list[Difference], counts: Counter[str]) -> None:
        if found:
            self._mend_them(found)
            counts.update(Counter(difference.kind.value for difference in found))

    def _sweep(self, view: VectorIndex, model: str) -> int:
        before_s = self._clock() - TOMBSTONE_S
        old = {"must": [_GONE, {"key": "indexed_at", "range": {"lt": before_s}}]}
        swept, cursor = 0, None
        while True:
            page = view.scroll(_PAGE, cursor, old)
            if page.points and self._sweeps:
                view.delete_tombstones(model, [point.id for point in page.points], before_s)
            swept += len(page.points)
            cursor = page.next_cursor
            if cursor is None:
                return swept


def _id(point_id: str) -> bytes:
    return bytes.fromhex(point_id.replace("-", ""))


def _held(ids: bytearray, marks: bytearray) -> IndexSnapshot:
    return IndexSnapshot(np.frombuffer(ids, "S16"), np.frombuffer(marks, np.uint64))


def _parts(some_keys: Sequence[str], count: int) -> list[tuple[str, str | None]]:
    """The listing in about equal parts, by a sample of the keys: after the one, up to the other."""
    keys = sorted(some_keys)
    cuts = sorted({keys[len(keys) * part // count] for part in range(1, count)}) if keys else []
    return list(zip(["", *cuts], [*cuts, None], strict=True))
