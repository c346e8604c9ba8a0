"""Ranking metrics on rankings that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from console.evaluation.metrics import estimate, rank, reliability


def test_metrics_of_a_ranking_worked_out_by_hand() -> None:
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.1, 0.9, 0.5, 0.3]])
    relevant = np.array([[True, False, True, False], [False, False, False, True]])
    found = rank(scores, relevant)
    assert found.at_1.tolist() == [1, 0]
    assert found.at_5.tolist() == [1, 1]
    assert found.average_precision.tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 3])


def test_the_fifth_place_counts_and_the_sixth_does_not() -> None:
    scores = -np.arange(12.0)[None]
    for place, within_5, within_10 in ((4, 1, 1), (5, 0, 1), (9, 0, 1), (10, 0, 0)):
        found = rank(scores, np.arange(12)[None] == place)
        assert (found.at_5.tolist(), found.at_10.tolist()) == ([within_5], [within_10])


def test_equal_scores_count_against_the_method() -> None:
    found = rank(np.zeros((1, 4)), np.array([[True, False, False, False]]))
    assert (found.at_1[0], found.average_precision[0]) == (0, 0.25)


def test_ignored_pairs_are_neither_hits_nor_misses() -> None:
    scores = np.array([[0.9, 0.8, 0.7]])
    relevant = np.array([[True, False, True]])
    ignored = np.array([[True, True, False]])
    assert rank(scores, relevant, ignored).at_1.tolist() == [1]
    assert rank(scores, np.array([[True, False, False]]), ignored).average_precision.tolist() == [0]


def test_a_query_without_a_right_answer_counts_zero() -> None:
    found = rank(np.ones((1, 3)), np.zeros((1, 3), bool))
    assert (found.at_1[0], found.at_5[0], found.average_precision[0]) == (0, 0, 0)


def test_the_interval_holds_the_mean_and_is_the_same_at_every_run() -> None:
    values = np.random.default_rng(0).random(200)
    found = estimate(values, np.arange(200))
    assert found.low < found.mean < found.high
    assert found == estimate(values, np.arange(200))
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 200**0.5, rel=0.1)


def test_photos_that_err_together_widen_the_interval() -> None:
    groups = np.repeat(np.arange(20), 10)
    values = np.random.default_rng(1).integers(0, 2, 20).astype(float)[groups]
    by_photo = estimate(values, np.arange(200))
    by_group = estimate(values, groups)
    assert by_group.high - by_group.low > 2 * (by_photo.high - by_photo.low)


def test_it_reads_as_a_figure_with_its_interval() -> None:
    assert str(estimate(np.ones(4), np.arange(4))) == "1.000 [1.000, 1.000]"


def test_reliability_of_claims_worked_out_by_hand() -> None:
    claimed = np.array([0.05, 0.09, 0.62, 0.68, 1.0])
    held = np.array([False, False, True, False, True])
    found = reliability(claimed, held)
    told = [(b.low, b.high, b.count, b.held) for b in found.bins]
    assert told == [(0, 0.1, 2, 0), (0.6, 0.7, 2, 0.5), (0.9, 1, 1, 1)]
    assert [b.claimed for b in found.bins] == pytest.approx([0.07, 0.65, 1])
    assert found.error == pytest.approx((2 * 0.07 + 2 * 0.15 + 0) / 5)


def test_claims_that_hold_as_often_as_they_say_have_no_error() -> None:
    rng = np.random.default_rng(0)
    claimed = rng.random(50_000)
    honest = reliability(claimed, rng.random(50_000) < claimed)
    bold = reliability(claimed, rng.random(50_000) < claimed / 2)
    assert honest.error < 0.01
    assert bold.error == pytest.approx(0.25, abs=0.01)
