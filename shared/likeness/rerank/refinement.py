"""Global refinement: candidates that agree with each other support each other.

SuperGlobal (Shao et al., ICCV 2023, arXiv 2308.06954, section 3.3), without its regional pooling:
each candidate's vector is drawn towards its neighbours in the list, and the query towards the best.
It assumes several right answers a query; with one picture of each product it costs accuracy alone,
but not as half of the global score (decision 0030).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 9
_SUPPORT = 0.15  # β: what a neighbour counts, times its cosine


def refine(queries: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float32]:
    """New scores (…, M) of M candidates.

    queries float32 (…, D), one or several views, and candidates (M, D): unit rows, in any order.
    """
    if not len(candidates):
        return np.zeros((*queries.shape[:-1], 0), np.float32)
    similarity = candidates @ candidates.T
    kept = min(NEIGHBOURS + 1, len(candidates))
    # each candidate is its own nearest neighbour: it counts 1, the others β · cosine
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
