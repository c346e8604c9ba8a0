"""The bars of letterboxes and pillarboxes, and the rims of screenshots.

A bar is plain, and its edge is straight: beyond it the picture differs at once, along the whole
length, and is not plain itself. Both opposite sides have one. So a product on white keeps its
margins (it touches their edge in a few places), a flag its stripes (plain beyond the edge), and a
picture its frame (a rim of one width on all four sides).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from likeness.records import WHOLE, Box

# Bars are looked for in a copy of about this many pixels on either side.
_SIDE = 256
_MIN_PIXELS = 16
# Shares of a side: thinner bars change no embedding, and a 16:9 video upright on 9:16 fills .32.
_MIN_BAR, _MIN_BARS, _MIN_CONTENT = 0.025, 0.08, 0.3
# Levels of 255. Compression leaves this much in a bar, and more beside its edge.
_PLAIN_MEAN, _PLAIN_MOST = 6.0, 40
_BLOCK, _ECHO = 8, 16.0
_MIN_PIXELS_DIFFERENT = 0.5  # of the content: less is a drawing with an outline, on the same paper
_TEXTURE = 6.0  # standard deviation along most of the content's rows
_FRAME_RATIO = 2.0


class _Edge(NamedTuple):
    """What there must be beyond a bar's edge: pixels that are `step` levels from its colour, in
    `coverage` of the edge's length, and rows with a standard deviation of `stripe`.
    """

    step: float
    coverage: float
    stripe: float


# A dark scene differs little from a black bar, and not everywhere, and a sky is nearly plain. A
# drawing touches the edge of its margin in a few places only, and a flag's stripe is plain.
_DARK = 48
_DARK_EDGE, _EDGE = _Edge(10, 0.6, 1.0), _Edge(20, 0.9, 4.0)


class _Margins(NamedTuple):
    """Rows that are plain at either end of an axis, at least one each, and their colour."""

    before: int
    after: int
    length: int
    colour: NDArray[np.float32]

    @property
    def wide(self) -> bool:
        """Whether they can be bars."""
        bars = self.before + self.after
        return (
            min(self.before, self.after) >= _MIN_BAR * self.length
            and _MIN_BARS * self.length <= bars <= (1 - _MIN_CONTENT) * self.length
        )


def content_box(image: Image.Image) -> Box:
    """The part of an RGB image inside its bars; WHOLE where it has none."""
    width, height = image.size
    factors = max(1, width // _SIDE), max(1, height // _SIDE)
    small = image.reduce(factors) if max(factors) > 1 else image
    pixels = np.asarray(small, np.float32)
    if min(pixels.shape[:2]) < _MIN_PIXELS:
        return WHOLE
    across = pixels.transpose(1, 0, 2)
    echoes = [math.ceil(_BLOCK / factor) + 1 for factor in factors]
    rows, columns = _margins(pixels, echoes[1]), _margins(across, echoes[0])
    if rows and columns:
        if _is_frame(rows, columns, width / height):
            return WHOLE
        if _are_bars(pixels, rows, columns) and _are_bars(across, columns, rows):
            return _inside(image.size, factors, rows, columns)
    if rows and _are_bars(pixels, rows):
        return _inside(image.size, factors, rows, None)
    if columns and _are_bars(across, columns):
        return _inside(image.size, factors, None, columns)
    return WHOLE


def _margins(pixels: NDArray[np.float32], echo: int) -> _Margins | None:
    """None unless both ends are plain and of one colour. `echo`: rows of a block of JPEG."""
    colour = np.median(pixels[0], axis=0)
    # most photos end here
    if not _plain(pixels[[0, -1]], colour).all():
        return None
    plain = _plain(pixels, colour)
    if plain.all():
        return None
    if not _is_dark(colour):
        echo = 0  # a shadow on paper looks like one
    away = np.abs(pixels - colour).max(axis=2).mean(axis=1)
    before, after = (
        _margin(*ends) for ends in ((plain, away, echo), (plain[::-1], away[::-1], echo))
    )
    return _Margins(before, after, len(pixels), colour) if before + after < len(pixels) else None


def _margin(plain: NDArray[np.bool_], away: NDArray[np.float32], echo: int) -> int:
    """The number of rows before the content, the echo of its edge included."""
    first = int(np.argmin(plain))
    content = np.flatnonzero(away[first : first + echo] > _ECHO)
    return first + (int(content[0]) if len(content) else 0)


def _plain(rows: NDArray[np.float32], colour: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether each row has this colour, but for compression noise."""
    away = np.abs(rows - colour).max(axis=2)
    mostly = (away > _PLAIN_MOST).mean(axis=1) <= 0.02
    return np.asarray(mostly & (away.mean(axis=1) <= _PLAIN_MEAN))


def _is_dark(colour: NDArray[np.float32]) -> bool:
    return bool(colour.max() < _DARK)


def _are_bars(
    pixels: NDArray[np.float32], margins: _Margins, other: _Margins | None = None
) -> bool:
    """Whether a picture begins at both edges at once. `other`: margins at the ends of the rows."""
    if not margins.wide:
        return False
    inner = slice(other.before, -other.after) if other else slice(None)
    content = pixels[margins.before : -margins.after, inner]
    edge = _DARK_EDGE if _is_dark(margins.colour) else _EDGE
    differs = np.abs(content - margins.colour).max(axis=2) > edge.step
    texture = content.std(axis=1).max(axis=1)
    if np.median(texture) < _TEXTURE or differs.mean() < _MIN_PIXELS_DIFFERENT:
        return False
    # the first row may be a blend with the bar
    return all(
        rows[:3].any(axis=0).mean() >= edge.coverage and of_rows[1:6].min() >= edge.stripe
        for rows, of_rows in ((differs, texture), (differs[::-1], texture[::-1]))
    )


def _is_frame(rows: _Margins, columns: _Margins, aspect: float) -> bool:
    """Whether the margins have about one width on all four sides. `aspect`: width / height."""
    down = [share / rows.length for share in (rows.before, rows.after)]
    across = [share / columns.length * aspect for share in (columns.before, columns.after)]
    return max(*down, *across) <= _FRAME_RATIO * min(*down, *across)


def _inside(
    size: tuple[int, int],
    factors: tuple[int, int],
    rows: _Margins | None,
    columns: _Margins | None,
) -> Box:
    left, right = _ends(size[0], factors[0], columns)
    top, bottom = _ends(size[1], factors[1], rows)
    return Box(left, top, right, bottom)


def _ends(side: int, factor: int, margins: _Margins | None) -> tuple[float, float]:
    """Where the content begins and ends on a side, without the blended row after each bar."""
    if margins is None:
        return 0.0, 1.0
    first, last = margins.before + 1, margins.length - margins.after - 1
    return first * factor / side, last * factor / side
