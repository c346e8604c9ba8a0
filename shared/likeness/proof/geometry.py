"""Geometric verification: do the descriptors of two images agree on one transform?

Descriptors come from a mid-level map of the embedding network's own forward pass. Mutual nearest
neighbours vote: pairs of the best matches propose transforms, all matches judge them with a soft
inlier score, and one weighted affine refit refines the best (RANSAC with two-point hypotheses;
Philbin et al., CVPR 2007, section 4, verify with few-parameter transforms in the same way).
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MATCHES = 64  # the strongest mutual matches of each candidate that are used
_PROPOSERS = 12  # of these, the strongest whose pairs propose transforms: 66 pairs
_SCALE = 3.3  # a proposed transform shrinks and enlarges no further
_FLATTEST = 0.01  # area of a transformed unit square that residuals are measured by, at least


class Verification(NamedTuple):
    """The result of verifying K candidates.

    score (K,): Σ weight · max(0, 1 − (residual / θ)²) of the best transform. Residuals are measured
    halfway between the scales of both images, so that either one may be the query.
    inliers (K,): matches within θ of it. affine (K, 2, 3): query position (x, y, 1) → candidate
    position, in cells. matches (K, M, 2): descriptor numbers of query and candidate, by falling
    weight; inlier (K, M): which of them agree; weights (K, M): 0 for what is no match.
    """

    score: NDArray[np.float32]
    inliers: NDArray[np.intp]
    affine: NDArray[np.float32]
    matches: NDArray[np.intp]
    inlier: NDArray[np.bool_]
    weights: NDArray[np.float32]

    def subset(self, rows: NDArray[np.intp]) -> Verification:
        """The same for some of the candidates."""
        return Verification(
            self.score[rows],
            self.inliers[rows],
            self.affine[rows],
            self.matches[rows],
            self.inlier[rows],
            self.weights[rows],
        )


def verify(
    query: NDArray[np.float32],
    query_at: NDArray[np.float32],
    candidates: NDArray[np.float32],
    candidates_at: NDArray[np.float32],
    *,
    floor: float = 0.5,
    tolerance: float = 1.25,
) -> Verification:
    """Match one query with K candidates, or K queries with one candidate each.

    query (n, D) or (K, n, D) and candidates (K, m, D): float32 unit rows; a row of zeros matches
    nothing. query_at (n, 2) or (K, n, 2), candidates_at (K, m, 2): positions in cells. `floor`: the
    cosine from which a match counts; `tolerance`: θ, in cells.
    """
    matches, weights = _mutual_matches(query, candidates, floor)
    every = np.arange(len(candidates))[:, None]
    # complex numbers: a similarity is z · p + t
    queries_at = np.broadcast_to(query_at, (len(candidates), *query_at.shape[-2:]))
    source = _complex(queries_at)[every, matches[..., 0]]
    target = _complex(candidates_at)[every, matches[..., 1]]
    turn, shift = _proposals(source, target, weights)
    agreement = _agreement(turn, shift, source, target, tolerance)
    scores = (agreement @ weights[..., None])[..., 0]
    best = scores.argmax(axis=1)
    chosen = every[:, 0], best
    similar = np.stack([turn[chosen], 1j * turn[chosen], shift[chosen]], axis=1)
    similar = np.stack([similar.real, similar.imag], axis=1)
    refitted = _affine(source, target, weights * agreement[chosen])
    first, first_inlier = _score(similar, source, target, weights, tolerance)
    second, second_inlier = _score(refitted, source, target, weights, tolerance)
    better = second > first
    inlier = np.where(better[:, None], second_inlier, first_inlier)
    return Verification(
        np.where(better, second, first).astype(np.float32),
        inlier.sum(axis=1),
        np.where(better[:, None, None], refitted, similar).astype(np.float32),
        matches,
        inlier,
        weights,
    )


def distinctness(
    query: NDArray[np.float32], candidates: NDArray[np.float32], found: Verification
) -> NDArray[np.float32]:
    """How much more alike the two of each match are than either is to the second best, (K, M).

    In a page of text or a woven pattern everything matches everything, which proves little.
    """
    cosines = _cosines(query, candidates)
    numbers, ranks = np.nonzero(found.weights)
    of_query, of_candidate = found.matches[numbers, ranks].T
    place = numbers, of_candidate, of_query
    best = cosines[place]
    cosines[place] = -1
    second = np.maximum(
        cosines.max(axis=2)[numbers, of_candidate], cosines.max(axis=1)[numbers, of_query]
    )
    margins = np.zeros_like(found.weights)
    margins[numbers, ranks] = np.maximum(0, best - second)
    return margins


def variety(local: NDArray[np.float32]) -> NDArray[np.float32]:
    """How unlike each other the descriptors of K images (K, m, D) are, (K,), 0 to 1.

    The mean of 1 − cosine to the most alike other of the same image: little for a page of text or a
    woven pattern, whose parts match those of any other such image.
    """
    known = np.einsum("kmd,kmd->km", local, local) > 0.5  # rows of zeros are none
    cosines = local @ local.swapaxes(1, 2)
    diagonal = np.arange(local.shape[1])
    cosines[:, diagonal, diagonal] = -1
    unlike = np.clip(1 - cosines.max(axis=2), 0, 1) * known
    return np.asarray(unlike.sum(axis=1) / np.maximum(1, known.sum(axis=1)), np.float32)


def _cosines(query: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float32]:
    """(K, m, n)."""
    if query.ndim == 3:
        return candidates @ query.swapaxes(1, 2)
    count, rows, dim = candidates.shape
    return (candidates.reshape(-1, dim) @ query.T).reshape(count, rows, len(query))


def _mutual_matches(
    query: NDArray[np.float32], candidates: NDArray[np.float32], floor: float
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Numbers (K, M, 2) and weights max(0, cos − floor) (K, M), by falling weight."""
    cosines = _cosines(query, candidates)
    count, rows, length = cosines.shape
    every = np.arange(count)[:, None]
    of_candidate = cosines.argmax(axis=2)
    strength = cosines[every, np.arange(rows), of_candidate]
    # max is several times as fast as argmax
    image, row = np.nonzero(strength == cosines.max(axis=1)[every, of_candidate])
    of_query = np.zeros((count, length), np.intp)
    weights = np.zeros((count, length), np.float32)
    # of equal rows the first counts as the neighbour: it is written last
    image, row = image[::-1], row[::-1]
    place = image, of_candidate[image, row]
    of_query[place] = row
    weights[place] = np.maximum(0, strength[image, row] - floor)
    order = np.argsort(-weights, axis=1, kind="stable")[:, :MATCHES]
    matches = np.stack([order, of_query[every, order]], axis=2)
    return matches, weights[every, order]


def _complex(at: NDArray[np.float32]) -> NDArray[np.complex64]:
    return at[..., 0] + np.complex64(1j) * at[..., 1]


def _proposals(
    source: NDArray[np.complex64], target: NDArray[np.complex64], weights: NDArray[np.float32]
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Similarities through two matches each: z and t (K, H).

    The first is the identity, which also replaces degenerate and implausible proposals.
    """
    one, two = np.array([(0, 0), *combinations(range(min(_PROPOSERS, source.shape[1])), 2)]).T
    base, image = source[:, two] - source[:, one], target[:, two] - target[:, one]
    plausible = (np.abs(base) > 1) & (weights[:, one] > 0) & (weights[:, two] > 0)
    plausible &= np.abs(image) > 1
    ratio = image / np.where(plausible, base, 1)
    size = np.abs(ratio)
    plausible &= (size > 1 / _SCALE) & (size < _SCALE)
    turn = np.where(plausible, ratio, 1).astype(np.complex64)
    shift = np.where(plausible, target[:, one] - turn * source[:, one], 0)
    return turn, shift.astype(np.complex64)


def _agreement(
    turn: NDArray[np.complex64],
    shift: NDArray[np.complex64],
    source: NDArray[np.complex64],
    target: NDArray[np.complex64],
    tolerance: float,
) -> NDArray[np.float32]:
    """How well each match fits each similarity, max(0, 1 − (residual / θ)²): (K, H, M)."""
    similar = np.stack([turn, shift, -np.ones_like(turn)], axis=2)
    apart = similar @ np.stack([source, np.ones_like(source), target], axis=1)
    agreement: NDArray[np.float32] = np.square(apart.real)
    agreement += np.square(apart.imag)
    agreement *= (-1 / tolerance**2 / np.abs(turn))[..., None]
    agreement += 1
    np.maximum(agreement, 0, out=agreement)
    return agreement


def _affine(
    source: NDArray[np.complex64], target: NDArray[np.complex64], weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Weighted least squares (K, 2, 3), regularised towards the identity."""
    weights = weights.astype(np.float64)
    design = np.stack([source.real, source.imag, np.ones_like(source.real)], axis=2)
    values = np.stack([target.real, target.imag], axis=2)
    weighted = design * weights[..., None]
    normal = np.swapaxes(weighted, 1, 2) @ design + 1e-3 * np.eye(3)
    moment = np.swapaxes(weighted, 1, 2) @ values + 1e-3 * np.eye(3)[:, :2]
    return np.asarray(np.swapaxes(np.linalg.solve(normal, moment), 1, 2), np.float64)


def _score(
    affine: NDArray[np.float64],
    source: NDArray[np.complex64],
    target: NDArray[np.complex64],
    weights: NDArray[np.float32],
    tolerance: float,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Soft inlier score (K,), and which matches are within the tolerance (K, M)."""
    x, y = source.real[:, None], source.imag[:, None]
    moved = affine[..., :1] * x + affine[..., 1:2] * y + affine[..., 2:]
    squared = np.square(moved[:, 0] - target.real) + np.square(moved[:, 1] - target.imag)
    scale = np.sqrt(np.maximum(_FLATTEST, np.abs(np.linalg.det(affine[..., :2]))))
    agreement = np.maximum(0, 1 - squared / (tolerance**2 * scale[:, None]))
    return (agreement * weights).sum(axis=1), (agreement > 0) & (weights > 0)
