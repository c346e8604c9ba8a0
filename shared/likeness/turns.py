"""The other orientations of a prepared image: quarter turns and mirrors, without decoding again."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from likeness.model import Input
from likeness.preprocessing import Prepared


class Turn(NamedTuple):
    """Mirrored left to right or not, then turned by so many quarters, counter-clockwise."""

    mirrored: bool
    quarters: int


_TURNS = tuple(Turn(mirrored, quarters) for mirrored in (False, True) for quarters in range(4))[1:]


def turns(target: Input) -> tuple[Turn, ...]:
    """The seven other orientations; the three that keep width and height where they differ."""
    square = target.width == target.height
    return tuple(turn for turn in _TURNS if square or turn.quarters % 2 == 0)


def turned(prepared: Prepared, target: Input, turn: Turn) -> Prepared:
    """The image in another orientation; its boxes stay those of the upright image."""
    rows = 2 if target.layout == "NCHW" else 1
    return prepared._replace(
        tensor=_turned(prepared.tensor, turn, rows), colours=_turned(prepared.colours, turn, 0)
    )


def _turned(pixels: NDArray[Any], turn: Turn, rows: int) -> NDArray[Any]:
    """`rows` is the axis of rows; that of columns follows it."""
    columns = rows + 1
    mirrored = np.flip(pixels, columns) if turn.mirrored else pixels
    return np.ascontiguousarray(np.rot90(mirrored, turn.quarters, (rows, columns)))
