"""Late interaction: every patch of one image looks for its best counterpart in the other.

ColBERT's MaxSim (Khattab and Zaharia, SIGIR 2020, section 3.2), averaged over both directions. It
wants coarse, semantic descriptors: on fine ones it hurts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
