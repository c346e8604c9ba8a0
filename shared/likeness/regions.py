"""Where the subjects of a picture are.

One subject is told by the coarse map of the embedding's own pass: what stands at the border is
taken for background, and a patch that looks like none of it belongs to something. A cluttered photo
is then searched as a whole and by its subject. Several are told by searching: the map is too coarse
to keep two things apart, but of many parts of a picture those that are most like something indexed
show one thing each (decision 0039).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from likeness.records import WHOLE, Box

_FAINT = 0.05  # what stands out by less is noise
_CALM = 0.3  # share of the patches that are no subject, in any picture
_SPREAD = 1.8  # half a subject's side, in standard deviations of where it stands out
_MARGIN = 0.04
_SURE, _APART = 0.7, 0.3
_LARGE = 0.85  # a box of so much of the frame shows nothing that the frame does not


def standing_out(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """How unlike the border each patch is, (side, side), 0 to 2: patches (side², D), unit rows."""
    side = math.isqrt(len(patches))
    at_border = np.ones((side, side), bool)
    at_border[1:-1, 1:-1] = False
    border = patches[at_border.ravel()]
    return np.asarray(1 - (patches @ border.T).max(axis=1), np.float32).reshape(side, side)


def subject(patches: NDArray[np.float32]) -> Box:
    """The box of what stands out most, or the whole picture where that is nearly all of it."""
    found = standing_out(patches)
    # a quantile, but np.quantile imports numpy.ma: 7 ms of the first answer
    ranked = np.sort(found, axis=None)
    calm = np.float32(np.interp(_CALM, np.linspace(0, 1, len(ranked)), ranked))
    found = np.maximum(0, found - calm)
    if found.max() < _FAINT:
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
    return box if box.area < _LARGE else WHOLE


def distinct(
    boxes: Sequence[Box], best: Sequence[str], scores: Sequence[float], most: int
) -> list[int]:
    """Which of some parts of a picture show things of their own, the surest first.

    best: the original of what each part is most like; scores: how much. A part must reach a share
    of the best score, and show another thing, elsewhere, than the parts before it.
    """
    kept: list[int] = []
    for row in sorted(range(len(boxes)), key=lambda row: -scores[row]):
        if len(kept) == most or scores[row] < _SURE * max(scores):
            break
        if not any(best[row] == best[k] or _overlap(boxes[row], boxes[k]) > _APART for k in kept):
            kept.append(row)
    return kept


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    left, top = max(one.left, other.left), max(one.top, other.top)
    shared = Box(left, top, min(one.right, other.right), min(one.bottom, other.bottom)).area
    return shared / max(1e-9, one.area + other.area - shared)


def _tiles(width: float, height: float, across: int, down: int) -> list[Box]:
    """Parts of one size at even distances, from edge to edge of the picture."""
    return [
        Box(left, top, left + width, top + height)
        for left in np.linspace(0, 1 - width, across).tolist()
        for top in np.linspace(0, 1 - height, down).tolist()
    ]


# Parts that are looked at for things: half of the picture's width, and smaller ones.
PROPOSALS = tuple(_tiles(0.5, 0.65, 3, 2) + _tiles(0.38, 0.5, 4, 3))
