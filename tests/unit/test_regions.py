"""Subjects and regions, on patches laid out by hand so that the answer is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from likeness.records import WHOLE, Box
from likeness.regions import PROPOSALS, distinct, salience, subject
from tests.image_features import unit

SIDE, DIM = 14, 16
Cells = tuple[int, int, int, int]


def background(noise: float, seed: int = 0, side: int = SIDE) -> NDArray[np.float64]:
    """Patches close to one direction: (side, side, DIM)."""
    rng = np.random.default_rng(seed)
    return np.eye(DIM)[0] + rng.normal(0, noise / DIM**0.5, (side, side, DIM))


def with_things(things: Sequence[Cells], noise: float = 0.1) -> NDArray[np.float32]:
    """Objects with directions of their own at (left, top, right, bottom), in cells."""
    patches = background(noise)
    for number, (left, top, right, bottom) in enumerate(things, start=1):
        patches[top:bottom, left:right] += 3 * np.eye(DIM)[number]
    return unit(patches.reshape(-1, DIM))


def shares(cells: Cells, wider: float = 0.0) -> tuple[float, float, float, float]:
    left, top, right, bottom = cells
    return (
        (left - wider) / SIDE,
        (top - wider) / SIDE,
        (right + wider) / SIDE,
        (bottom + wider) / SIDE,
    )


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    common = Box(*(max(a, b) for a, b in zip(one[:2], other[:2], strict=True)), *(
        min(a, b) for a, b in zip(one[2:], other[2:], strict=True)
    ))  # fmt: skip
    return common.area / (one.area + other.area - common.area)


def test_salience_is_the_distance_from_the_nearest_border_patch() -> None:
    patches = np.tile(np.eye(DIM, dtype=np.float32)[0], (9, 1))
    patches[4] = 0.6 * np.eye(DIM)[0] + 0.8 * np.eye(DIM)[1]
    np.testing.assert_allclose(salience(patches), np.diag([0, 0.4, 0]), atol=1e-6)
    patches[0] = patches[4]  # the same thing at the border: background
    np.testing.assert_allclose(salience(patches), np.zeros((3, 3)), atol=1e-6)


@pytest.mark.parametrize("thing", [(5, 5, 9, 9), (2, 3, 6, 6), (7, 4, 12, 12), (1, 8, 12, 11)])
def test_the_subject_is_the_box_around_the_salient_patches(thing: Cells) -> None:
    box = subject(with_things([thing]))
    assert overlap(box, Box(*shares(thing, wider=1.0))) > 0.75
    left, top, right, bottom = shares(thing)
    # nothing of it is cut off, but for half a cell
    assert box.left <= left + 0.5 / SIDE
    assert box.top <= top + 0.5 / SIDE
    assert box.right >= right - 0.5 / SIDE
    assert box.bottom >= bottom - 0.5 / SIDE


LEFT, RIGHT = Box(0.0, 0.0, 0.5, 0.6), Box(0.5, 0.0, 1.0, 0.6)
MIDDLE = Box(0.2, 0.0, 0.7, 0.6)


def test_regions_of_different_objects_are_kept_the_most_certain_first() -> None:
    assert distinct([LEFT, RIGHT], ["mug", "lamp"], [0.8, 0.9], 5) == [1, 0]


def test_an_object_is_kept_once_where_it_is_most_certain() -> None:
    assert distinct([LEFT, RIGHT], ["mug", "mug"], [0.8, 0.9], 5) == [1]


def test_of_overlapping_regions_the_more_certain_is_kept() -> None:
    assert distinct([LEFT, MIDDLE, RIGHT], ["mug", "bag", "lamp"], [0.9, 0.8, 0.7], 5) == [0, 2]


def test_a_region_with_a_low_score_is_dropped() -> None:
    assert distinct([LEFT, RIGHT], ["mug", "lamp"], [0.9, 0.6], 5) == [0]


def test_no_more_regions_than_wanted_are_kept() -> None:
    scores = [0.9 - n / 1000 for n in range(len(PROPOSALS))]
    names = [str(n) for n in range(len(PROPOSALS))]
    every = distinct(PROPOSALS, names, scores, len(PROPOSALS))
    assert len(every) > 3
    assert distinct(PROPOSALS, names, scores, 3) == every[:3]
    assert distinct([], [], [], 3) == []


def test_proposals_cover_the_image_and_lie_inside_it() -> None:
    covered = np.zeros((100, 100), bool)
    for box in PROPOSALS:
        assert 0 <= box.left < box.right <= 1 + 1e-9
        assert 0 <= box.top < box.bottom <= 1 + 1e-9
        rows = slice(round(box.top * 100), round(box.bottom * 100))
        covered[rows, round(box.left * 100) : round(box.right * 100)] = True
    assert covered.all()
    assert len(set(PROPOSALS)) == len(PROPOSALS)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_an_image_without_salient_patches_is_its_own_subject(noise: float) -> None:
    patches = with_things([], noise)
    assert subject(patches) == WHOLE


@pytest.mark.parametrize("thing", [(1, 1, 13, 12), (1, 1, 13, 13)])
def test_a_subject_that_nearly_fills_the_image_is_the_whole_image(thing: Cells) -> None:
    assert subject(with_things([thing])) == WHOLE


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_map_of_little_more_than_a_border_gives_the_whole_image(side: int) -> None:
    patches = unit(background(2.0, side=side).reshape(-1, DIM))
    if side < 3:
        assert subject(patches) == WHOLE


def test_patches_of_zeros_have_no_salience() -> None:
    zeros = np.zeros((SIDE**2, DIM), np.float32)
    assert subject(zeros) == WHOLE


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    side=st.integers(1, 16),
    noise=st.sampled_from([0.0, 0.1, 1.0, 10.0]),
    zeros=st.booleans(),
)
def test_the_subject_lies_in_the_image_and_is_not_empty(
    seed: int, side: int, noise: float, zeros: bool
) -> None:
    patches = unit(background(noise, seed, side).reshape(-1, DIM))
    if zeros:
        patches[::3] = 0
    box = subject(patches)
    assert 0 <= box.left < box.right <= 1
    assert 0 <= box.top < box.bottom <= 1
