"""The population stability index: values calculated by hand, and its mathematical properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.answer_shift import BANDS, AnswerDistribution, band, shift
from likeness.answer_shift import population_stability_index as psi

COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10_000), min_size=1, max_size=6)


def test_equal_distributions_have_no_distance() -> None:
    assert psi({"a": 1, "b": 3}, {"a": 250, "b": 750}) == 0


def test_a_shift_equals_the_value_calculated_by_hand() -> None:
    by_hand = (0.4 - 0.5) * math.log(0.4 / 0.5) + (0.6 - 0.5) * math.log(0.6 / 0.5)
    assert psi({"a": 50, "b": 50}, {"a": 40, "b": 60}) == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.0405, abs=1e-4)


def test_a_class_that_is_missing_on_one_side_gives_a_large_finite_index() -> None:
    assert 0.25 < psi({"copy": 100}, {"copy": 80, "empty": 20}) < 10


@given(COUNTS, COUNTS)
def test_the_index_is_symmetric_and_never_negative(
    one: dict[str, int], other: dict[str, int]
) -> None:
    assert psi(one, other) >= 0
    assert psi(one, other) == pytest.approx(psi(other, one))


@pytest.mark.parametrize("empty", [{}, {"a": 0}])
def test_an_empty_distribution_is_refused(empty: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="empty"):
        psi({"a": 1}, empty)


@pytest.mark.parametrize(
    ("score", "name"),
    [(-1, "0.0"), (0.05, "0.0"), (0.5, "0.5"), (0.999, "0.9"), (1.0000001, "0.9")],
)
def test_every_cosine_belongs_to_a_band(score: float, name: str) -> None:
    assert band(score) == name and name in BANDS


def test_the_shift_is_the_larger_one_of_both_distributions() -> None:
    usual = AnswerDistribution({"copy": 900, "empty": 100}, {"0.9": 900})
    emptier = AnswerDistribution({"copy": 600, "empty": 400}, {"0.9": 600})
    weaker = AnswerDistribution({"copy": 900, "empty": 100}, {"0.9": 450, "0.5": 450})
    assert shift(usual, usual) == 0
    assert shift(usual, emptier) == psi(usual.verdicts, emptier.verdicts) > 0.25
    assert shift(usual, weaker) == psi(usual.bands, weaker.bands) > 0.25
