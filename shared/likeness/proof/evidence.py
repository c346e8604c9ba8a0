"""Evidence: what the index knows of a pair of images, and the features that verdicts rest on."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from likeness.descriptor_packing import cell_positions
from likeness.proof.geometry import Verification
from likeness.proof.photometry import compare_layouts

PAIR_FEATURES = 10
_FULL_SCORE = 32.0  # 64 descriptors, each with the weight 1 − 0.5 of a perfect match
_FULL_MARGIN = 16.0  # of the same, each a quarter more alike than any other
_FULL_VARIETY = 0.25  # that of a photo full of different things
# Layouts with less detail belong to a sky, a fog or a dark frame: those show nothing of their own.
_FLAT = 0.012


class Evidence(NamedTuple):
    """Facts about K pairs of images, each (K,).

    geometry: soft inlier score. distinct: the sum of the margins by which the agreeing matches are
    better than the second best; share: of the margins of all matches. variety: that of
    `geometry.variety`, of the image that has less. overlap_first, overlap_second: share of either
    frame that the other shows. The others are those of `photometry.LayoutAgreement`.
    """

    cosine: NDArray[np.float32]
    geometry: NDArray[np.float32]
    distinct: NDArray[np.float32]
    share: NDArray[np.float32]
    variety: NDArray[np.float32]
    overlap_first: NDArray[np.float32]
    overlap_second: NDArray[np.float32]
    aligned: NDArray[np.float32]
    in_place: NDArray[np.float32]
    contrast: NDArray[np.float32]

    def is_flat(self) -> NDArray[np.bool_]:
        """Whether one image of a pair has too little detail to prove anything, (K,)."""
        return np.asarray(self.contrast < _FLAT)


# Used where the index keeps no colours: nothing agrees, and nothing says that they are flat.
UNKNOWN_COLOURS = {"aligned": 0, "in_place": 0, "contrast": 1}


def evidence(
    cosines: NDArray[np.float32],
    verified: Verification,
    margins: NDArray[np.float32],
    variety: NDArray[np.float32],
    side: int,
    first: NDArray[np.float32],
    second: NDArray[np.float32],
) -> Evidence:
    """Facts about K pairs, given their cosines (K,) and what geometry found.

    margins (K, M): those of `geometry.distinctness`; variety (K,): as in `Evidence`. side: cells
    along an edge of the local map; first and second (K, 3, c²): `photometry.detail` of layouts of
    any one size.
    """
    cells = math.isqrt(second.shape[2])
    # centres of the layout's cells, in cells of the local map
    centres = (cell_positions(cells).T.astype(np.float64) + 0.5) * side / cells - 0.5
    mapped = _transformed(verified.affine, centres)
    inside = _within(mapped, side)
    in_layout = (mapped + 0.5) * cells / side - 0.5
    distinct = (margins * verified.inlier).sum(axis=1)
    return Evidence(
        cosines,
        verified.score,
        distinct,
        distinct / np.maximum(np.float32(1e-6), margins.sum(axis=1)),
        variety,
        inside.mean(axis=1, dtype=np.float32),
        _coverage(verified.affine, side),
        *compare_layouts(first, second, in_layout, inside),
    )


def pair_features(facts: Evidence) -> NDArray[np.float64]:
    """(K, PAIR_FEATURES), from 0 to about 1. More of each speaks for sameness, never against it.

    Three of them count for as much as there is variety in both images: where everything looks
    alike, agreement is no sign of one thing.
    """
    nearness = -np.log10(np.clip(1 - facts.cosine, 0, 1) + 1e-3) / 3
    varied = np.minimum(1, facts.variety / _FULL_VARIETY)
    columns = [
        np.maximum(0, facts.cosine),
        nearness,
        np.log1p(facts.geometry) / np.log1p(_FULL_SCORE),
        np.log1p(facts.distinct) / np.log1p(_FULL_MARGIN),
        facts.share,
        facts.aligned,
        facts.in_place,
        nearness * varied,
        np.log1p(facts.distinct * varied**2) / np.log1p(_FULL_MARGIN),
        facts.aligned * varied,
    ]
    return np.stack(columns, axis=1).astype(np.float64)


def _transformed(affine: NDArray[np.float32], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (2, P) under K transforms: (K, 2, P)."""
    return np.asarray(affine[..., :2] @ points + affine[..., 2:], np.float64)


def _within(points: NDArray[np.float64], side: int) -> NDArray[np.bool_]:
    """Which of the points (K, 2, P) lie in a map: (K, P)."""
    return np.asarray(((points > -0.5) & (points < side - 0.5)).all(axis=1))


def _coverage(affine: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Share (K,) of the second image's cells that the first one's frame is mapped onto."""
    linear, shift = np.split(affine.astype(np.float64), [2], axis=2)
    sound = np.abs(np.linalg.det(linear)) > 1e-3
    back = np.linalg.inv(np.where(sound[:, None, None], linear, np.eye(2)))
    inside = _within(back @ (cell_positions(side).T - shift), side)
    return np.where(sound, inside.mean(axis=1), 0).astype(np.float32)
