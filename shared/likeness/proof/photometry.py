"""Photometry: do two images' layouts of colours have the same detail?

A layout is a small square grid of mean colours. Nearly all of what it holds is smooth: the light of
a room, a white ground, the sky. That agrees between many different images, so it is taken off, and
what remains counts for as much as there is of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Detail below this, as a share of full brightness, is noise, which cannot agree.
_NOISE = 0.01


class LayoutAgreement(NamedTuple):
    """The layouts of K pairs of images compared, each (K,), from 0 to 1.

    aligned: correlation of the detail where the frames overlap; in_place: of cells in the same
    place of either frame; both are 0 where nothing agrees, and small where there is little detail.
    contrast: the standard deviation of the detail, of the image that has less.
    """

    aligned: NDArray[np.float32]
    in_place: NDArray[np.float32]
    contrast: NDArray[np.float32]


def compare_layouts(
    first: NDArray[np.uint8],
    second: NDArray[np.uint8],
    positions: NDArray[np.float64],
    overlapping: NDArray[np.bool_],
) -> LayoutAgreement:
    """Compare layouts (K, c, c, 3), or one (1, c, c, 3), with K others.

    positions (K, 2, c²): where each cell's centre of the first lies in the second's layout, (x, y)
    in cells; overlapping (K, c²): whether that is inside the second's frame.
    """
    mine, theirs = _detail(first), _detail(second)
    aligned = _sampled(theirs, positions, first.shape[1])
    return LayoutAgreement(
        _correlation(mine, aligned, overlapping),
        _correlation(mine, theirs, np.ones_like(overlapping)),
        np.minimum(mine.std(axis=(1, 2)), theirs.std(axis=(1, 2))),
    )


def _detail(layouts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(K, c, c, 3) → (K, 3, c²): each cell less the mean of the 3 × 3 cells around it."""
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
    first: NDArray[np.float32], second: NDArray[np.float32], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Correlation (K,), from 0 up, of detail (K, 3, P) over the masked cells (K, P)."""
    shown = mask[:, None].astype(np.float32)
    counts = np.maximum(1, shown.sum(axis=2, keepdims=True))
    a, b = (
        (each - (each * shown).sum(axis=2, keepdims=True) / counts) * shown
        for each in (first, second)
    )
    covariance, variance_a, variance_b = (
        np.einsum("kcp,kcp->k", x, y) for x, y in ((a, b), (a, a), (b, b))
    )
    noise = np.float32(3 * _NOISE**2) * counts[:, 0, 0]
    return np.asarray(np.maximum(0, covariance) / (np.sqrt(variance_a * variance_b) + noise))
