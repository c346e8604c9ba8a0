"""Which rows of a ranked list are shown: cutoffs and groups."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.rerank.selection import above_gap, above_relative, grouped

SCORES = np.array([0.8, 0.6, 0.4, 0.39, 0.1], np.float32)
DESCENDING = st.lists(st.floats(-1, 2, width=32), max_size=20).map(
    lambda scores: np.array(sorted(scores, reverse=True), np.float32)
)


@pytest.mark.parametrize(("share", "kept"), [(1.0, 1), (0.75, 2), (0.5, 3), (0.3, 4), (0.0, 5)])
def test_a_list_ends_below_a_share_of_its_best_score(share: float, kept: int) -> None:
    assert above_relative(SCORES, share) == kept


def test_a_score_of_just_the_share_stays() -> None:
    assert above_relative(np.array([1.0, 0.5, 0.25], np.float32), 0.5) == 2


def test_a_best_score_below_zero_stays_and_allows_the_same_fall() -> None:
    """Half of −0.2 is above it: the list would have no end to begin from."""
    assert above_relative(np.array([-0.2, -0.29, -0.31], np.float32), 0.5) == 2


@pytest.mark.parametrize(("gap", "kept"), [(0.05, 1), (0.19, 1), (0.25, 4), (0.28, 4), (0.3, 5)])
def test_a_list_ends_before_its_first_fall_of_a_gap(gap: float, kept: int) -> None:
    assert above_gap(SCORES, gap) == kept


def test_a_fall_of_just_the_gap_ends_the_list() -> None:
    assert above_gap(np.array([1.0, 0.75, 0.5], np.float32), 0.25) == 1


def test_equal_scores_are_never_parted() -> None:
    assert above_relative(np.full(4, 0.3, np.float32), 1.0) == 4
    assert above_gap(np.full(4, 0.3, np.float32), 1e-6) == 4


def test_an_empty_list_stays_empty() -> None:
    nothing = np.zeros(0, np.float32)
    assert above_relative(nothing, 0.5) == above_gap(nothing, 0.5) == 0
    assert grouped([], 2) == []


@given(scores=DESCENDING, share=st.floats(0, 1))
def test_what_is_kept_and_what_is_not_lie_on_either_side_of_the_share(
    scores: np.ndarray, share: float
) -> None:
    kept = above_relative(scores, share)
    assert kept >= min(1, len(scores))
    if len(scores):
        limit = scores[0] - (1 - share) * abs(scores[0])
        assert (scores[:kept] >= limit).all()
        assert (scores[kept:] < limit).all()


@given(scores=DESCENDING, gap=st.floats(0.001, 2))
def test_only_the_last_row_kept_stands_before_a_gap(scores: np.ndarray, gap: float) -> None:
    kept = above_gap(scores, gap)
    falls = scores[:-1] - scores[1:]
    assert (falls[: max(0, kept - 1)] < gap).all()
    if kept < len(scores):
        assert falls[kept - 1] >= gap


def test_groups_come_in_the_order_of_their_best_row() -> None:
    values = ["b", "a", "b", "c", "a", "b"]
    assert grouped(values, 1) == [0, 1, 3]
    assert grouped(values, 2) == [0, 2, 1, 4, 3]
    assert grouped(values, 3) == [0, 2, 5, 1, 4, 3]


def test_rows_without_a_value_are_left_out() -> None:
    assert grouped([None, "a", None, "b", None], 5) == [1, 3]


def test_zero_and_no_text_are_values() -> None:
    assert grouped([0, "", 0, None], 5) == [0, 2, 1]


@given(values=st.lists(st.sampled_from(["a", "b", "c", 0, None]), max_size=30), size=st.integers(1))
def test_each_group_is_whole_up_to_its_size_and_in_order(
    values: list[str | int | None], size: int
) -> None:
    rows = grouped(values, size)
    shown = [values[row] for row in rows]
    for value, count in Counter(values).items():
        mine = [row for row in rows if values[row] == value]
        every = [row for row, other in enumerate(values) if other == value]
        assert mine == ([] if value is None else every[: min(size, count)])
    assert list(dict.fromkeys(shown)) == list(dict.fromkeys(v for v in values if v is not None))
    assert shown == sorted(shown, key=list(dict.fromkeys(shown)).index)
