"""Query expansion: search again with the mean of the query and its best results.

Average query expansion weighted by similarity (αQE; Radenović, Tolias and Chum, PAMI 2019, section
3.4).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 10
POWER = 3.0


def expand(query: NDArray[np.float32], nearest: NDArray[np.float32]) -> NDArray[np.float32]:
    """A new query (D,) of unit length, from the query (D,) and its nearest (M, D), best first."""
    best = nearest[:NEIGHBOURS]
    weights = np.maximum(0, best @ query) ** POWER
    total = query + weights @ best
    return np.asarray(total / np.linalg.norm(total), np.float32)
