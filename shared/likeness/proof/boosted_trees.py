"""Boosted decision trees: what a fitted model says of one row of features.

They are fitted in training/ with constraints: the score never falls as evidence rises. Beyond what
the training pairs had, a tree's answer stays what it was at the edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nodes by number, the root is 0. Where `feature` is negative the node is a leaf of this
    `value`; else a feature up to `threshold` leads to `left`, a larger one to `right`.
    """

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]

    def score(self, row: Sequence[float]) -> float:
        node = 0
        while self.feature[node] >= 0:
            smaller = row[self.feature[node]] <= self.threshold[node]
            node = self.left[node] if smaller else self.right[node]
        return self.value[node]


class BoostedTrees(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Log-odds: the sum of the trees' scores, and `bias`."""

    bias: float
    trees: tuple[Tree, ...]

    def score(self, row: Sequence[float]) -> float:
        return self.bias + sum(tree.score(row) for tree in self.trees)


class PixelModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """pixel_model.json: for each level the trees that score a pair's facts, and the threshold on
    their log-odds from which the level is claimed.
    """

    facts: tuple[str, ...]
    levels: Mapping[str, BoostedTrees]
    thresholds: Mapping[str, float]
    made_from: str
