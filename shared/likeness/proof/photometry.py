"""Photometry: how far the colours of two images differ, cell by cell of their layouts.

A layout is a small square grid of mean colours. One is compared with K others at once, aligned by
the transforms that geometry found and, for comparison, as if nothing had moved.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ColourDifference(NamedTuple):
    """Colours of a query compared with those of K candidates, each (K,), from 0 to 1.

    mean, p90: where the frames overlap, the mean difference and its 90th percentile; both are 1
    where they do not. correlation: of the colours there, each channel less its mean. unaligned_mean
    and unaligned_max: differences of cells in the same place of either frame.
    """

    mean: NDArray[np.float32]
    p90: NDArray[np.float32]
    correlation: NDArray[np.float32]
    unaligned_mean: NDArray[np.float32]
    unaligned_max: NDArray[np.float32]


def compare_colours(
    query: NDArray[np.uint8],
    candidates: NDArray[np.uint8],
    positions: NDArray[np.float64],
    overlapping: NDArray[np.bool_],
) -> ColourDifference:
    """Compare a layout (c, c, 3) with K others (K, c, c, 3).

    positions (K, 2, c²): where each cell's centre lies in the candidate's layout, (x, y) in cells;
    overlapping (K, c²): whether that is inside the candidate's frame.
    """
    theirs, mine = _channels(candidates), _channels(query[None])[0]
    aligned = _sampled(theirs, positions, len(query))
    difference = np.abs(aligned - mine).mean(axis=1)
    unaligned = np.abs(theirs - mine).mean(axis=1)
    return ColourDifference(
        _masked_mean(difference, overlapping),
        _masked_p90(difference, overlapping),
        _correlation(mine, aligned, overlapping),
        unaligned.mean(axis=1, dtype=np.float32),
        unaligned.max(axis=1),
    )


def _channels(layouts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(K, c, c, 3) → (K, 3, c²), 0 to 1: loops over cells are fast, loops over three are not."""
    planes = np.moveaxis(layouts, 3, 1).reshape(len(layouts), 3, -1)
    return planes.astype(np.float32) / np.float32(255)


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


def _masked_mean(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Row means of the masked values; 1, the largest difference, where a row has none."""
    counts = mask.sum(axis=1)
    means = (values * mask).sum(axis=1) / np.maximum(1, counts)
    return np.where(counts > 0, means, 1).astype(np.float32)


def _masked_p90(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    ordered = np.sort(np.where(mask, values, -1), axis=1)
    counts = mask.sum(axis=1)
    # values outside the mask come first; the percentile's place is among the rest
    place = values.shape[1] - counts + (0.9 * np.maximum(0, counts - 1)).astype(np.intp)
    found = np.take_along_axis(ordered, np.minimum(place, values.shape[1] - 1)[:, None], axis=1)
    return np.where(counts > 0, found[:, 0], 1).astype(np.float32)


def _correlation(
    query: NDArray[np.float32], aligned: NDArray[np.float32], mask: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Correlation (K,) of colours (3, P) and (K, 3, P) over the masked cells (K, P)."""
    counts = np.maximum(1, mask.sum(axis=1, dtype=np.float32))[:, None, None]
    shown = mask[:, None].astype(np.float32)
    a = (query - (query * shown).sum(axis=2, keepdims=True) / counts) * shown
    b = (aligned - (aligned * shown).sum(axis=2, keepdims=True) / counts) * shown
    covariance, variance_a, variance_b = (
        np.einsum("kcp,kcp->k", x, y) for x, y in ((a, b), (a, a), (b, b))
    )
    scale = np.maximum(np.sqrt(variance_a * variance_b), 1e-6)
    return np.asarray(covariance / scale, np.float32)
