"""Duplicates over the real decoder, models and engine: found, listed in groups, decided upon."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from console.evaluation.edits import EDITS
from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.duplicates import Announce, Duplicates, Group, no_announcement
from likeness.embedding import Embedder
from likeness.errors import IndexUnavailable, InvalidRequest, NotIndexed, Unavailable
from likeness.filters import Schema
from likeness.indexing import Indexer, Outcome, Result
from likeness.records import (
    Hint,
    ImageInfo,
    ObjectRef,
    OlderThan,
    Point,
    PointWrite,
    State,
    Version,
)
from tests.calibrations import BUNDLES, calibration_of
from tests.fake_bucket import FakeBucket
from tests.pictures import jpeg, picture, png

# One has nothing but vectors and colours to go by; the other has local descriptors too.
FIXED_FILTERS, BUNDLED = BUNDLES
ANEW = Schema.declare({"brand": "keyword"})  # under another schema everything is indexed anew


class World:
    """A bucket, and the index that is made of it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.index = EmbeddedIndex(folder, Layout("images", Schema()))
        self.bucket = FakeBucket("photos")
        self.embedder = Embedder(model)
        self.calibration = calibration_of(self.embedder.spec)
        self.duplicates = Duplicates(self.index)
        self._indexers: dict[Schema, Indexer] = {}

    def indexer(self, schema: Schema | None = None, **other: Any) -> Indexer:
        parts = {"store": self.bucket, "index": self.index, "parallel": 1, **other}
        return Indexer(embedder=self.embedder, schema=schema, calibration=self.calibration, **parts)

    def put(self, key: str, data: bytes) -> None:
        """Put, and indexed in a batch of its own."""
        self.bucket.put(key, data)
        self.deliver(key)

    def remove(self, key: str) -> None:
        self.bucket.remove(key)
        self.deliver(key)

    def deliver(self, *keys: str, schema: Schema | None = None, **other: Any) -> list[Outcome]:
        hints = [Hint(self.bucket.ref(key)) for key in keys]
        return list(self.indexer(schema, **other).reconcile(hints).values())

    def point(self, key: str) -> Point:
        point_id = self.id(key)
        return self.index.retrieve_with_vectors([point_id])[point_id]

    def id(self, key: str) -> str:
        return self.bucket.ref(key).point_id

    def partners(self, key: str) -> dict[str, str]:
        """Each partner's key, and what it is."""
        return {partner.key: partner.verdict for partner in self.point(key).partners}

    def groups(self) -> list[tuple[str | None, list[str]]]:
        """The keys of the original, None without one, and of its copies: of each group."""
        found, cursor = self.duplicates.groups(200)
        assert cursor is None
        listed = [
            (group.original and group.original.ref.key, sorted(p.ref.key for p in group.copies))
            for group in found
        ]
        return sorted(listed, key=lambda group: group[1])


Worlds = Callable[[Path], World]


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Worlds]:
    made: list[World] = []

    def make(model: Path) -> World:
        made.append(World(tmp_path / f"index{len(made)}", model))
        return made[-1]

    yield make
    for world in made:
        world.index.close()


@pytest.fixture
def world(worlds: Worlds) -> World:
    return worlds(FIXED_FILTERS)


def captioned(seed: int) -> bytes:
    [edit] = [edit for edit in EDITS if edit.name == "text"]
    return edit.make(picture(seed), lambda: picture(99), np.random.default_rng(seed))


# What is found as an image comes in


@pytest.mark.parametrize("model", BUNDLES, ids=lambda folder: folder.name)
def test_the_same_bytes_a_copy_and_an_edit_are_told_from_each_other(
    worlds: Worlds, model: Path
) -> None:
    world = worlds(model)
    for seed in range(6):
        world.put(f"{seed}.png", png(seed))
    world.put("again.png", png(3))
    world.put("copy.jpg", jpeg(3))
    world.put("edited.jpg", captioned(3))

    assert world.partners("again.png") == {"3.png": "exact"}
    assert world.partners("copy.jpg") == {"3.png": "copy", "again.png": "copy"}
    assert world.partners("edited.jpg") == dict.fromkeys(
        ["3.png", "again.png", "copy.jpg"], "edited"
    )
    assert [world.partners(f"{seed}.png") for seed in range(6)] == [{}] * 6
    copies = ["again.png", "copy.jpg", "edited.jpg"]
    assert {world.point(key).original for key in copies} == {world.id("3.png")}
    assert len({world.point(key).group for key in copies}) == 1
    assert world.groups() == [("3.png", copies)]
    [exact] = world.point("again.png").partners
    assert exact.probability == 1


@pytest.mark.parametrize("model", BUNDLES, ids=lambda folder: folder.name)
def test_duplicates_within_one_batch_are_found(worlds: Worlds, model: Path) -> None:
    world = worlds(model)
    for key, data in {"a.png": png(1), "b.jpg": jpeg(1), "c.png": png(2), "d.png": png(1)}.items():
        world.bucket.put(key, data)
    world.deliver("a.png", "b.jpg", "c.png", "d.png")
    assert world.partners("b.jpg") == {"a.png": "copy"}
    assert world.partners("d.png") == {"a.png": "exact", "b.jpg": "copy"}
    assert world.groups() == [("a.png", ["b.jpg", "d.png"])]


def test_partners_are_the_closest_first_and_ten_at_most(world: World) -> None:
    for n in range(12):
        world.put(f"{n:02}.jpg", jpeg(1, quality=70 + n))
    world.put("same.jpg", jpeg(1, quality=81))
    partners = world.point("same.jpg").partners
    assert len(partners) == 10
    assert (partners[0].key, partners[0].verdict) == ("11.jpg", "exact")
    probabilities = [partner.probability for partner in partners[1:]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert world.point("same.jpg").original == world.id("00.jpg")


def test_the_same_event_five_times_finds_the_same_and_never_the_image_itself(
    world: World,
) -> None:
    world.put("a.png", png(1))
    world.put("b.jpg", jpeg(1))
    first = world.point("b.jpg")
    for _ in range(4):
        world.deliver("b.jpg")
        world.deliver(*["b.jpg", "a.png"] * 5)
    assert world.point("b.jpg").partners == first.partners
    assert [partner.key for partner in first.partners] == ["a.png"]
    assert world.partners("a.png") == {}


def test_what_is_indexed_anew_stays_what_it_was_in_its_group(world: World) -> None:
    keys = {"a.png": png(1), "b.jpg": jpeg(1), "c.png": png(1)}
    for key, data in keys.items():
        world.put(key, data)
    before = {key: (world.point(key).group, world.point(key).original) for key in keys}
    for key in reversed(keys):
        world.deliver(key, schema=ANEW)
    points = {key: world.point(key) for key in keys}
    assert {key: points[key].original for key in keys} == {key: before[key][1] for key in keys}
    assert {points[key].group for key in keys} == {before["b.jpg"][0]}
    assert world.groups() == [("a.png", ["b.jpg", "c.png"])]
    # it was the first; now the others were there before it
    assert world.partners("a.png") == {"c.png": "exact", "b.jpg": "copy"}


@pytest.mark.parametrize("order", [*permutations(["a.png", "b.jpg", "c.png"])], ids="-".join)
def test_a_batch_of_a_whole_group_indexed_anew_leaves_it_as_it_was(
    world: World, order: Sequence[str]
) -> None:
    for key, data in {"a.png": png(1), "b.jpg": jpeg(1), "c.png": png(1)}.items():
        world.put(key, data)
    [before] = world.duplicates.groups(9)[0]
    world.deliver(*order, schema=ANEW)
    [after] = world.duplicates.groups(9)[0]
    assert (after.id, after.original and after.original.id) == (before.id, world.id("a.png"))
    assert [p.id for p in after.copies] == [p.id for p in before.copies]


def test_an_overwritten_copy_loses_its_partners(world: World) -> None:
    world.put("a.png", png(1))
    world.put("b.jpg", jpeg(1))
    world.put("b.jpg", jpeg(2))
    point = world.point("b.jpg")
    assert (point.partners, point.original, point.group) == ((), None, None)
    assert world.groups() == []


def test_what_the_same_batch_replaces_or_deletes_is_no_partner(world: World) -> None:
    world.put("gone.png", png(1))
    world.put("other.png", png(2))
    world.bucket.remove("gone.png")
    world.bucket.put("other.png", png(3))
    world.bucket.put("like-gone.png", png(1))
    world.bucket.put("like-old-other.png", png(2))
    world.bucket.put("like-new-other.png", png(3))
    world.deliver(
        *("like-gone.png", "like-old-other.png", "like-new-other.png", "other.png", "gone.png")
    )
    assert world.partners("like-gone.png") == {}
    assert world.partners("like-old-other.png") == {}
    # found by whichever of the two comes second
    assert world.partners("other.png") == {"like-new-other.png": "exact"}


def test_no_image_that_is_not_live_is_a_partner(world: World) -> None:
    world.put("a.png", png(1))
    world.remove("a.png")
    world.put("bad.png", png(1)[:-400])
    assert world.point("bad.png").state is State.REJECTED
    world.put("b.png", png(1))
    assert world.partners("b.png") == {}


def test_without_a_calibration_nothing_is_marked(world: World) -> None:
    world.calibration = None  # type: ignore[assignment]
    world.put("a.png", png(1))
    world.put("b.png", png(1))
    assert world.partners("b.png") == {}


# When the index is not as it should be


def test_an_alias_that_points_at_a_model_of_another_dimension_hides_all_but_the_batch(
    world: World,
) -> None:
    world.index.prepare("another", 8)
    world.put("a.png", png(1))
    world.bucket.put("b.png", png(1))
    world.bucket.put("c.png", png(1))
    assert [found.result for found in world.deliver("b.png", "c.png")] == [Result.INDEXED] * 2
    assert stored(world, "b.png").partners == ()
    assert [partner.key for partner in stored(world, "c.png").partners] == ["b.png"]


def test_an_alias_that_points_at_another_model_of_the_same_dimension_gives_no_partners(
    world: World,
) -> None:
    world.index.prepare("another", world.embedder.dim)
    [vector] = world.embedder.embed([world.embedder.to_tensor(picture(1))])
    same_bytes = ImageInfo("PNG", 96, 72, hashlib.sha256(png(1)).hexdigest())
    other = replace(drawn("theirs.png", vector=vector, model="another"), image=same_bytes)
    world.index.write("another", [PointWrite(other, OlderThan(Version(1)))])
    world.put("a.png", png(1))
    assert stored(world, "a.png").state is State.LIVE
    assert stored(world, "a.png").partners == ()


def test_without_an_alias_indexing_goes_on(world: World) -> None:
    indexer = world.indexer()
    for key in ("a.png", "b.png"):
        world.bucket.put(key, png(1))
        indexer.reconcile([Hint(world.bucket.ref(key))])
        (world.folder / "aliases.json").unlink(missing_ok=True)
    assert stored(world, "b.png").state is State.LIVE
    assert stored(world, "b.png").partners == ()


def test_an_index_that_is_down_fails_the_batch_and_the_next_try_finds_the_partners(
    world: World,
) -> None:
    world.put("a.png", png(1))
    world.bucket.put("b.png", png(1))
    told: list[Point] = []
    [failed] = world.deliver("b.png", index=NotSearched(world.index), announce=told.extend)
    assert isinstance(failed.error, IndexUnavailable)
    assert world.id("b.png") not in world.index.retrieve_with_vectors([world.id("b.png")])
    assert told == []
    [indexed] = world.deliver("b.png", announce=told.extend)
    assert indexed.result is Result.INDEXED
    assert [point.partners[0].key for point in told] == ["a.png"]


class NotSearched:
    """An index that answers everything but searches."""

    def __init__(self, index: EmbeddedIndex) -> None:
        self._index = index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def nearest(self, queries: Any) -> Any:
        raise IndexUnavailable("Qdrant is not answering")


def stored(world: World, key: str) -> Point:
    """As it stands in the model's own collection, whatever the alias names."""
    return world.index.retrieve_payloads(world.embedder.fingerprint, [world.id(key)])[world.id(key)]


# Who is told


def test_each_new_duplicate_is_told_of_once_it_stands_in_the_index(world: World) -> None:
    told: list[Point] = []

    def announce(points: Sequence[Point]) -> None:
        assert [stored(world, point.ref.key) for point in points] == list(points)
        told.extend(points)

    for key, data in {"a.png": png(1), "b.png": png(1), "c.png": png(2), "d.jpg": jpeg(1)}.items():
        world.bucket.put(key, data)
    world.deliver("a.png", "b.png", "c.png", "d.jpg", announce=announce)
    assert [point.ref.key for point in told] == ["b.png", "d.jpg"]
    assert {point.original for point in told} == {world.id("a.png")}
    # nothing is new in what follows
    world.deliver("a.png", "b.png", "d.jpg", announce=announce)
    world.deliver("a.png", "b.png", "d.jpg", schema=ANEW, announce=announce)
    assert len(told) == 2
    world.bucket.put("c.png", jpeg(1, quality=80))
    world.deliver("c.png", announce=announce)
    assert [point.ref.key for point in told[2:]] == ["c.png"]


def test_a_picture_that_was_replaced_while_it_was_indexed_is_not_told_of(world: World) -> None:
    world.put("a.png", png(1))
    world.put("b.png", png(2))
    world.bucket.put("c.png", png(1))
    told: list[Point] = []
    index = PuttingAfterTheWrite(world, "c.png", png(2))
    [outcome] = world.deliver("c.png", index=index, announce=told.extend)
    assert (outcome.result, outcome.loops) == (Result.INDEXED, 2)
    assert [[partner.key for partner in point.partners] for point in told] == [["b.png"]]


class PuttingAfterTheWrite:
    """An index after whose first write somebody puts another picture into the bucket."""

    def __init__(self, world: World, key: str, data: bytes) -> None:
        self._world = world
        self._change: tuple[str, bytes] | None = (key, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.index, name)

    def write(self, model: str, writes: Sequence[PointWrite]) -> None:
        self._world.index.write(model, writes)
        if self._change:
            self._world.bucket.put(*self._change)
            self._change = None


def failing(points: Sequence[Point]) -> None:
    raise Unavailable("the event bus is not answering")


@pytest.mark.parametrize(
    ("announce", "why"), [(failing, "the event bus is not answering"), (no_announcement, None)]
)
def test_a_bus_that_is_down_does_not_stop_the_indexing(
    world: World, announce: Announce, why: str | None
) -> None:
    for key, data in {"a.png": png(1), "b.png": png(1), "c.png": png(2)}.items():
        world.bucket.put(key, data)
    outcomes = world.deliver("a.png", "b.png", "c.png", announce=announce)
    assert [outcome.result for outcome in outcomes] == [Result.INDEXED] * 3
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert [outcome.unannounced for outcome in outcomes] == [None, why, None]
    assert world.partners("b.png") == {"a.png": "exact"}


# Groups


def test_without_duplicates_there_are_no_groups(world: World) -> None:
    world.put("a.png", png(1))
    world.put("b.png", png(2))
    assert world.duplicates.groups(5) == ([], None)


def test_a_group_outlives_its_original(world: World) -> None:
    for key, data in {"a.png": png(1), "b.jpg": jpeg(1), "c.png": png(1)}.items():
        world.put(key, data)
    world.remove("a.png")
    assert world.groups() == [(None, ["b.jpg", "c.png"])]
    # one that comes later joins it
    world.put("d.png", png(1))
    assert world.groups() == [(None, ["b.jpg", "c.png", "d.png"])]
    # and so does the original, when it comes back
    world.bucket.undelete("a.png")
    world.deliver("a.png")
    assert world.groups() == [("a.png", ["b.jpg", "c.png", "d.png"])]


def test_the_last_of_a_group_is_no_group(world: World) -> None:
    world.put("a.png", png(1))
    world.put("b.png", png(1))
    world.remove("a.png")
    assert world.groups() == []


def test_an_original_that_became_another_picture_is_not_listed_with_its_old_copies(
    world: World,
) -> None:
    for key, data in {"a.png": png(1), "b.jpg": jpeg(1), "c.png": png(1)}.items():
        world.put(key, data)
    world.put("a.png", png(2))
    assert world.groups() == [(None, ["b.jpg", "c.png"])]
    # copies of what it is now are a group of their own, although it has the same original
    world.put("d.jpg", jpeg(2))
    assert world.groups() == [(None, ["b.jpg", "c.png"]), ("a.png", ["d.jpg"])]
    world.put("e.png", png(1))
    assert world.groups() == [(None, ["b.jpg", "c.png", "e.png"]), ("a.png", ["d.jpg"])]


def test_an_original_that_was_encoded_anew_still_is_one(world: World) -> None:
    world.put("a.png", png(1))
    world.put("b.png", png(1))
    world.put("a.png", jpeg(1))
    world.put("c.png", png(1))
    assert world.groups() == [("a.png", ["b.png", "c.png"])]


def drawn(
    key: str,
    group: str | None = None,
    original: str | None = None,
    vector: Any = None,
    model: str = "",
) -> Point:
    return Point(
        ObjectRef("photos", key),
        State.LIVE,
        Version(1),
        model,
        1.0,
        image=ImageInfo("PNG", 4, 3, key),
        vector=vector,
        original=original,
        group=group,
    )


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedIndex, Duplicates]]:
    """Nine groups of one to nine copies, some without their original, among single images."""
    index = EmbeddedIndex(tmp_path_factory.mktemp("index"), Layout("images", Schema()))
    index.prepare("m", 2)
    vector = np.array([0.6, 0.8], np.float32)
    points = [drawn(f"single {n}") for n in range(20)]
    for n in range(1, 10):
        # its own group's name only where it is there and was found beside its copies
        first = drawn(f"original {n}", group=f"group {n}")
        points += [drawn(f"{n} {i}", f"group {n}", first.id) for i in range(n)]
        points += [first] if n % 3 else []
    writes = [
        PointWrite(replace(point, model="m", vector=vector), OlderThan(Version(1)))
        for point in points
    ]
    index.write("m", writes)
    duplicates = Duplicates(index)
    chance = Random(7)
    for n in (3, 5, 6, 9):
        # the first ones too: groups begin with the first that is left
        ids = sorted(drawn(f"{n} {i}").id for i in range(n))
        for dismissed in [ids[0], *chance.sample(ids[1:], 1)]:
            duplicates.decide(f"group {n}", dismissed, duplicate=False)
    yield index, duplicates
    index.close()


def paged(duplicates: Duplicates, limit: int) -> list[Group]:
    groups: list[Group] = []
    cursor = None
    while True:
        found, cursor = duplicates.groups(limit, cursor)
        groups += found
        if cursor is None:
            return groups


def test_every_group_stands_on_one_page_whatever_their_size(
    listed: tuple[EmbeddedIndex, Duplicates],
) -> None:
    _, duplicates = listed
    whole = {group.id: group for group in paged(duplicates, 200)}
    dismissed = {3: 2, 5: 2, 6: 2, 9: 2}
    sizes = {f"group {n}": n - dismissed.get(n, 0) for n in range(1, 10)}
    del sizes["group 3"]  # one copy is left, and its original is gone
    assert {name: len(group.copies) for name, group in whole.items()} == sizes
    assert {name for name in whole if whole[name].original is None} == {"group 6", "group 9"}
    for limit in range(1, 50):
        pages = paged(duplicates, limit)
        assert len(pages) == len(whole)
        assert {group.id: group for group in pages} == whole


def test_a_very_large_group_is_listed_in_part(tmp_path: Path) -> None:
    index = EmbeddedIndex(tmp_path, Layout("images", Schema()))
    index.prepare("m", 2)
    vector = np.array([0.6, 0.8], np.float32)
    first = drawn("original", vector=vector, group="g")
    copies = [drawn(f"{n}", "g", first.id, vector) for n in range(250)]
    index.write("m", [PointWrite(point, OlderThan(Version(1))) for point in [first, *copies]])
    for limit in (1, 60, 200):
        [group] = paged(Duplicates(index), limit)
        assert len(group.copies) == 100
        assert group.more
        assert group.original is not None
    index.close()


# Decisions


def decided(world: World, key: str, duplicate: bool) -> None:
    group = world.point(key).group
    assert group is not None
    world.duplicates.decide(group, world.id(key), duplicate)


@pytest.fixture
def four(world: World) -> World:
    data = {"a.png": png(1), "b.jpg": jpeg(1), "c.png": png(1), "d.jpg": jpeg(1, quality=70)}
    for key, bytes_ in data.items():
        world.put(key, bytes_)
    return world


def test_what_is_no_duplicate_is_left_out_until_it_is_taken_back(four: World) -> None:
    for _ in range(2):  # saying it again changes nothing
        decided(four, "c.png", False)
    assert four.groups() == [("a.png", ["b.jpg", "d.jpg"])]
    for _ in range(2):
        decided(four, "c.png", True)
    assert four.groups() == [("a.png", ["b.jpg", "c.png", "d.jpg"])]


def test_a_group_whose_copies_are_none_is_not_listed(four: World) -> None:
    for key in ("b.jpg", "c.png", "d.jpg"):
        decided(four, key, False)
    assert four.groups() == []
    decided(four, "d.jpg", True)
    assert four.groups() == [("a.png", ["d.jpg"])]


def test_a_decision_is_remembered_when_the_image_is_indexed_anew(four: World) -> None:
    decided(four, "c.png", False)
    four.deliver("c.png", schema=ANEW)
    assert four.groups() == [("a.png", ["b.jpg", "d.jpg"])]
    four.put("c.png", png(1))  # uploaded again
    assert four.groups() == [("a.png", ["b.jpg", "d.jpg"])]
    four.deliver("d.jpg", "c.png", "a.png", "b.jpg", schema=ANEW)
    assert four.groups() == [("a.png", ["b.jpg", "d.jpg"])]


def test_a_decision_does_not_reach_another_group(four: World) -> None:
    decided(four, "c.png", False)
    four.put("other.png", png(2))
    four.put("c.png", png(2))
    assert four.groups() == [("a.png", ["b.jpg", "d.jpg"]), ("other.png", ["c.png"])]


def test_decisions_outlive_a_restart(four: World, tmp_path: Path) -> None:
    decided(four, "c.png", False)
    four.index.close()
    four.index = EmbeddedIndex(four.folder, Layout("images", Schema()))
    four.duplicates = Duplicates(four.index)
    assert four.groups() == [("a.png", ["b.jpg", "d.jpg"])]
    four.index.close()


def test_a_decision_on_what_is_not_indexed_is_refused(four: World) -> None:
    group = four.point("b.jpg").group
    assert group is not None
    four.remove("b.jpg")
    four.put("bad.png", b"no picture")
    for unknown in (four.id("never.png"), four.id("b.jpg"), four.id("bad.png")):
        with pytest.raises(NotIndexed, match=unknown):
            four.duplicates.decide(group, unknown, duplicate=False)


def test_a_decision_on_a_group_that_the_image_is_not_in_is_refused(four: World) -> None:
    four.put("e.png", png(2))
    four.put("f.png", png(2))
    own, another = four.point("c.png").group, four.point("f.png").group
    assert own is not None
    assert another is not None
    four.deliver("a.png", schema=ANEW)
    assert four.point("a.png").group == own
    for group, key in [
        (another, "c.png"),
        ("no such group", "c.png"),
        ("", "c.png"),
        (another, "e.png"),  # in no group but as its original
        (own, "a.png"),
    ]:
        for duplicate in (False, True):
            with pytest.raises(InvalidRequest, match="is no copy of the group"):
                four.duplicates.decide(group, four.id(key), duplicate)
    assert four.groups() == [("a.png", ["b.jpg", "c.png", "d.jpg"]), ("e.png", ["f.png"])]
