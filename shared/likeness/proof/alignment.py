"""Alignment: the transform that lays one picture over another.

Each match of two keypoints proposes a similarity by itself, from their positions, scales and
angles; the other matches judge it (as poses are clustered by Lowe, IJCV 2004, section 7.3). The
best is refined to an affine transform and to a homography where that explains more matches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from likeness.proof.keypoints import Keypoints

Matrix = NDArray[np.float64]

_MAX_MATCHES = 300  # the most similar ones
_PROPOSERS = 120
_MIN_COSINE = 0.6  # of two patches
_TOLERANCE = 0.02  # of the target's longer side
_SCALE_TOLERANCE, _ANGLE_TOLERANCE = 0.6, 0.6  # natural logarithm of the ratio; radians
_CERTAIN = 40  # matches that agree, from which the mirror image is not tried, where most do
_REFINEMENTS = 3
# A freer model must explain so many times the matches: repeated patterns would bend it.
_GAIN = 1.1


class Alignment(NamedTuple):
    """homography (3, 3): pixels of one picture → pixels of the other. inliers: the matches that
    agree with it, of `matches`.
    """

    homography: Matrix
    inliers: int
    matches: int


def align(one: Keypoints, other: Keypoints, side: float) -> Alignment | None:
    """The transform that most matches agree with, mirrored or not; None with too few matches.

    side: the longer side of the other picture, in pixels.
    """
    best: Alignment | None = None
    for mirrored in (False, True):
        patches = one.mirrored_patches() if mirrored else one.patches
        pairs, cosines = _matches(patches, other.patches)
        if len(pairs) < 3:
            continue
        found = _consensus(one, other, pairs, cosines, mirrored, side * _TOLERANCE)
        if best is None or found.inliers > best.inliers:
            best = found
        if found.inliers >= max(_CERTAIN, found.matches / 2):
            break
    return best


def transformed(homography: NDArray[np.floating], points: NDArray[np.floating]) -> Matrix:
    """Points (N, 2) under a homography."""
    moved = points @ homography[:, :2].T + homography[:, 2]
    depth = moved[:, 2:]
    return np.asarray(moved[:, :2] / np.where(np.abs(depth) < 1e-9, 1e-9, depth), np.float64)


def fit_homography(points: Matrix, goals: Matrix, weights: Matrix | None = None) -> Matrix:
    """Weighted least squares over N points (N, 2), held back a little from perspective.

    Hartley and Zisserman, Multiple View Geometry, 2nd ed., sections 4.1 and 4.4.4, with h33 = 1.
    """
    (to_unit, points), (to_unit_goals, goals) = _normalised(points), _normalised(goals)
    (x, y), (u, v) = points.T, goals.T
    zero, one = np.zeros_like(x), np.ones_like(x)
    top = np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], axis=1)
    bottom = np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], axis=1)
    design, values = np.concatenate([top, bottom]), np.concatenate([u, v])
    if weights is not None:
        both = np.concatenate([weights, weights])
        design, values = design * both[:, None], values * both
    ridge = np.diag([1e-9] * 6 + [1e-3 * len(x)] * 2)
    solved = np.linalg.solve(design.T @ design + ridge, design.T @ values)
    found = np.linalg.inv(to_unit_goals) @ np.append(solved, 1.0).reshape(3, 3) @ to_unit
    return np.asarray(found / found[2, 2], np.float64)


def fit_affine(points: Matrix, goals: Matrix, weights: Matrix | None = None) -> Matrix:
    """Weighted least squares over N points (N, 2), as a homography."""
    scale = np.ones((len(points), 1)) if weights is None else weights[:, None]
    design = np.column_stack([points, np.ones(len(points))]) * scale
    solution = np.linalg.lstsq(design, goals * scale, rcond=None)[0]
    return np.vstack([solution.T, [0, 0, 1]])


def _fit_similarity(points: Matrix, goals: Matrix) -> Matrix:
    """Least squares over turn, scale and shift: z · p + t in complex numbers."""
    source, target = points @ (1, 1j), goals @ (1, 1j)
    a, b = source - source.mean(), target - target.mean()
    turn = (a.conj() @ b) / max(1e-9, float((a.conj() @ a).real))
    shift = target.mean() - turn * source.mean()
    return np.array(
        [[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag], [0, 0, 1]]
    )


def _matches(
    one: NDArray[np.float32], other: NDArray[np.float32]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Mutual nearest neighbours (M, 2) by falling cosine, and their cosines (M,)."""
    if not len(one) or not len(other):
        return np.zeros((0, 2), np.intp), np.zeros(0, np.float32)
    cosines = one @ other.T
    nearest = cosines.argmax(axis=1)
    rows = np.flatnonzero(cosines.argmax(axis=0)[nearest] == np.arange(len(one)))
    strength = cosines[rows, nearest[rows]]
    order = np.argsort(-strength, kind="stable")[:_MAX_MATCHES]
    order = order[strength[order] > _MIN_COSINE]
    return np.stack([rows[order], nearest[rows[order]]], axis=1), strength[order]


def _consensus(
    one: Keypoints,
    other: Keypoints,
    pairs: NDArray[np.intp],
    cosines: NDArray[np.float32],
    mirrored: bool,
    tolerance: float,
) -> Alignment:
    mine, theirs = pairs.T
    source, angle = one.at[mine] @ (1, 1j), one.angle[mine]
    target = other.at[theirs] @ (1, 1j)
    if mirrored:
        source, angle = source.conj(), -angle
    turn = other.scale[theirs] / one.scale[mine] * np.exp(1j * (other.angle[theirs] - angle))
    proposed = turn[:_PROPOSERS, None]
    shift = target[:_PROPOSERS, None] - proposed * source[:_PROPOSERS, None]
    # positions are less exact in a smaller picture, but never than in the target itself
    limits = tolerance * np.clip(np.abs(proposed), 0.25, 1)
    near = np.abs(proposed * source + shift - target) < 3 * limits
    ratio = turn / proposed
    near &= np.abs(np.log(np.abs(ratio))) < _SCALE_TOLERANCE
    near &= np.abs(np.angle(ratio)) < _ANGLE_TOLERANCE
    best = int((near @ cosines).argmax())
    points, goals = (np.stack([z.real, z.imag], axis=1) for z in (source, target))
    homography, inlier = _refitted(points, goals, near[best], float(limits[best, 0]))
    if mirrored:
        homography = homography @ np.diag([1.0, -1.0, 1.0])
    return Alignment(homography, int(inlier.sum()), len(pairs))


def _refitted(
    points: Matrix, goals: Matrix, inlier: NDArray[np.bool_], limit: float
) -> tuple[Matrix, NDArray[np.bool_]]:
    """A homography, and the matches within `limit` pixels of it."""
    homography, inlier = _fitted(_fit_similarity, 2, points, goals, inlier, limit)
    for fit, least in ((fit_affine, 12), (fit_homography, 24)):
        found, agreeing = _fitted(fit, least, points, goals, inlier, limit)
        if agreeing.sum() >= _GAIN * inlier.sum():
            homography, inlier = found, agreeing
    return homography, inlier


def _fitted(
    fit: Callable[[Matrix, Matrix], Matrix],
    least: int,
    points: Matrix,
    goals: Matrix,
    inlier: NDArray[np.bool_],
    limit: float,
) -> tuple[Matrix, NDArray[np.bool_]]:
    """The model fitted to the matches that agree with it, starting from `inlier`."""
    homography = np.eye(3)
    for step in range(_REFINEMENTS):
        if inlier.sum() < least:
            break
        homography = fit(points[inlier], goals[inlier])
        apart = np.hypot(*(transformed(homography, points) - goals).T)
        inlier = apart < (limit if step else 2 * limit)
    return homography, inlier


def _normalised(points: Matrix) -> tuple[Matrix, Matrix]:
    centre = points.mean(axis=0)
    spread = max(1e-6, float(np.abs(points - centre).mean()))
    shift = -centre / spread
    matrix = np.array([[1 / spread, 0, shift[0]], [0, 1 / spread, shift[1]], [0, 0, 1]])
    return matrix, (points - centre) / spread
