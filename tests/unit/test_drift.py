"""Every kind of drift is found and repaired, even when a run is killed at any step."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given

from likeness.drift import (
    TOMBSTONE_S,
    Difference,
    DifferenceKind,
    DriftConfig,
    DriftDetector,
    DriftReport,
    IndexSnapshot,
)
from likeness.embedding import Embedder
from likeness.errors import QueueFull, StoreUnavailable
from likeness.filters import Schema
from likeness.indexing import Indexer, IndexerConfig
from likeness.ports import VectorIndex
from likeness.records import (
    CollectionInfo,
    Hint,
    ObjectRef,
    Point,
    State,
    StoredPoints,
    Version,
)
from likeness.settings import Limits
from likeness.sync import settings_digest
from tests.fake_bucket import FakeBucket
from tests.indexes import open_index
from tests.pictures import png

MODEL = Path(__file__).parents[1] / "models" / "fixed-filters"
SETTINGS = settings_digest(Schema(), Limits())
# FakeBucket's objects are of the first seconds of 1970.
NOW_S = TOMBSTONE_S + 1e6

ids = st.binary(min_size=16, max_size=16) | st.sampled_from(
    [bytes([a]) + bytes(14) + bytes([b]) for a in (0, 7, 255) for b in (0, 1, 255)]
)
sides = st.dictionaries(ids, st.integers(0, 2), max_size=30)


@given(index=sides, bucket=sides, page=st.integers(1, 7))
def test_the_join_is_the_difference_of_the_sets(
    index: dict[bytes, int], bucket: dict[bytes, int], page: int
) -> None:
    ordered = sorted(index)
    fingerprints = np.array([index[i] for i in ordered], np.uint64)
    snapshot = IndexSnapshot(np.array(ordered, "S16"), fingerprints)
    missing, changed = set(), set()
    listed = list(bucket)
    for at in range(0, len(listed), page):
        part = listed[at : at + page]
        listed_fingerprints = np.array([bucket[i] for i in part], np.uint64)
        masks = snapshot.join(np.array(part, "S16"), listed_fingerprints)
        for found, flags in zip((missing, changed), masks, strict=True):
            found |= {i for i, flag in zip(part, flags, strict=True) if flag}
    assert missing == bucket.keys() - index.keys()
    assert changed == {i for i in bucket.keys() & index.keys() if bucket[i] != index[i]}
    assert {uuid.UUID(i).bytes for i in snapshot.unmatched()} == index.keys() - bucket.keys()


class World:
    """A bucket, its index, and hints that were not processed yet."""

    def __init__(self, folder: Path) -> None:
        self.bucket = FakeBucket()
        self.index = open_index(folder)
        self.embedder = Embedder(MODEL)
        self.queue: list[ObjectRef] = []

    def reconcile(self, *refs: ObjectRef) -> None:
        indexer = Indexer(self.bucket, self.index, self.embedder, IndexerConfig(parallel=1))
        hints = [Hint(ref) for ref in refs]
        assert not [o.error for o in indexer.reconcile(hints).values() if o.error]

    def deliver(self) -> None:
        """Index the objects that events name."""
        self.reconcile(*(event.ref for event in self.bucket.events))
        self.bucket.events.clear()

    def process_hints(self) -> None:
        self.reconcile(*self.queue)
        self.queue.clear()

    def send(self, found: list[Difference]) -> None:
        self.queue += [difference.ref for difference in found]

    def detector(
        self,
        store: Any = None,
        index: Any = None,
        repair: Callable[[list[Difference]], None] | None = None,
        clock: Callable[[], float] = lambda: NOW_S,
        **options: Any,
    ) -> DriftDetector:
        """`options` are those of a DriftConfig."""
        config = DriftConfig(
            **{"bucket": self.bucket.name, "prefix": "", "settings": SETTINGS, **options}
        )
        return DriftDetector(
            store or self.bucket, index or self.index, config, repair or self.send, clock=clock
        )

    def found(self, **options: Any) -> dict[str, DifferenceKind]:
        differences: list[Difference] = []
        report = self.detector(repair=differences.extend, **options).run()
        assert report.drift == len(differences)
        return {difference.ref.key: difference.kind for difference in differences}

    def points(self) -> dict[str, Point]:
        points = self.index.scroll(1000).points
        return {point.ref.key: point for point in points if point.ref.bucket == self.bucket.name}

    def assert_equal(self) -> None:
        live = {key: p.object.etag for key, p in self.points().items() if p.object}
        assert live == {e.ref.key: e.etag for e in self.bucket.entries(self.bucket.name, "")}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "index")
    yield world
    world.index.close()


def drifted(world: World) -> World:
    """One difference of each kind among objects in sync, and an old tombstone."""
    for seed, key in enumerate(("same.png", "changed.png", "deleted.png", "swept.png", "bad.png")):
        world.bucket.put(key, png(seed, 24, 18) if key != "bad.png" else b"no picture")
    world.deliver()
    world.bucket.remove("swept.png")
    world.deliver()
    world.bucket.put("changed.png", png(8, 24, 18))
    world.bucket.put("lost.png", png(9, 24, 18))
    world.bucket.remove("deleted.png")
    world.bucket.events.clear()  # the events were lost
    [old] = [p for p in world.points().values() if p.state is State.GONE]
    newer = msgspec.structs.replace(old, indexed_at_s=5.0, version=Version(10**9))
    write = newer
    world.index.write(world.embedder.fingerprint, [write])
    return world


def test_each_kind_of_difference_is_found_and_nothing_else(world: World) -> None:
    expected = {
        "changed.png": DifferenceKind.CHANGED,
        "lost.png": DifferenceKind.MISSING,
        "deleted.png": DifferenceKind.EXTRA,
    }
    drifted(world)
    assert world.found(sweep=False) == expected
    report = world.detector(sweep=False, repair=lambda found: None).run()
    assert (report.objects, report.points, report.swept) == (4, 4, 1)
    assert report.finished and report.next_start == ""


def test_once_the_hints_are_processed_nothing_differs(world: World) -> None:
    drifted(world)
    report = world.detector().run()
    assert (report.drift, report.swept) == (3, 1)
    world.process_hints()
    world.assert_equal()
    assert "swept.png" not in world.points()
    assert world.detector().run().drift == 0


class Replicated:
    """An index with two replicas, which hold points differently in so many reads of each."""

    def __init__(self, index: VectorIndex, reads: dict[str, int]) -> None:
        self._index = index
        self._reads = reads

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def info(self) -> CollectionInfo:
        return msgspec.structs.replace(self._index.info(), replicas=2)

    def retrieve_payloads(self, model: str, ids: Sequence[str]) -> StoredPoints:
        found = self._index.retrieve_payloads(model, ids).points
        differing = {point_id for point_id in found if self._reads.get(point_id, 0) > 0}
        for point_id in differing:
            self._reads[point_id] -= 1
        return StoredPoints(found, frozenset(differing))


def test_points_that_replicas_hold_differently_are_hinted_at_but_not_writes_under_way(
    world: World,
) -> None:
    for seed, key in enumerate(("same.png", "written.png", "differs.png")):
        world.bucket.put(key, png(seed, 24, 18))
    world.deliver()
    written, differs = (world.bucket.ref(key).point_id for key in ("written.png", "differs.png"))
    found: list[Difference] = []
    index = Replicated(world.index, {written: 1, differs: 2})
    report = world.detector(index=index, repair=found.extend).run()
    assert [(d.ref.key, d.kind) for d in found] == [("differs.png", DifferenceKind.DIFFERING)]
    assert (report.differing, report.drift) == (1, 0)


def test_without_an_index_every_image_is_missing(world: World) -> None:
    for key in ("a.png", "b.png", "c.txt"):
        world.bucket.put(key, png(1, 24, 18))
    assert world.found() == dict.fromkeys(("a.png", "b.png"), DifferenceKind.MISSING)


def test_an_object_that_changed_a_moment_ago_is_left_to_its_event(world: World) -> None:
    drifted(world)
    just_after = max(e.last_modified_s for e in world.bucket.entries("photos", "")) + 1
    assert world.found(clock=lambda: just_after) == {"deleted.png": DifferenceKind.EXTRA}
    assert world.detector(clock=lambda: just_after).run().young == 2


def test_other_settings_change_live_and_rejected_points(world: World) -> None:
    for key, data in {"a.png": png(1, 24, 18), "bad.png": b"no picture"}.items():
        world.bucket.put(key, data)
    world.deliver()
    assert world.found() == {}
    declared = settings_digest(Schema.declare({"brand": "keyword"}), Limits())
    assert world.found(settings=declared) == dict.fromkeys(
        ("a.png", "bad.png"), DifferenceKind.CHANGED
    )


def test_only_the_prefix_of_the_bucket_is_compared(world: World) -> None:
    for key in ("in/a.png", "out/a.png"):
        world.bucket.put(key, png(1, 24, 18))
    world.deliver()
    for folder in ("in", "out"):
        world.bucket.remove(f"{folder}/a.png")
        world.bucket.put(f"{folder}/b.png", png(1, 24, 18))
    world.bucket.events.clear()
    assert world.found(prefix="in/") == {
        "in/a.png": DifferenceKind.EXTRA,
        "in/b.png": DifferenceKind.MISSING,
    }
    assert world.found(bucket="other", store=FakeBucket("other")) == {}


def test_late_hints_undo_nothing_that_live_events_did(world: World) -> None:
    """Objects change after a backfill listed them, and their events overtake its hints."""
    for key in ("replaced.png", "deleted.png", "same.png"):
        world.bucket.put(key, png(1, 24, 18))
    world.queue = [entry.ref for entry in world.bucket.entries("photos", "")]
    world.deliver()
    world.bucket.put("replaced.png", png(2, 24, 18))
    world.bucket.remove("deleted.png")
    world.deliver()
    before = world.points()
    assert before["deleted.png"].state is State.GONE
    world.process_hints()
    after = world.points()
    assert after.pop("same.png") == before.pop("same.png")
    assert after == before
    world.assert_equal()


class Killed(BaseException):
    """The process ends here."""


class Steps:
    """Kills the process at its n-th external call, before or after the call takes effect."""

    def __init__(self, until: int, after: bool) -> None:
        self._left = until
        self._after = after

    def guard(self, inner: Any) -> Any:
        return _Guarded(inner, self.step)

    def step(self, call: Callable[[], Any]) -> Any:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Killed
        result = call()
        if self._left == 0:
            raise Killed
        return result


class _Guarded:
    def __init__(self, inner: Any, step: Callable[[Callable[[], Any]], Any]) -> None:
        self._inner = inner
        self._step = step

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._inner, name)
        if name == "for_model":
            return lambda model: _Guarded(method(model), self._step)
        return lambda *given, **named: self._step(lambda: method(*given, **named))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_run_killed_at_any_step_does_no_harm(world: World, after: bool) -> None:
    killed = True
    for until in itertools.count(1):
        world.bucket = FakeBucket(f"bucket-{until}")
        drifted(world)
        steps = Steps(until, after)
        detector = world.detector(
            store=steps.guard(world.bucket),
            index=steps.guard(world.index),
            repair=lambda found, steps=steps: steps.step(lambda: world.send(found)),
            parallel=1,
        )
        try:
            detector.run()
            killed = False
        except Killed:
            world.detector().run()
        world.process_hints()
        world.assert_equal()
        assert world.found() == {}
        if not killed:
            break
    assert until > 6


def many(world: World, count: int) -> World:
    for i in range(count):
        world.bucket.put(f"{i:02d}.png", png(1, 24, 18))
    world.deliver()
    for i in range(0, count, 5):
        world.bucket.remove(f"{i:02d}.png")
    world.bucket.events.clear()
    return world


def test_comparing_the_index_range_by_range_finds_the_same_differences(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likeness.drift._PAGE", 4)
    expected = many(world, 30).found()
    assert len(expected) == 6
    found: list[Difference] = []
    detector = world.detector(repair=found.extend, max_points=7)
    reports = [detector.run()]
    while start := reports[-1].next_start:
        reports.append(detector.run(start))
    assert len(reports) > 3
    assert sum(report.objects for report in reports) == 24
    assert {d.ref.key: d.kind for d in found} == expected
    assert len(found) == len(expected)


def test_an_index_too_large_for_one_run_is_continued_in_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likeness.drift._PAGE", 4)
    many(world, 30)
    left_s = iter([900.0, 800.0, 500.0, *[400.0] * 100])
    report = world.detector().run(left_s=lambda: next(left_s))
    assert report.finished and report.points == 8
    assert report.next_start == world.index.scroll(9).points[8].id


def test_a_run_without_time_for_the_bucket_repeats_its_range(world: World) -> None:
    many(world, 10)
    start = world.index.scroll(9).points[4].id
    report = world.detector().run(start, left_s=lambda: 1.0)
    assert (report.finished, report.next_start, report.drift) == (False, start, 0)


def test_a_full_queue_ends_the_run_and_loses_nothing(world: World) -> None:
    def refuse(found: list[Difference]) -> None:
        raise QueueFull("full")

    report = drifted(world).detector(repair=refuse).run()
    assert (report.finished, report.drift) == (False, 0)
    assert len(world.found()) == 3


def test_a_failing_listing_raises_and_does_not_count_as_an_empty_bucket(world: World) -> None:
    class Failing(FakeBucket):
        def entries(self, bucket: str, prefix: str, start_after: str = "") -> Any:
            raise StoreUnavailable("S3 answered SlowDown")

    drifted(world)
    with pytest.raises(StoreUnavailable):
        world.detector(store=Failing()).run()
    assert world.queue == []


def test_drift_is_the_sum_of_all_differences() -> None:
    assert (
        DriftReport(
            9, 9, missing=1, changed=2, extra=3, young=4, ignored=5, swept=6, finished=True
        ).drift
        == 6
    )
