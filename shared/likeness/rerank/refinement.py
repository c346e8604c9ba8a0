"""Global refinement: candidates that agree with each other support each other.

SuperGlobal (Shao et al., ICCV 2023, arXiv 2308.06954, section 3.3), without its regional pooling:
each candidate's vector is drawn towards its neighbours in the list, and the query towards the best.
It assumes several right answers per query; with one image of each product it loses accuracy on its
own, but not as half of the global score (decision 0030).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from likeness.rerank.stage import Order, RankingTask, StageResult

NEIGHBOURS = 9
_SUPPORT = 0.15  # β: the weight of a neighbour, times its cosine


def mix_in_refined_scores(task: RankingTask, _: Order) -> StageResult:
    """The stage: a weighted mean of cosine and refined score, each candidate with its best view."""
    assert task.calibration
    queries = np.stack([view.vector for view in task.views])
    refined = refine(queries, task.vectors)
    share = np.float32(task.calibration.refinement)
    mixed = (1 - share) * task.cosines + share * refined
    return StageResult(Order.by_best_view(mixed), refined.max(axis=0))


def refine(queries: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float32]:
    """New scores (…, M) of M candidates.

    queries float32 (…, D), one or several views, and candidates (M, D): unit rows, in any order.
    """
    if not len(candidates):
        return np.zeros((*queries.shape[:-1], 0), np.float32)
    similarity = candidates @ candidates.T
    kept = min(NEIGHBOURS + 1, len(candidates))
    # each candidate is its own nearest neighbour, with weight 1; the others have β · cosine
    nearest = np.argpartition(-similarity, kept - 1, axis=1)[:, :kept]
    rows = np.arange(len(candidates))[:, None]
    weights = np.zeros_like(similarity)
    weights[rows, nearest] = _SUPPORT * np.maximum(0, similarity[rows, nearest])
    np.fill_diagonal(weights, 1)
    refined = (weights @ candidates) / weights.sum(axis=1, keepdims=True)
    first = queries @ refined.T
    best = np.argpartition(-first, kept - 1, axis=-1)[..., :kept]
    expanded = refined[best].max(axis=-2)
    return np.asarray((first + expanded @ refined.T) / 2, np.float32)
