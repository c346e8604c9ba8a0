"""Photometry: do two images' layouts of colours have the same detail?

A layout is a small square grid of mean colours. Nearly all of what it holds is smooth: the light of
a room, a white ground, the sky. That agrees between many different images, so it is taken off, and
what remains counts for as much as there is of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Detail below this, as a share of full brightness, is noise, which cannot agree.
_NOISE = 0.01


class LayoutAgreement(NamedTuple):
    """The layouts of K pairs of images compared, each (K,), from 0 to 1.

    aligned: correlation of the detail where the frames overlap; in_place: of cells in the same
    place of either frame; both are 0 where nothing agrees, and small where there is little detail.
    contrast: the root mean square of the detail, of the image that has less.
    """

    aligned: NDArray[np.float32]
    in_place: NDArray[np.float32]
    contrast: NDArray[np.float32]


def compare_layouts(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    positions: NDArray[np.float64],
    overlapping: NDArray[np.bool_],
) -> LayoutAgreement:
    """Compare the `detail` (K, 3, c²) of layouts with that of K others.

    positions (K, 2, c²): where each cell's centre of the first lies in the second's layout, (x, y)
    in cells; overlapping (K, c²): whether that is inside the second's frame.
    """
    shown = overlapping[:, None].astype(np.float32)
    aligned = _sampled(second, positions, math.isqrt(second.shape[2])) * shown
    cells = second.shape[2]
    power = np.minimum(_product(first, first), _product(second, second))
    return LayoutAgreement(
        _correlation(first * shown, aligned, shown.sum(axis=(1, 2))),
        _correlation(first, second, np.float32(cells)),
        np.sqrt(power / (3 * cells)),
    )


def detail(layouts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Layouts (K, c, c, 3) → (K, 3, c²), −1 to 1: cells less the means of the 3 × 3 around."""
    # loops over cells are fast, loops over three colours are not
    planes = np.moveaxis(layouts, 3, 1).astype(np.float32) / np.float32(255)
    smooth = _smoothed(_smoothed(planes).swapaxes(2, 3)).swapaxes(2, 3)
    return np.asarray(planes - smooth).reshape(len(layouts), 3, -1)


def _smoothed(planes: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of each cell and its neighbours above and below. Edges go on as straight as they
    come: an even slope has no detail there either.
    """
    above = 2 * planes[:, :, :1] - planes[:, :, 1:2]
    below = 2 * planes[:, :, -1:] - planes[:, :, -2:-1]
    longer = np.concatenate([above, planes, below], axis=2)
    total = longer[:, :, :-2] + longer[:, :, 1:-1] + longer[:, :, 2:]
    return np.asarray(total / np.float32(3))


def _sampled(
    layouts: NDArray[np.float32], at: NDArray[np.float64], cells: int
) -> NDArray[np.float32]:
    """Bilinear samples (K, 3, P) of layouts (K, 3, cells²) at (x, y) (K, 2, P), in cells."""
    at = np.clip(at, 0, cells - 1)
    low = np.minimum(at.astype(np.intp), cells - 2)
    right, down = np.moveaxis((at - low).astype(np.float32), 1, 0)[:, :, None]
    planes = np.arange(layouts.shape[0] * 3).reshape(-1, 3, 1) * cells**2
    first = planes + (low[:, 1:] * cells + low[:, :1])
    values = layouts.ravel()
    upper = (1 - right) * values.take(first) + right * values[1:].take(first)
    lower = (1 - right) * values[cells:].take(first) + right * values[cells + 1 :].take(first)
    return np.asarray((1 - down) * upper + down * lower, np.float32)


def _correlation(
    first: NDArray[np.float32], second: NDArray[np.float32], cells: NDArray[np.float32] | np.float32
) -> NDArray[np.float32]:
    """Correlation (K,), from 0 up, of detail (K, 3, P), which has no mean, over so many cells."""
    scale = np.sqrt(_product(first, first) * _product(second, second)) + 3 * _NOISE**2 * cells
    return np.asarray(np.maximum(0, _product(first, second)) / np.maximum(scale, 1e-9), np.float32)


def _product(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products (K,)."""
    return np.asarray(np.einsum("kcp,kcp->k", first, second), np.float32)
