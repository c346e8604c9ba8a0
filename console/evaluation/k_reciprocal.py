"""k-reciprocal encoding: two images belong together if each is among the other's neighbours.

Zhong et al., CVPR 2017 (arXiv 1701.08398), section 3, over the candidate list alone: k1 = 20,
k2 = 6, and the final distance keeps λ = 0.3 of the original one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from likeness.rerank.stage import Order, RankingTask, StageResult

K1, K2, ORIGINAL = 20, 6, 0.3


def score_by_k_reciprocal(task: RankingTask, _: Order) -> StageResult:
    """The stage: each candidate's score with its best view, in place of the cosine."""
    scores = np.stack([reciprocal(view.vector, task.vectors) for view in task.views])
    order = Order.by_best_view(scores)
    return StageResult(order, order.score)


def reciprocal(query: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float32]:
    """New scores (M,), higher is nearer, of M candidates.

    query float32 (D,) and candidates (M, D): unit rows.
    """
    every = np.concatenate([query[None], candidates])
    cosines = every @ every.T
    encoded = _encoded(cosines)
    encoded = _averaged(encoded, cosines)
    overlap = np.minimum(encoded[:1], encoded[1:]).sum(axis=1)
    union = np.maximum(encoded[:1], encoded[1:]).sum(axis=1)
    jaccard = overlap / np.maximum(union, 1e-12)
    distance = (1 - ORIGINAL) * (1 - jaccard) + ORIGINAL * (1 - cosines[0, 1:])
    return np.asarray(1 - distance, np.float32)


def _reciprocal_sets(cosines: NDArray[np.float32], k: int) -> NDArray[np.bool_]:
    """(M, M): whether both are among the other's k nearest (eq. 4)."""
    k = min(k + 1, len(cosines))
    nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    near = np.zeros(cosines.shape, bool)
    np.put_along_axis(near, nearest, True, axis=1)
    np.fill_diagonal(near, True)  # even among more equal rows than k, and for rows of zeros
    return near & near.T


def _encoded(cosines: NDArray[np.float32]) -> NDArray[np.float64]:
    """Weights of each image's k-reciprocal neighbours, the sets grown as in eq. 5."""
    core, half = _reciprocal_sets(cosines, K1), _reciprocal_sets(cosines, K1 // 2)
    shared = core.astype(np.float64) @ half.T.astype(np.float64)
    joins = core & (shared >= 2 / 3 * half.sum(axis=1)[None])
    grown = core | (joins.astype(np.float64) @ half.astype(np.float64) > 0)
    weights = np.where(grown, np.exp(-(2 - 2 * cosines.astype(np.float64))), 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float64)


def _averaged(encoded: NDArray[np.float64], cosines: NDArray[np.float32]) -> NDArray[np.float64]:
    """Local query expansion: the mean code of the K2 nearest (section 3.5)."""
    k = min(K2, len(cosines))
    nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    return np.asarray(encoded[nearest].mean(axis=1))
