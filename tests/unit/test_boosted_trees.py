"""Boosted trees: scores of rows."""

from __future__ import annotations

from likeness.proof.boosted_trees import BoostedTrees, Tree

STEP = Tree(
    feature=(0, -1, 1, -1, -1),
    threshold=(0.5, 0, 10, 0, 0),
    left=(1, 0, 3, 0, 0),
    right=(2, 0, 4, 0, 0),
    value=(0, -1.0, 0, 0.25, 2.0),
)


def test_a_tree_sends_what_equals_its_threshold_to_the_left() -> None:
    assert STEP.score((0.5, 99)) == -1
    assert STEP.score((0.6, 10)) == 0.25
    assert STEP.score((0.6, 11)) == 2


def test_the_score_is_the_sum_of_the_trees_and_the_bias() -> None:
    assert BoostedTrees(0.5, (STEP, STEP)).score((1, 11)) == 4.5
    assert BoostedTrees(-3, ()).score((1, 11)) == -3
