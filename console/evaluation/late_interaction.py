"""Late interaction: every patch of one image is compared with its best counterpart in the other.

ColBERT's MaxSim (Khattab and Zaharia, SIGIR 2020, section 3.2), averaged over both directions. It
needs coarse, semantic descriptors: with fine ones it loses accuracy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from likeness.rerank.stage import Order, RankingTask, StageResult


def add_late_interaction(task: RankingTask, order: Order) -> StageResult:
    """The stage: the whole frame's patches, with the weight of the score so far."""
    query, candidates = task.views[0].patches, [image.patches for image in task.candidates]
    assert query is not None
    similarity = max_similarity(query, np.stack([p for p in candidates if p is not None]))
    return StageResult(Order(order.score + similarity, order.view), similarity)


def max_similarity(
    query: NDArray[np.float32], candidates: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Scores (K,) from −1 to 1 of K candidates.

    query float32 (n, D) and candidates (K, m, D): unit rows.
    """
    count, rows, dim = candidates.shape
    cosines = (candidates.reshape(-1, dim) @ query.T).reshape(count, rows, len(query))
    both = cosines.max(axis=1).mean(axis=1) + cosines.max(axis=2).mean(axis=1)
    return np.asarray(both / 2, np.float32)
