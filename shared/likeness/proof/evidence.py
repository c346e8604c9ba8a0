"""Evidence: what is known of a query and each candidate, and the features that verdicts rest on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from likeness.descriptor_packing import cell_positions
from likeness.proof.geometry import Verification
from likeness.proof.photometry import compare_colours

_FACTS = 12
PAIR_FEATURES = _FACTS + _FACTS * (_FACTS + 1) // 2
_FULL_SCORE = 32.0  # 64 descriptors, each with the weight 1 − 0.5 of a perfect match


class Evidence(NamedTuple):
    """Facts about one query and K candidates, each (K,).

    geometry: soft inlier score. inliers: matches that agree. shift: how far the corners of the
    query's frame move, as a share of its side. overlap_query, overlap_target: share of either
    frame that the other shows. The others are those of `photometry.ColourDifference`.
    """

    cosine: NDArray[np.float32]
    geometry: NDArray[np.float32]
    inliers: NDArray[np.float32]
    shift: NDArray[np.float32]
    overlap_query: NDArray[np.float32]
    overlap_target: NDArray[np.float32]
    colour_mean: NDArray[np.float32]
    colour_p90: NDArray[np.float32]
    colour_correlation: NDArray[np.float32]
    unaligned_mean: NDArray[np.float32]
    unaligned_max: NDArray[np.float32]


# Used where the index keeps no colours: as different as colours can be.
UNKNOWN_COLOURS = {
    "colour_mean": 1,
    "colour_p90": 1,
    "colour_correlation": 0,
    "unaligned_mean": 1,
    "unaligned_max": 1,
}


def evidence(
    cosines: NDArray[np.float32],
    verified: Verification,
    side: int,
    query_colours: NDArray[np.uint8],
    colours: NDArray[np.uint8],
) -> Evidence:
    """Facts about K candidates, given their cosines (K,) and what geometry found.

    side: cells along an edge of the local map; query_colours (c, c, 3) and colours (K, c, c, 3):
    layouts of any one size.
    """
    last = side - 0.5
    corners = np.array([(-0.5, -0.5), (last, -0.5), (-0.5, last), (last, last)]).T
    shift = np.abs(_transformed(verified.affine, corners) - corners).mean(axis=(1, 2)) / side
    cells = len(query_colours)
    # centres of the layout's cells, in cells of the local map
    centres = (cell_positions(cells).T.astype(np.float64) + 0.5) * side / cells - 0.5
    mapped = _transformed(verified.affine, centres)
    inside = _within(mapped, side)
    in_layout = (mapped + 0.5) * cells / side - 0.5
    return Evidence(
        cosines,
        verified.score,
        verified.inliers.astype(np.float32),
        np.minimum(1, shift).astype(np.float32),
        inside.mean(axis=1, dtype=np.float32),
        _coverage(verified.affine, side),
        *compare_colours(query_colours, colours, in_layout, inside),
    )


def pair_features(facts: Evidence) -> NDArray[np.float64]:
    """(K, PAIR_FEATURES), each about 0 to 1: the facts and their products.

    Few facts mean much alone: where geometry found nothing to align them by, equal colours are no
    proof.
    """
    strength = np.log1p(facts.geometry) / np.log1p(_FULL_SCORE)
    columns = [
        facts.cosine,
        -np.log10(np.maximum(0, 1 - facts.cosine) + 1e-3) / 3,
        strength,
        np.minimum(1, facts.inliers / 40),
        np.sqrt(facts.shift),
        facts.overlap_query,
        facts.overlap_target,
        np.minimum(1, 3 * facts.colour_mean),
        np.minimum(1, 2 * facts.colour_p90),
        np.maximum(0, facts.colour_correlation),
        np.sqrt(np.minimum(1, 4 * facts.unaligned_mean)),
        np.sqrt(np.minimum(1, facts.unaligned_max)),
    ]
    scaled = np.stack(columns, axis=1).astype(np.float64)
    one, other = np.triu_indices(_FACTS)
    return np.concatenate([scaled, scaled[:, one] * scaled[:, other]], axis=1)


def _transformed(affine: NDArray[np.float32], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (2, P) under K transforms: (K, 2, P)."""
    return np.asarray(affine[..., :2] @ points + affine[..., 2:], np.float64)


def _within(points: NDArray[np.float64], side: int) -> NDArray[np.bool_]:
    """Which of the points (K, 2, P) lie in a map: (K, P)."""
    return np.asarray(((points > -0.5) & (points < side - 0.5)).all(axis=1))


def _coverage(affine: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Share (K,) of the candidate's cells that the query's frame is mapped onto."""
    linear, shift = np.split(affine.astype(np.float64), [2], axis=2)
    sound = np.abs(np.linalg.det(linear)) > 1e-3
    back = np.linalg.inv(np.where(sound[:, None, None], linear, np.eye(2)))
    inside = _within(back @ (cell_positions(side).T - shift), side)
    return np.where(sound, inside.mean(axis=1), 0).astype(np.float32)
