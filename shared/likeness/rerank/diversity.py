"""Diversity: a result must be near the query and unlike the results before it.

Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998, section 2). Pass several times as
many candidates as are kept, or only their order changes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def diversify(
    scores: NDArray[np.float32], candidates: NDArray[np.float32], keep: int, diversity: float
) -> NDArray[np.intp]:
    """The numbers of the `keep` candidates to show, in that order.

    scores (M,), higher is nearer; candidates float32 (M, D), unit rows. `diversity` 0 keeps the
    order of the scores; 1 considers only dissimilarity once the first is chosen.
    """
    remaining = np.ones(len(scores), bool)
    closest = np.zeros(len(scores), np.float32)
    chosen: list[int] = []
    for _ in range(min(keep, len(scores))):
        gain = (1 - diversity) * scores - diversity * closest if chosen else scores
        best = int(np.where(remaining, gain, -np.inf).argmax())
        chosen.append(best)
        remaining[best] = False
        similarity = candidates @ candidates[best]
        closest = similarity if len(chosen) == 1 else np.maximum(closest, similarity)
    return np.array(chosen, np.intp)
