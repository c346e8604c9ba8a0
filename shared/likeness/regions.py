"""Salient regions of an image.

One subject is found in the coarse patch map of the embedding's own pass: patches at the border
count as background, and a patch that resembles none of them belongs to the subject. A cluttered
photo is then searched as a whole and by its subject. Several objects are found by searching: the
map is too coarse to separate them, but of many proposed regions those that are closest to an
indexed image show one object each (decision 0039).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from likeness.records import WHOLE, Box

_NOISE = 0.05  # salience below this is noise
_BACKGROUND = 0.3  # fraction of patches that are background in any image
_SPREAD = 1.8  # half a subject's side, in standard deviations of the salience
_MARGIN = 0.04
_MIN_SCORE = 0.7  # fraction of the best score
_MAX_OVERLAP = 0.3
_MAX_AREA = 0.85  # a larger box shows nothing that the whole image does not


def salience(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """The distance of each patch from its nearest border patch, (side, side), 0 to 2.

    patches: float32 (side², D), unit rows.
    """
    side = math.isqrt(len(patches))
    at_border = np.ones((side, side), bool)
    at_border[1:-1, 1:-1] = False
    border = patches[at_border.ravel()]
    return np.asarray(1 - (patches @ border.T).max(axis=1), np.float32).reshape(side, side)


def subject(patches: NDArray[np.float32]) -> Box:
    """The box of the most salient part; the whole image where that covers nearly all of it."""
    found = salience(patches)
    # as np.quantile, which imports numpy.ma: 7 ms of the first answer
    ranked = np.sort(found, axis=None)
    background = np.float32(np.interp(_BACKGROUND, np.linspace(0, 1, len(ranked)), ranked))
    found = np.maximum(0, found - background)
    if found.max() < _NOISE:
        return WHOLE
    total = found.sum()
    centres = (np.arange(len(found)) + 0.5) / len(found)
    ends = []
    for weights in (found.sum(axis=0), found.sum(axis=1)):
        mean = float(weights @ centres / total)
        half = _SPREAD * math.sqrt(float(weights @ (centres - mean) ** 2 / total)) + _MARGIN
        ends.append((max(0.0, mean - half), min(1.0, mean + half)))
    (left, right), (top, bottom) = ends
    box = Box(left, top, right, bottom)
    return box if box.area < _MAX_AREA else WHOLE


def distinct(
    boxes: Sequence[Box], best: Sequence[str], scores: Sequence[float], limit: int
) -> list[int]:
    """The rows of the regions that show different objects, the most certain first, up to `limit`.

    best: each region's nearest neighbour, or the original that it is a copy of; scores: its cosine.
    A region must reach a fraction of the best score, and must differ from those before it in its
    neighbour and its place.
    """
    kept: list[int] = []
    for row in sorted(range(len(boxes)), key=lambda row: -scores[row]):
        if len(kept) == limit or scores[row] < _MIN_SCORE * max(scores):
            break
        if not any(
            best[row] == best[other] or _overlap(boxes[row], boxes[other]) > _MAX_OVERLAP
            for other in kept
        ):
            kept.append(row)
    return kept


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    shared = one.intersection(other).area
    return shared / max(1e-9, one.area + other.area - shared)


def _tiles(width: float, height: float, across: int, down: int) -> list[Box]:
    """Boxes of one size at even distances, from edge to edge of the image."""
    return [
        Box(left, top, left + width, top + height)
        for left in np.linspace(0, 1 - width, across).tolist()
        for top in np.linspace(0, 1 - height, down).tolist()
    ]


# Proposed regions: half of the image's width, and smaller ones.
PROPOSALS = tuple(_tiles(0.5, 0.65, 3, 2) + _tiles(0.38, 0.5, 4, 3))
