"""Duplicates with the real decoder, models and engine: detected, grouped, dismissed."""

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
from likeness.duplicates import Announce, Duplicates, Group, no_announcement
from likeness.errors import (
    IndexForbidden,
    IndexFull,
    IndexRefused,
    IndexUnavailable,
    InvalidRequest,
    NotIndexed,
    Unavailable,
)
from likeness.filters import Schema
from likeness.indexing import Result
from likeness.ports import VectorIndex
from likeness.records import (
    Hint,
    ImageInfo,
    ObjectRef,
    Point,
    State,
    Version,
)
from tests.calibrations import BUNDLES
from tests.indexed_bucket import World
from tests.indexes import open_index
from tests.pictures import jpeg, picture, png

# The first has only vectors and colours; the second has local descriptors too.
FIXED_FILTERS, BUNDLED = BUNDLES
OTHER_MODEL = "f" * 16
OTHER_SCHEMA = Schema.declare({"brand": "keyword"})  # with it everything is indexed again


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


# Detection while an image is indexed


@pytest.mark.parametrize("model", BUNDLES, ids=lambda folder: folder.name)
def test_same_bytes_a_copy_and_an_edit_are_distinguished(worlds: Worlds, model: Path) -> None:
    world = worlds(model)
    for seed in range(6):
        world.put(f"{seed}.png", png(seed))
    world.put("again.png", png(3))
    world.put("copy.jpg", jpeg(3))
    world.put("edited.jpg", captioned(3))

    assert world.matches("again.png") == {"3.png": "exact"}
    assert world.matches("copy.jpg") == {"3.png": "copy", "again.png": "copy"}
    assert world.matches("edited.jpg") == dict.fromkeys(
        ["3.png", "again.png", "copy.jpg"], "edited"
    )
    assert [world.matches(f"{seed}.png") for seed in range(6)] == [{}] * 6
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
    assert world.matches("a.png") == {"b.jpg": "copy", "d.png": "exact"}
    assert world.matches("b.jpg") == {"a.png": "copy", "d.png": "copy"}
    assert world.matches("d.png") == {"a.png": "exact", "b.jpg": "copy"}
    assert world.matches("c.png") == {}
    assert world.groups() == [("a.png", ["b.jpg", "d.png"])]


def test_at_most_ten_duplicates_are_stored_closest_first(world: World) -> None:
    for n in range(12):
        world.put(f"{n:02}.jpg", jpeg(1, quality=70 + n))
    world.put("same.jpg", jpeg(1, quality=81))
    matches = world.point("same.jpg").partners
    assert len(matches) == 10
    assert (matches[0].key, matches[0].verdict) == ("11.jpg", "exact")
    probabilities = [match.probability for match in matches[1:]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert world.point("same.jpg").original == world.id("00.jpg")


def test_repeated_events_find_the_same_duplicates_and_never_the_image_itself(
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
    assert world.matches("a.png") == {}


def test_original_and_copies_keep_their_roles_when_they_are_indexed_again(world: World) -> None:
    keys = {"a.png": png(1), "b.jpg": jpeg(1), "c.png": png(1)}
    for key, data in keys.items():
        world.put(key, data)
    before = {key: (world.point(key).group, world.point(key).original) for key in keys}
    for key in reversed(keys):
        world.deliver(key, schema=OTHER_SCHEMA)
    points = {key: world.point(key) for key in keys}
    assert {key: points[key].original for key in keys} == {key: before[key][1] for key in keys}
    assert {points[key].group for key in keys} == {before["b.jpg"][0]}
    assert world.groups() == [("a.png", ["b.jpg", "c.png"])]
    # it was indexed first; this time the others were already there
    assert world.matches("a.png") == {"c.png": "exact", "b.jpg": "copy"}


@pytest.mark.parametrize("order", [*permutations(["a.png", "b.jpg", "c.png"])], ids="-".join)
def test_indexing_a_whole_group_again_in_one_batch_does_not_change_it(
    world: World, order: Sequence[str]
) -> None:
    for key, data in {"a.png": png(1), "b.jpg": jpeg(1), "c.png": png(1)}.items():
        world.put(key, data)
    [before] = world.duplicates.groups(9)[0]
    world.deliver(*order, schema=OTHER_SCHEMA)
    [after] = world.duplicates.groups(9)[0]
    assert (after.id, after.original and after.original.id) == (before.id, world.id("a.png"))
    assert [p.id for p in after.copies] == [p.id for p in before.copies]


def test_an_overwritten_copy_loses_its_duplicates(world: World) -> None:
    world.put("a.png", png(1))
    world.put("b.jpg", jpeg(1))
    world.put("b.jpg", jpeg(2))
    point = world.point("b.jpg")
    assert (point.partners, point.original, point.group) == ((), None, None)
    assert world.groups() == []


def test_an_image_that_the_same_batch_replaces_or_deletes_is_no_duplicate(world: World) -> None:
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
    assert world.matches("like-gone.png") == {}
    assert world.matches("like-old-other.png") == {}
    assert world.matches("like-new-other.png") == {"other.png": "exact"}
    assert world.matches("other.png") == {"like-new-other.png": "exact"}


def test_only_live_images_are_duplicates(world: World) -> None:
    world.put("a.png", png(1))
    world.remove("a.png")
    world.put("bad.png", png(1)[:-400])
    assert world.point("bad.png").state is State.REJECTED
    world.put("b.png", png(1))
    assert world.matches("b.png") == {}


def test_without_a_calibration_no_duplicates_are_detected(world: World) -> None:
    world.calibration = None
    world.put("a.png", png(1))
    world.put("b.png", png(1))
    assert world.matches("b.png") == {}


# An index of another model, without an alias, or down


def test_duplicates_are_found_in_the_models_own_collection_wherever_the_alias_points(
    world: World,
) -> None:
    world.index.prepare(OTHER_MODEL, 8)
    world.put("a.png", png(1))
    world.bucket.put("b.png", png(1))
    world.bucket.put("c.png", png(1))
    assert [outcome.result for outcome in world.deliver("b.png", "c.png")] == [Result.INDEXED] * 2
    found = {match.key for key in ("b.png", "c.png") for match in stored(world, key).partners}
    assert found == {"a.png", "b.png", "c.png"}


def test_an_alias_of_another_model_of_the_same_dimension_gives_no_duplicates(
    world: World,
) -> None:
    world.index.prepare(OTHER_MODEL, world.embedder.dim)
    [vector] = world.embedder.embed([world.embedder.to_tensor(picture(1))])
    same_bytes = ImageInfo("PNG", 96, 72, hashlib.sha256(png(1)).hexdigest())
    other = replace(make_point("theirs.png", vector=vector, model=OTHER_MODEL), image=same_bytes)
    world.index.write(OTHER_MODEL, [other])
    world.put("a.png", png(1))
    assert stored(world, "a.png").state is State.LIVE
    assert stored(world, "a.png").partners == ()


@pytest.mark.double("deletes the alias in the folder")
def test_indexing_works_without_an_alias(world: World) -> None:
    indexer = world.indexer()
    for key in ("a.png", "b.png"):
        world.bucket.put(key, png(1))
        indexer.reconcile([Hint(world.bucket.ref(key))])
        (world.folder / "aliases.json").unlink(missing_ok=True)
    assert stored(world, "b.png").state is State.LIVE
    assert [match.key for match in stored(world, "b.png").partners] == ["a.png"]


@pytest.mark.parametrize("error", [IndexUnavailable, IndexRefused, IndexFull, IndexForbidden])
def test_an_index_that_does_not_answer_fails_the_batch_and_the_retry_finds_the_duplicates(
    world: World, error: type[IndexUnavailable]
) -> None:
    world.put("a.png", png(1))
    world.bucket.put("b.png", png(1))
    announced: list[Point] = []
    index = FailingSearch(world.index, error)
    [failed] = world.deliver("b.png", index=index, announce=announced.extend)
    assert isinstance(failed.error, error)
    assert not stored(world, "b.png").compared
    assert announced == []
    [indexed] = world.deliver("b.png", announce=announced.extend)
    assert indexed.result is Result.INDEXED
    assert [point.partners[0].key for point in announced] == ["a.png"]


class FailingSearch:
    """An index that fails every search."""

    def __init__(self, index: VectorIndex, error: type[IndexUnavailable]) -> None:
        self._index = index
        self._error = error

    def for_model(self, model: str) -> FailingSearch:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._index, name)

    def nearest(self, queries: Any) -> Any:
        raise self._error("no answer")


def stored(world: World, key: str) -> Point:
    """The point in the model's own collection, wherever the alias points."""
    return world.index.retrieve_payloads(world.embedder.fingerprint, [world.id(key)]).points[
        world.id(key)
    ]


# Announcements


def test_each_new_duplicate_is_announced_once_after_it_is_stored(world: World) -> None:
    announced: list[Point] = []

    def announce(points: Sequence[Point]) -> None:
        assert [stored(world, point.ref.key) for point in points] == list(points)
        announced.extend(points)

    for key, data in {"a.png": png(1), "b.png": png(1), "c.png": png(2), "d.jpg": jpeg(1)}.items():
        world.bucket.put(key, data)
    world.deliver("a.png", "b.png", "c.png", "d.jpg", announce=announce)
    assert [point.ref.key for point in announced] == ["b.png", "d.jpg"]
    assert {point.original for point in announced} == {world.id("a.png")}
    # no image is new in these batches
    world.deliver("a.png", "b.png", "d.jpg", announce=announce)
    world.deliver("a.png", "b.png", "d.jpg", schema=OTHER_SCHEMA, announce=announce)
    assert len(announced) == 2
    world.bucket.put("c.png", jpeg(1, quality=80))
    world.deliver("c.png", announce=announce)
    assert [point.ref.key for point in announced[2:]] == ["c.png"]


def test_an_image_that_was_replaced_while_it_was_indexed_is_not_announced(world: World) -> None:
    world.put("a.png", png(1))
    world.put("b.png", png(2))
    world.bucket.put("c.png", png(1))
    announced: list[Point] = []
    index = PuttingAfterTheWrite(world, "c.png", png(2))
    [outcome] = world.deliver("c.png", index=index, announce=announced.extend)
    assert (outcome.result, outcome.loops) == (Result.INDEXED, 2)
    assert [[match.key for match in point.partners] for point in announced] == [["b.png"]]


class PuttingAfterTheWrite:
    """An index after whose first write another image is put into the bucket."""

    def __init__(self, world: World, key: str, data: bytes) -> None:
        self._world = world
        self._change: tuple[str, bytes] | None = (key, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.index, name)

    def write(self, model: str, writes: Sequence[Point]) -> None:
        self._world.index.write(model, writes)
        if self._change:
            self._world.bucket.put(*self._change)
            self._change = None


def failing(points: Sequence[Point]) -> None:
    raise Unavailable("the event bus is not answering")


@pytest.mark.parametrize(
    ("announce", "why"), [(failing, "the event bus is not answering"), (no_announcement, None)]
)
def test_a_failing_event_bus_does_not_stop_indexing(
    world: World, announce: Announce, why: str | None
) -> None:
    for key, data in {"a.png": png(1), "b.png": png(1), "c.png": png(2)}.items():
        world.bucket.put(key, data)
    outcomes = world.deliver("a.png", "b.png", "c.png", announce=announce)
    assert [outcome.result for outcome in outcomes] == [Result.INDEXED] * 3
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert [outcome.unannounced for outcome in outcomes] == [None, why, None]
    assert world.matches("b.png") == {"a.png": "exact"}


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
    # a later copy joins it, and the oldest that is left becomes its original
    world.put("d.png", png(1))
    assert world.groups() == [("b.jpg", ["c.png", "d.png"])]
    # until the first one is restored
    world.bucket.undelete("a.png")
    world.deliver("a.png")
    assert world.groups() == [("a.png", ["b.jpg", "c.png", "d.png"])]


def test_a_single_remaining_image_is_no_group(world: World) -> None:
    world.put("a.png", png(1))
    world.put("b.png", png(1))
    world.remove("a.png")
    assert world.groups() == []


def test_an_original_that_was_replaced_is_not_listed_with_its_old_copies(
    world: World,
) -> None:
    for key, data in {"a.png": png(1), "b.jpg": jpeg(1), "c.png": png(1)}.items():
        world.put(key, data)
    world.put("a.png", png(2))
    assert world.groups() == [(None, ["b.jpg", "c.png"])]
    # copies of the new image are a separate group, although its original is the same object
    world.put("d.jpg", jpeg(2))
    assert world.groups() == [(None, ["b.jpg", "c.png"]), ("a.png", ["d.jpg"])]
    world.put("e.png", png(1))
    assert world.groups() == [("b.jpg", ["c.png", "e.png"]), ("a.png", ["d.jpg"])]


def test_an_original_that_was_encoded_again_is_a_new_object_and_becomes_a_copy(
    world: World,
) -> None:
    world.put("a.png", png(1))
    world.put("b.png", png(1))
    world.put("a.png", jpeg(1))
    world.put("c.png", png(1))
    assert world.groups() == [("b.png", ["a.png", "c.png"])]


def make_point(
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
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VectorIndex, Duplicates]]:
    """Nine groups of one to nine copies, some without original, and single images."""
    index = open_index(tmp_path_factory.mktemp("index"))
    index.prepare("m", 2)
    vector = np.array([0.6, 0.8], np.float32)
    points = [make_point(f"single {n}") for n in range(20)]
    for n in range(1, 10):
        # an original has a group id once it was indexed again and matched its copies
        first = make_point(f"original {n}", group=f"group {n}")
        points += [make_point(f"{n} {i}", f"group {n}", first.id) for i in range(n)]
        points += [first] if n % 3 else []
    writes = [replace(point, model="m", vector=vector) for point in points]
    index.write("m", writes)
    duplicates = Duplicates(index)
    chance = Random(7)
    for n in (3, 5, 6, 9):
        # first copies too: a group is listed where its first remaining copy is
        ids = sorted(make_point(f"{n} {i}").id for i in range(n))
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


def test_every_group_is_listed_on_exactly_one_page(
    listed: tuple[VectorIndex, Duplicates],
) -> None:
    _, duplicates = listed
    whole = {group.id: group for group in paged(duplicates, 200)}
    dismissed = {3: 2, 5: 2, 6: 2, 9: 2}
    sizes = {f"group {n}": n - dismissed.get(n, 0) for n in range(1, 10)}
    del sizes["group 3"]  # one copy remains, without its original
    assert {name: len(group.copies) for name, group in whole.items()} == sizes
    assert {name for name in whole if whole[name].original is None} == {"group 6", "group 9"}
    for limit in range(1, 50):
        pages = paged(duplicates, limit)
        assert len(pages) == len(whole)
        assert {group.id: group for group in pages} == whole


def test_a_very_large_group_is_listed_partly(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    index.prepare("m", 2)
    vector = np.array([0.6, 0.8], np.float32)
    first = make_point("original", vector=vector, group="g")
    copies = [make_point(f"{n}", "g", first.id, vector) for n in range(250)]
    index.write("m", [first, *copies])
    for limit in (1, 60, 200):
        [group] = paged(Duplicates(index), limit)
        assert len(group.copies) == 100
        assert group.more
        assert group.original is not None
    index.close()


# Dismissals


def decide(world: World, key: str, duplicate: bool) -> None:
    group = world.point(key).group
    assert group is not None
    world.duplicates.decide(group, world.id(key), duplicate)


@pytest.fixture
def four(world: World) -> World:
    data = {"a.png": png(1), "b.jpg": jpeg(1), "c.png": png(1), "d.jpg": jpeg(1, quality=70)}
    for key, bytes_ in data.items():
        world.put(key, bytes_)
    return world


def test_a_dismissed_image_is_left_out_until_the_dismissal_is_taken_back(four: World) -> None:
    for _ in range(2):  # repeating it changes nothing
        decide(four, "c.png", False)
    assert four.groups() == [("a.png", ["b.jpg", "d.jpg"])]
    for _ in range(2):
        decide(four, "c.png", True)
    assert four.groups() == [("a.png", ["b.jpg", "c.png", "d.jpg"])]


def test_a_group_without_copies_is_not_listed(four: World) -> None:
    for key in ("b.jpg", "c.png", "d.jpg"):
        decide(four, key, False)
    assert four.groups() == []
    decide(four, "d.jpg", True)
    assert four.groups() == [("a.png", ["d.jpg"])]


def test_a_dismissal_is_kept_when_the_image_is_indexed_again(four: World) -> None:
    decide(four, "c.png", False)
    four.deliver("c.png", schema=OTHER_SCHEMA)
    assert four.groups() == [("a.png", ["b.jpg", "d.jpg"])]
    four.put("c.png", png(1))  # uploaded again
    assert four.groups() == [("a.png", ["b.jpg", "d.jpg"])]
    four.deliver("d.jpg", "c.png", "a.png", "b.jpg", schema=OTHER_SCHEMA)
    assert four.groups() == [("a.png", ["b.jpg", "d.jpg"])]


def test_a_dismissal_is_kept_when_an_older_image_becomes_the_original(world: World) -> None:
    world.bucket.put("first.png", png(1))
    for key, data in {"a.png": png(1), "b.jpg": jpeg(1), "c.png": png(1)}.items():
        world.put(key, data)
    before = world.point("c.png").group
    decide(world, "c.png", False)
    world.deliver("first.png")
    assert world.point("c.png").group != before
    assert world.groups() == [("first.png", ["a.png", "b.jpg"])]
    decide(world, "c.png", True)
    assert world.groups() == [("first.png", ["a.png", "b.jpg", "c.png"])]


def test_a_dismissal_of_an_earlier_version_holds_for_its_group_and_can_be_taken_back(
    four: World,
) -> None:
    group, image = four.point("c.png").group, four.id("c.png")
    four.index.put_note("not-duplicate", f"{group} {image}", {"group": group, "image": image})
    assert four.groups() == [("a.png", ["b.jpg", "d.jpg"])]
    decide(four, "c.png", True)
    assert four.groups() == [("a.png", ["b.jpg", "c.png", "d.jpg"])]


def test_a_dismissal_does_not_apply_to_another_group(four: World) -> None:
    decide(four, "c.png", False)
    four.put("other.png", png(2))
    four.put("c.png", png(2))
    assert four.groups() == [("a.png", ["b.jpg", "d.jpg"]), ("other.png", ["c.png"])]


def test_dismissals_survive_a_restart(four: World, tmp_path: Path) -> None:
    decide(four, "c.png", False)
    four.index.close()
    four.index = open_index(four.folder)
    four.duplicates = Duplicates(four.index)
    assert four.groups() == [("a.png", ["b.jpg", "d.jpg"])]
    four.index.close()


def test_dismissing_an_unknown_image_is_refused(four: World) -> None:
    group = four.point("b.jpg").group
    assert group is not None
    four.remove("b.jpg")
    four.put("bad.png", b"no picture")
    for unknown in (four.id("never.png"), four.id("b.jpg"), four.id("bad.png")):
        with pytest.raises(NotIndexed, match=unknown):
            four.duplicates.decide(group, unknown, duplicate=False)


def test_dismissing_an_image_from_another_group_is_refused(four: World) -> None:
    four.put("e.png", png(2))
    four.put("f.png", png(2))
    own, another = four.point("c.png").group, four.point("f.png").group
    assert own is not None
    assert another is not None
    four.deliver("a.png", schema=OTHER_SCHEMA)
    assert four.point("a.png").group == own
    for group, key in [
        (another, "c.png"),
        ("no such group", "c.png"),
        ("", "c.png"),
        (another, "e.png"),  # the original is no copy
        (own, "a.png"),
    ]:
        for duplicate in (False, True):
            with pytest.raises(InvalidRequest, match="is no copy of the group"):
                four.duplicates.decide(group, four.id(key), duplicate)
    assert four.groups() == [("a.png", ["b.jpg", "c.png", "d.jpg"]), ("e.png", ["f.png"])]
