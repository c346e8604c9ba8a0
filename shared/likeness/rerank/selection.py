"""Which of a ranked list's rows are shown: pure functions over scores and values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def above_relative(scores: NDArray[np.floating], share: float) -> int:
    """How many of the scores (K,), best first, reach this share of the best.

    A negative best score allows as large a drop as a positive one, so that the best always stays.
    """
    if not len(scores):
        return 0
    lower = np.flatnonzero(scores < scores[0] - (1 - share) * abs(scores[0]))
    return int(lower[0]) if len(lower) else len(scores)


def above_gap(scores: NDArray[np.floating], gap: float) -> int:
    """How many of the scores (K,), best first, come before the first drop of at least `gap`."""
    drops = np.flatnonzero(scores[:-1] - scores[1:] >= gap)
    return int(drops[0]) + 1 if len(drops) else len(scores)


def grouped(values: Sequence[Hashable | None], size: int) -> list[int]:
    """The rows to show: groups in the order of their best row, at most `size` rows of each.

    A row without a value belongs to no group and is left out, as in Qdrant's grouping.
    """
    first: dict[Hashable, int] = {}
    sizes: Counter[Hashable] = Counter()
    kept = []
    for row, value in enumerate(values):
        if value is None or sizes[value] == size:
            continue
        sizes[value] += 1
        kept.append((first.setdefault(value, row), row))
    return [row for _, row in sorted(kept)]
