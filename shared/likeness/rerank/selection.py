"""Which of a ranked list's rows are shown: pure functions over scores and values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray


def above_relative(scores: NDArray[np.floating], share: float) -> int:
    """How many of the scores (K,), best first, reach this share of the best.

    A best score below zero allows as much of a fall as one above it: the best itself always stays.
    """
    if not len(scores):
        return 0
    below = np.flatnonzero(scores < scores[0] - (1 - share) * abs(scores[0]))
    return int(below[0]) if len(below) else len(scores)


def above_gap(scores: NDArray[np.floating], gap: float) -> int:
    """How many of the scores (K,), best first, come before the first fall of at least `gap`."""
    falls = np.flatnonzero(scores[:-1] - scores[1:] >= gap)
    return int(falls[0]) + 1 if len(falls) else len(scores)


def grouped(values: Sequence[Hashable | None], size: int) -> list[int]:
    """The rows to show, best first: the groups in the order of their best, `size` rows of each.

    A row without a value belongs to no group and is left out, as Qdrant does it.
    """
    first: dict[Hashable, int] = {}
    taken: Counter[Hashable] = Counter()
    kept = []
    for row, value in enumerate(values):
        if value is None or taken[value] == size:
            continue
        taken[value] += 1
        kept.append((first.setdefault(value, row), row))
    return [row for _, row in sorted(kept)]
