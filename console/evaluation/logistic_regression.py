"""Fits the logistic model of one verdict level."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from likeness.proof.verdicts import LevelModel, sigmoid

# Slight regularisation: perfectly separable pairs have no finite best weights.
_RIDGE = 1e-2
_STEPS = 50
# The threshold is this far above the highest probability that must not be claimed.
_MARGIN = 1e-9


def fit(
    rows: NDArray[np.float64], close: NDArray[np.bool_], max_false_rate: float | None = None
) -> LevelModel:
    """Maximum likelihood of `close` (N,) given features (N, F), by Newton's method.

    Both classes weigh the same, however many pairs each has. `max_false_rate`: the largest share of
    pairs that are not close which may be claimed to be; the threshold rises until that holds.
    """
    design = np.column_stack([rows, np.ones(len(rows))])
    target = close.astype(np.float64)
    share = np.where(close, 0.5 / max(1, close.sum()), 0.5 / max(1, (~close).sum())) * len(rows)
    weights = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        probability = sigmoid(design @ weights)
        gradient = design.T @ (share * (probability - target)) + _RIDGE * weights
        hessian = (design * (share * probability * (1 - probability))[:, None]).T @ design
        step = np.linalg.solve(hessian + _RIDGE * np.eye(len(weights)), gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    threshold = 0.5
    if max_false_rate is not None and (~close).any():
        false = np.sort(sigmoid(design[~close] @ weights))[::-1]
        allowed = int(max_false_rate * len(false))
        if allowed < len(false):
            threshold = max(threshold, float(false[allowed]) + _MARGIN)
    return LevelModel(tuple(float(w) for w in weights[:-1]), float(weights[-1]), threshold)
