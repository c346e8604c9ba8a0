"""Where subjects are: patches that are laid out by hand, so that the answer is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from likeness.records import WHOLE, Box
from likeness.rerank.regions import regions, standing_out, subject
from tests.appearances import unit

SIDE, DIM = 14, 16
Cells = tuple[int, int, int, int]


def background(noise: float, seed: int = 0, side: int = SIDE) -> NDArray[np.float64]:
    """One direction, each patch a little aside of it: (side, side, DIM)."""
    rng = np.random.default_rng(seed)
    return np.eye(DIM)[0] + rng.normal(0, noise / DIM**0.5, (side, side, DIM))


def with_things(things: Sequence[Cells], noise: float = 0.1) -> NDArray[np.float32]:
    """Things of a direction of their own at (left, top, right, bottom), in cells."""
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


def test_a_patch_stands_out_by_its_distance_from_the_nearest_of_the_border() -> None:
    patches = np.tile(np.eye(DIM, dtype=np.float32)[0], (9, 1))
    patches[4] = 0.6 * np.eye(DIM)[0] + 0.8 * np.eye(DIM)[1]
    np.testing.assert_allclose(standing_out(patches), np.diag([0, 0.4, 0]), atol=1e-6)
    patches[0] = patches[4]  # the same thing at the border: background
    np.testing.assert_allclose(standing_out(patches), np.zeros((3, 3)), atol=1e-6)


@pytest.mark.parametrize("thing", [(5, 5, 9, 9), (2, 3, 6, 6), (7, 4, 12, 12), (1, 8, 12, 11)])
def test_the_subject_is_the_box_around_what_stands_out(thing: Cells) -> None:
    box = subject(with_things([thing]))
    assert overlap(box, Box(*shares(thing, wider=1.0))) > 0.75
    left, top, right, bottom = shares(thing)
    # nothing of it is cut off, but for half a cell
    assert box.left <= left + 0.5 / SIDE
    assert box.top <= top + 0.5 / SIDE
    assert box.right >= right - 0.5 / SIDE
    assert box.bottom >= bottom - 0.5 / SIDE


@pytest.mark.parametrize("thing", [(5, 5, 9, 9), (2, 3, 6, 6), (7, 4, 12, 12), (1, 8, 12, 11)])
def test_one_thing_is_one_region_with_half_a_cell_around_it(thing: Cells) -> None:
    [box] = regions(with_things([thing]), 5)
    assert box == pytest.approx(shares(thing, wider=0.5))


def test_two_things_are_two_regions_and_the_larger_comes_first() -> None:
    small, large = (2, 2, 5, 5), (7, 7, 12, 11)
    found = regions(with_things([small, large]), 5)
    assert found == [pytest.approx(shares(thing, wider=0.5)) for thing in (large, small)]


def test_no_more_regions_than_wanted_are_found() -> None:
    things = [(2, 2, 4, 4), (9, 2, 12, 5), (2, 8, 6, 12), (8, 8, 12, 12)]
    every = regions(with_things(things), 5)
    assert len(every) == 4
    assert regions(with_things(things), 2) == every[:2]
    assert regions(with_things(things), 0) == []


def test_things_that_touch_at_a_corner_are_two() -> None:
    assert len(regions(with_things([(3, 3, 6, 6), (6, 6, 9, 9)]), 5)) == 2


def test_things_side_by_side_are_one() -> None:
    [box] = regions(with_things([(3, 3, 6, 6), (6, 3, 9, 6)]), 5)
    assert box == pytest.approx(shares((3, 3, 9, 6), wider=0.5))


def test_a_single_patch_is_no_region() -> None:
    assert regions(with_things([(6, 6, 7, 7)]), 5) == []


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_a_calm_picture_has_no_regions_and_is_its_own_subject(noise: float) -> None:
    patches = with_things([], noise)
    assert subject(patches) == WHOLE
    assert regions(patches, 5) == []


@pytest.mark.parametrize("thing", [(1, 1, 13, 12), (1, 1, 13, 13)])
def test_a_thing_that_nearly_fills_the_frame_is_the_frame(thing: Cells) -> None:
    assert subject(with_things([thing])) == WHOLE


@pytest.mark.parametrize("side", [1, 2, 3])
def test_a_map_of_hardly_more_than_a_border_is_the_whole_picture(side: int) -> None:
    patches = unit(background(2.0, side=side).reshape(-1, DIM))
    assert regions(patches, 5) == []
    if side < 3:
        assert subject(patches) == WHOLE


def test_patches_of_zeros_are_calm() -> None:
    zeros = np.zeros((SIDE**2, DIM), np.float32)
    assert subject(zeros) == WHOLE
    assert regions(zeros, 5) == []


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    side=st.integers(1, 16),
    noise=st.sampled_from([0.0, 0.1, 1.0, 10.0]),
    zeros=st.booleans(),
)
def test_boxes_lie_in_the_picture_and_are_not_empty(
    seed: int, side: int, noise: float, zeros: bool
) -> None:
    patches = unit(background(noise, seed, side).reshape(-1, DIM))
    if zeros:
        patches[::3] = 0
    for box in (subject(patches), *regions(patches, 5)):
        assert 0 <= box.left < box.right <= 1
        assert 0 <= box.top < box.bottom <= 1
