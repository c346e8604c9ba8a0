"""Where the subjects of a picture are, told by the coarse map of the embedding's own pass.

What stands at the border is taken for background; a patch that looks like none of it belongs to
something. A cluttered photo is then searched as a whole and by its subject.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from likeness.records import WHOLE, Box

_FAINT = 0.05  # what stands out by less is noise
_CALM = 0.3  # share of the patches that are no subject, in any picture
_SPREAD = 1.8  # half a subject's side, in standard deviations of where it stands out
_MARGIN = 0.04
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
    found = np.maximum(0, found - np.quantile(found, _CALM))
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


def regions(patches: NDArray[np.float32], most: int) -> list[Box]:
    """Boxes of separate things, those that stand out most first; none in a calm picture.

    Patches that stand out by more than the mean are joined with their neighbours.
    """
    found = standing_out(patches)
    marked = found > max(float(found.mean()), _FAINT)
    side, boxes = len(found), []
    left_over = {(int(y), int(x)) for y, x in zip(*np.nonzero(marked), strict=True)}
    while left_over:
        group = [left_over.pop()]
        for y, x in group:
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left_over
            left_over -= near
            group += sorted(near)
        if len(group) == 1:
            continue  # less than a thing
        rows, columns = zip(*group, strict=True)
        box = Box(
            max(0.0, (min(columns) - 0.5) / side),
            max(0.0, (min(rows) - 0.5) / side),
            min(1.0, (max(columns) + 1.5) / side),
            min(1.0, (max(rows) + 1.5) / side),
        )
        boxes.append((sum(float(found[cell]) for cell in group), box))
    return [box for _, box in sorted(boxes, reverse=True)[:most]]
