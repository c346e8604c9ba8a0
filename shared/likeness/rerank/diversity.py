"""Diversity: a result must be near to the query and unlike those that stand before it.

Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998, section 2). The caller brings
several times as many candidates as it keeps, or only their order would change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def diversify(
    scores: NDArray[np.float32], candidates: NDArray[np.float32], keep: int, diversity: float
) -> NDArray[np.intp]:
    """The numbers of the `keep` candidates to show, in that order.

    scores (M,), higher is nearer; candidates float32 (M, D), unit rows. `diversity` 0 keeps the
    order of the scores, 1 looks at nothing but unlikeness once the first is chosen.
    """
    left = np.ones(len(scores), bool)
    closest = np.zeros(len(scores), np.float32)
    chosen: list[int] = []
    for _ in range(min(keep, len(scores))):
        gain = (1 - diversity) * scores - diversity * closest if chosen else scores
        best = int(np.where(left, gain, -np.inf).argmax())
        chosen.append(best)
        left[best] = False
        likeness = candidates @ candidates[best]
        closest = likeness if len(chosen) == 1 else np.maximum(closest, likeness)
    return np.array(chosen, np.intp)
