"""Rerank stages on constructed truth, and what must hold whatever the candidates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from console.evaluation.k_reciprocal import reciprocal
from console.evaluation.late_interaction import max_similarity
from console.evaluation.query_expansion import expand
from likeness.rerank.diversity import diversify
from likeness.rerank.refinement import NEIGHBOURS, refine
from tests.image_features import unit

Array = NDArray[np.float32]
STAGES = {"refine": refine, "reciprocal": reciprocal}


def cluster(seed: int, count: int, spread: float, dim: int = 32) -> Array:
    """Unit vectors around a random direction."""
    rng = np.random.default_rng(seed)
    return unit(unit(rng.normal(size=dim)) + rng.normal(0, spread / dim**0.5, (count, dim)))


def hard_list() -> tuple[Array, Array, NDArray[np.bool_]]:
    """A query at the rim of its own cluster, and loners that are nearer to it than some members."""
    members = cluster(1, 12, 0.5)
    query = unit(members[0] + 0.6 * cluster(2, 1, 0)[0])
    loners = unit(query + np.random.default_rng(3).normal(0, 0.18, (12, 32)))
    return query, np.concatenate([members[1:], loners]), np.arange(23) < 11


def order(scores: Array) -> list[int]:
    return np.argsort(-scores, kind="stable").tolist()


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_members_of_one_cluster_lift_each_other_above_loners(
    stage: Callable[[Array, Array], Array],
) -> None:
    query, candidates, right = hard_list()
    before = right[order(candidates @ query)[:11]].mean()
    after = right[order(stage(query, candidates))[:11]].mean()
    assert before < 0.75
    assert after > before + 0.05


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(0, 40), doubled=st.booleans())
def test_scores_are_finite_and_follow_their_candidates(
    stage: Callable[[Array, Array], Array], seed: int, count: int, doubled: bool
) -> None:
    rng = np.random.default_rng(seed)
    query, candidates = unit(rng.normal(size=16)), unit(rng.normal(size=(count, 16)))
    if doubled:
        candidates = np.concatenate([candidates, candidates])
    scores = stage(query, candidates)
    assert scores.shape == (len(candidates),)
    assert np.isfinite(scores).all()
    shuffle = rng.permutation(len(candidates))
    if not doubled:  # which of two equal neighbours comes first may then change a set's last member
        np.testing.assert_allclose(stage(query, candidates[shuffle]), scores[shuffle], atol=1e-5)


def test_a_list_of_one_answer_keeps_it() -> None:
    query = cluster(1, 1, 0)[0]
    assert refine(query, query[None]).argmax() == 0
    assert reciprocal(query, query[None]).argmax() == 0


def test_refinement_is_worked_out_as_by_hand() -> None:
    """Each is a mean of itself and of its neighbours, 0.15 times as heavy as they are near."""
    query = np.array([1, 0], np.float32)
    candidates = np.array([[1, 0], [0.6, 0.8], [0, -1]], np.float32)
    # at or below a cosine of zero a neighbour weighs nothing: the third stays as it is
    weight = 0.15 * 0.6
    one = (candidates[0] + weight * candidates[1]) / (1 + weight)
    two = (candidates[1] + weight * candidates[0]) / (1 + weight)
    refined = np.stack([one, two, candidates[2]])
    best = refined.max(axis=0)
    np.testing.assert_allclose(
        refine(query, candidates), (refined @ query + refined @ best) / 2, atol=1e-6
    )


def test_of_a_long_list_only_the_nearest_neighbours_support_a_candidate() -> None:
    """More strangers than before change nothing for the members of a cluster."""
    query = cluster(1, 1, 0)[0]
    near, far = cluster(1, NEIGHBOURS + 1, 0.3), cluster(2, 5, 0.3)
    few = refine(query, np.concatenate([near, far]))
    many = refine(query, np.concatenate([near, far, far, far]))
    np.testing.assert_allclose(many[: len(near)], few[: len(near)], atol=1e-6)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 20), times=st.integers(2, 4))
def test_candidates_that_are_there_several_times_score_the_same(
    stage: Callable[[Array, Array], Array], seed: int, count: int, times: int
) -> None:
    rng = np.random.default_rng(seed)
    query, candidates = unit(rng.normal(size=16)), unit(rng.normal(size=(count, 16)))
    scores = stage(query, np.tile(candidates, (times, 1))).reshape(times, count)
    np.testing.assert_allclose(scores, np.broadcast_to(scores[0], scores.shape), atol=1e-5)


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(1, 30), share=st.floats(0, 1))
def test_rows_of_zeros_and_a_query_of_zeros_are_borne(
    stage: Callable[[Array, Array], Array], seed: int, count: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    candidates = unit(rng.normal(size=(count, 16)))
    candidates[rng.random(count) < share] = 0
    for query in (unit(rng.normal(size=16)), np.zeros(16, np.float32)):
        assert np.isfinite(stage(query, candidates)).all()


def test_late_interaction_of_an_image_with_itself_is_one() -> None:
    patches = cluster(1, 49, 3.0)
    assert max_similarity(patches, patches[None])[0] == pytest.approx(1, abs=1e-6)


def test_late_interaction_does_not_mind_where_patches_are() -> None:
    patches = cluster(2, 49, 3.0)
    shuffled = np.random.default_rng(0).permutation(patches)
    other = cluster(3, 49, 3.0)
    scores = max_similarity(patches, np.stack([shuffled, other]))
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert scores[1] < 0.7


def test_late_interaction_sees_an_object_in_a_cluttered_image() -> None:
    """Half of the patches are shared: better than none, less than all."""
    query, clutter = cluster(4, 49, 3.0), cluster(5, 49, 3.0)
    half = np.concatenate([query[:25], clutter[25:]])
    none, some, every = max_similarity(query, np.stack([clutter, half, query]))
    assert none < some < every


def test_late_interaction_is_worked_out_as_by_hand() -> None:
    query = np.eye(3, dtype=np.float32)[:2]
    candidate = np.array([[[0.6, 0.8, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]], np.float32)
    of_query, of_candidate = (1.0 + 0.8) / 2, (0.8 + 0.0 + 1.0) / 3
    assert max_similarity(query, candidate)[0] == pytest.approx((of_query + of_candidate) / 2)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 1000),
    sizes=st.tuples(st.integers(1, 10), st.integers(1, 10), st.integers(0, 10)),
    zeros=st.booleans(),
)
def test_late_interaction_is_finite_and_follows_its_candidates(
    seed: int, sizes: tuple[int, int, int], zeros: bool
) -> None:
    rng = np.random.default_rng(seed)
    mine, theirs, count = sizes
    query, candidates = unit(rng.normal(size=(mine, 8))), unit(rng.normal(size=(count, theirs, 8)))
    if zeros:
        query[0], candidates[:, 0] = 0, 0
    scores = max_similarity(query, candidates)
    assert scores.shape == (count,)
    assert (np.abs(scores) <= 1 + 1e-6).all()
    shuffle = rng.permutation(count)
    np.testing.assert_allclose(
        max_similarity(query, candidates[shuffle]), scores[shuffle], atol=1e-6
    )
    twice = max_similarity(query, np.concatenate([candidates, candidates]))
    np.testing.assert_allclose(twice, np.tile(scores, 2), atol=1e-6)


def test_expansion_turns_the_query_towards_its_answers() -> None:
    query, candidates, right = hard_list()
    expanded = expand(query, candidates[order(candidates @ query)])
    centre = unit(candidates[right].mean(axis=0))
    assert np.linalg.norm(expanded) == pytest.approx(1, abs=1e-6)
    assert expanded @ centre > query @ centre


def test_expansion_without_answers_is_the_query() -> None:
    query = cluster(1, 1, 0)[0]
    np.testing.assert_allclose(expand(query, np.zeros((0, 32), np.float32)), query, atol=1e-6)


def test_no_diversity_keeps_the_order_of_the_scores() -> None:
    candidates = cluster(1, 8, 1.0)
    scores = np.random.default_rng(0).random(8).astype(np.float32)
    assert diversify(scores, candidates, 5, 0.0).tolist() == order(scores)[:5]


def test_of_two_copies_one_waits_until_the_others_were_shown() -> None:
    candidates = np.concatenate([np.repeat(cluster(1, 1, 0), 2, axis=0), cluster(2, 1, 0)])
    scores = np.array([0.9, 0.89, 0.5], np.float32)
    assert diversify(scores, candidates, 3, 0.5).tolist() == [0, 2, 1]


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(0, 20),
    keep=st.integers(0, 30),
    diversity=st.floats(0, 1),
)
def test_no_candidate_is_shown_twice(seed: int, count: int, keep: int, diversity: float) -> None:
    rng = np.random.default_rng(seed)
    candidates = unit(rng.normal(size=(count, 8)))
    chosen = diversify(rng.random(count).astype(np.float32), candidates, keep, diversity).tolist()
    assert len(chosen) == len(set(chosen)) == min(keep, count)
