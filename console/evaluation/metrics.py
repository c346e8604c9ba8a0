"""Ranking metrics with intervals over groups of queries, and the reliability of probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

_RESAMPLES, _BINS = 2000, 10


class Ranking(NamedTuple):
    """One value for each of Q queries; at_k: whether a relevant result has at most rank k."""

    at_1: NDArray[np.float64]
    at_5: NDArray[np.float64]
    at_10: NDArray[np.float64]
    average_precision: NDArray[np.float64]


class Estimate(Struct, frozen=True):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Bin(Struct, frozen=True):
    """Claimed probabilities from `low` to `high`: their count, their mean, the share that held."""

    low: float
    high: float
    count: int
    claimed: float
    held: float


class Reliability(Struct, frozen=True):
    """Without empty bins. `error`: the expected calibration error, 0 to 1."""

    bins: tuple[Bin, ...]
    error: float


def rank(
    scores: NDArray[np.floating],
    relevant: NDArray[np.bool_],
    ignored: NDArray[np.bool_] | None = None,
) -> Ranking:
    """Scores (Q, G), higher is nearer, and which pairs are right (Q, G) → the metrics.

    `ignored` pairs count neither as hits nor as misses. A query without a relevant image counts 0.
    Ties count against the method: one that cannot tell two images apart does not know which is
    right. Average precision: Manning et al., Introduction to Information Retrieval, 8.4.
    """
    if ignored is not None:
        scores, relevant = np.where(ignored, -np.inf, scores), relevant & ~ignored
    order = np.lexsort((relevant, -scores), axis=1)
    hits = np.take_along_axis(relevant, order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    found = np.maximum(hits.sum(axis=1), 1)
    return Ranking(
        np.asarray(hits[:, 0], np.float64),
        np.asarray(hits[:, :5].any(axis=1), np.float64),
        np.asarray(hits[:, :10].any(axis=1), np.float64),
        np.asarray((precision * hits).sum(axis=1) / found, np.float64),
    )


def estimate(
    values: NDArray[np.float64],
    groups: NDArray[np.generic],
    weights: NDArray[np.float64] | None = None,
) -> Estimate:
    """Mean of (Q,) values, and its percentile interval when whole groups are resampled.

    weights (Q,): above zero; equal by default.

    Photos of one product are right or wrong together, so products are resampled (cluster
    bootstrap; Davison and Hinkley, Bootstrap Methods, section 3.8).
    """
    names, member = np.unique(groups, return_inverse=True)
    weights = np.ones(len(values)) if weights is None else weights
    totals = np.bincount(member, weights=values * weights)
    counts = np.bincount(member, weights=weights)
    drawn = np.random.default_rng(0).integers(len(names), size=(_RESAMPLES, len(names)))
    means = totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(np.average(values, weights=weights)), float(low), float(high))


def reliability(claimed: NDArray[np.float64], held: NDArray[np.bool_]) -> Reliability:
    """Claimed probabilities (N,) and whether each was true (N,), in bins of equal width.

    The error is the mean difference between claimed and observed, each bin weighted by its count
    (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2).
    """
    place = np.minimum((claimed * _BINS).astype(np.intp), _BINS - 1)
    filled = [
        Bin(
            number / _BINS,
            (number + 1) / _BINS,
            int(inside.sum()),
            float(claimed[inside].mean()),
            float(held[inside].mean()),
        )
        for number in np.unique(place).tolist()
        for inside in [place == number]
    ]
    error = sum(b.count * abs(b.claimed - b.held) for b in filled) / max(1, len(claimed))
    return Reliability(tuple(filled), float(error))
