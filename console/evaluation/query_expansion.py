"""Query expansion: ask again with the mean of the query and its best answers.

Average query expansion weighted by similarity (αQE; Radenović, Tolias and Chum, PAMI 2019, section
3.4).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 10
POWER = 3.0


def expand(query: NDArray[np.float32], nearest: NDArray[np.float32]) -> NDArray[np.float32]:
    """A new query (D,), unit length: query (D,) and its nearest (M, D), unit rows, best first."""
    taken = nearest[:NEIGHBOURS]
    weights = np.maximum(0, taken @ query) ** POWER
    total = query + weights @ taken
    return np.asarray(total / np.linalg.norm(total), np.float32)
