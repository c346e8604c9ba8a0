"""Fits the logistic model of one verdict level, whose weights never speak against sameness."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from likeness.proof.verdicts import LevelModel, sigmoid

Floats = NDArray[np.float64]

# Slight regularisation: perfectly separable pairs have no finite best weights.
_RIDGE = 1e-2
_STEPS = 100
_HALVINGS = 30


def fit(
    rows: Floats,
    close: NDArray[np.bool_],
    importance: Floats | None = None,
    prior: LevelModel | None = None,
    strength: float = _RIDGE,
) -> LevelModel:
    """The most likely model of `close` (N,) given features (N, F), with weights from 0 up.

    Every feature speaks for sameness, so that more of it never makes a pair less close, however far
    a pair is from all that were learnt from. importance (N,): how much each pair counts; without
    it, both classes count the same. `strength`: how many pairs the `prior` is worth.

    Newton's method on the weights that may move (Bertsekas, SIAM J. Control 20(2), 1982).
    """
    design = np.column_stack([rows, np.ones(len(rows))])
    centre = np.zeros(design.shape[1])
    if prior:
        centre[:] = *prior.weights, prior.bias
    problem = _Problem(
        design,
        close.astype(np.float64),
        _balanced(close) if importance is None else importance,
        centre,
        strength,
    )
    weights = problem.minimum(centre)
    return LevelModel(tuple(float(w) for w in weights[:-1]), float(weights[-1]))


class _Problem:
    """Weighted negative log-likelihood of a logistic model, with a normal prior on its weights.

    The last weight, the bias, may be negative.
    """

    def __init__(
        self, design: Floats, target: Floats, importance: Floats, centre: Floats, strength: float
    ) -> None:
        self._design, self._target, self._importance = design, target, importance
        self._centre, self._strength = centre, strength

    def minimum(self, start: Floats) -> Floats:
        weights = start
        for _ in range(_STEPS):
            moved = self._moved(weights)
            if np.abs(moved - weights).max() < 1e-8:
                break
            weights = moved
        return weights

    def _moved(self, weights: Floats) -> Floats:
        """One step: as far towards the Newton point, within the bounds, as makes it less."""
        gradient, hessian = self._derivatives(weights)
        free = (weights > 0) | (gradient < 0)
        free[-1] = True
        step = np.zeros_like(weights)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        before = self._cost(weights)
        for halving in range(_HALVINGS):
            moved = np.asarray(weights - step / 2**halving)
            moved[:-1] = np.maximum(0, moved[:-1])
            if self._cost(moved) <= before:
                return moved
        return weights

    def _derivatives(self, weights: Floats) -> tuple[Floats, Floats]:
        probability = sigmoid(self._design @ weights)
        error = self._importance * (probability - self._target)
        curvature = self._importance * probability * (1 - probability)
        hessian = (self._design * curvature[:, None]).T @ self._design
        return (
            self._design.T @ error + self._strength * (weights - self._centre),
            hessian + self._strength * np.eye(len(weights)),
        )

    def _cost(self, weights: Floats) -> float:
        logit = self._design @ weights
        likelihood = self._importance @ (np.logaddexp(0, logit) - self._target * logit)
        away = weights - self._centre
        return float(likelihood + self._strength / 2 * (away @ away))


def _balanced(close: NDArray[np.bool_]) -> Floats:
    """Both classes count the same, however many pairs each has."""
    share = np.where(close, 0.5 / max(1, close.sum()), 0.5 / max(1, (~close).sum()))
    return np.asarray(share * len(close))


def upper_bound(count: int, of: int, confidence: float = 0.95) -> float:
    """One-sided upper confidence bound of a share (Wilson's score interval); 1 of no pairs."""
    if not of:
        return 1.0
    z = NormalDist().inv_cdf(confidence)
    share = count / of
    middle = share + z * z / (2 * of)
    spread = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return min(1.0, (middle + spread) / (1 + z * z / of))
