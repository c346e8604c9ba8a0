"""Keypoints of a picture's pixels, each with a small patch that describes it.

Multi-scale oriented patches (Brown, Szeliski and Winder, CVPR 2005): corners of an image pyramid,
each with the direction of the blurred gradient there and 8 × 8 samples of its surroundings, less
their mean and scaled to unit length. So a corner is found again after turning, scaling and changes
of tone, and in a mirror image it has the same samples in another order. The network's own local
descriptors lie 16 pixels apart, and know no turn.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]

_STEP = 2**0.5  # between levels of the pyramid
_COARSER, _COARSEST = 2, 4  # levels below, blurred enough for patches and for directions
_SMALLEST = 40  # pixels of the longer side of the last level with corners
_MIN_SIDE = 16  # and of the shorter side
_CELL = 8  # pixels: at most one corner in each cell of a level
_PER_LEVEL = 260
_REGIONS = 6  # along each edge: corners are chosen from all regions of a level alike
_MIN_RESPONSE = 1.0
_SAMPLES = 8  # along each edge of a patch
_SPACING = 4.0  # pixels of the level between samples
_MIN_CONTRAST = 8.0  # length of a patch's samples; less is noise


class Keypoints(NamedTuple):
    """N keypoints. at (N, 2): (x, y) in pixels of the picture; scale (N,): pixels of the picture to
    one of the level; angle (N,): radians; patches (N, 64): unit rows of mean 0.
    """

    at: Floats
    scale: Floats
    angle: Floats
    patches: Floats

    def mirrored_patches(self) -> Floats:
        """The patches as the mirror image has them."""
        grid = self.patches.reshape(-1, _SAMPLES, _SAMPLES)
        return np.ascontiguousarray(grid[:, ::-1]).reshape(self.patches.shape)


def find_keypoints(grey: Image.Image) -> Keypoints:
    """Keypoints of an image of mode L, whose contrast was stretched."""
    pyramid = _pyramid(grey)
    found = [
        _keypoints_of_level(pyramid, number)
        for number, level in enumerate(pyramid[:-_COARSEST])
        if min(level.shape) >= _MIN_SIDE
    ]
    if not found:
        return Keypoints(*(np.zeros(s, np.float32) for s in ((0, 2), 0, 0, (0, _SAMPLES**2))))
    return Keypoints(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _pyramid(grey: Image.Image) -> list[Floats]:
    """The levels that have corners, and the smaller ones that describe these."""
    levels = [np.asarray(grey, np.float32)]
    side = float(max(grey.size))
    while side > _SMALLEST / _STEP**_COARSEST:
        side /= _STEP
        size = max(2, round(grey.width / _STEP)), max(2, round(grey.height / _STEP))
        grey = grey.resize(size, Image.Resampling.BILINEAR)
        levels.append(np.asarray(grey, np.float32))
    return levels


def _keypoints_of_level(pyramid: list[Floats], number: int) -> Keypoints:
    scale = pyramid[0].shape[1] / pyramid[number].shape[1]
    at = _corners(pyramid[number])
    angle = _directions(pyramid[number + _COARSEST], at / _STEP**_COARSEST)
    patches, textured = _patches(pyramid[number + _COARSER], at / _STEP**_COARSER, angle)
    scales = np.full(len(at), scale, np.float32)
    every = (at + 0.5) * scale - 0.5, scales, angle, patches
    return Keypoints(*(part[textured].astype(np.float32, copy=False) for part in every))


def _corners(pixels: Floats) -> Floats:
    """Positions (N, 2) of the strongest corners, at most one in a cell."""
    dx = pixels[1:-1, 2:] - pixels[1:-1, :-2]
    dy = pixels[2:, 1:-1] - pixels[:-2, 1:-1]
    xx, yy, xy = (_blurred(product) for product in (dx * dx, dy * dy, dx * dy))
    # the harmonic mean of the eigenvalues (Brown et al., section 2)
    response = (xx * yy - xy * xy) / (xx + yy + 1)
    rows, columns = response.shape[0] // _CELL, response.shape[1] // _CELL
    if not rows or not columns:
        return np.zeros((0, 2), np.float32)
    cells = response[: rows * _CELL, : columns * _CELL].reshape(rows, _CELL, columns, _CELL)
    cells = cells.transpose(0, 2, 1, 3).reshape(rows * columns, _CELL**2)
    best = cells.argmax(axis=1)
    chosen = _spread(cells[np.arange(len(cells)), best].reshape(rows, columns))
    margin = 3  # pixels that the gradient and the blur lose
    y = chosen // columns * _CELL + best[chosen] // _CELL + margin
    x = chosen % columns * _CELL + best[chosen] % _CELL + margin
    return np.stack([x, y], axis=1).astype(np.float32)


def _spread(strength: Floats) -> NDArray[np.intp]:
    """Numbers of the chosen cells: the strongest of every region, then the second of each …

    A caption has stronger corners than the photo that it lies on, and would get all of them.
    """
    rows, columns = strength.shape
    region = (np.arange(rows) * _REGIONS // rows)[:, None] * _REGIONS
    region = (region + np.arange(columns) * _REGIONS // columns).ravel()
    flat = strength.ravel()
    order = np.lexsort((-flat, region))
    starts = np.searchsorted(region[order], np.arange(_REGIONS**2))
    rank = np.empty(len(flat), np.intp)
    rank[order] = np.arange(len(flat)) - starts[region[order]]
    chosen = np.lexsort((-flat, rank))[:_PER_LEVEL]
    return chosen[flat[chosen] > _MIN_RESPONSE]


def _blurred(values: Floats) -> Floats:
    """Sums of 5 × 5 neighbours with binomial weights; two pixels are lost on each side."""
    rows = values[:-4] + values[4:] + 4 * (values[1:-3] + values[3:-1]) + 6 * values[2:-2]
    near = rows[:, 1:-3] + rows[:, 3:-1]
    return np.asarray(rows[:, :-4] + rows[:, 4:] + 4 * near + 6 * rows[:, 2:-2], np.float32)


def _directions(blurred: Floats, at: Floats) -> Floats:
    """Angles (N,) of the gradient at positions (N, 2)."""
    step = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
    centre = 0.5 - 0.5 / _STEP**_COARSEST  # of a pixel of the finer level
    east, west, south, north = _sampled(blurred, at[None] + step[:, None] - np.float32(centre))
    return np.asarray(np.arctan2(south - north, east - west), np.float32)


def _patches(coarse: Floats, at: Floats, angle: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Unit rows (N, 64) of mean 0 around positions (N, 2), and which have any contrast."""
    line = np.arange(_SAMPLES, dtype=np.float32) - (_SAMPLES - 1) / 2
    line *= np.float32(_SPACING / _STEP**_COARSER)
    turned = np.exp(1j * angle)[:, None] * (line[None, :] + 1j * line[:, None]).ravel()
    centre = 0.5 - 0.5 / _STEP**_COARSER
    positions = np.stack([at[:, :1] + turned.real, at[:, 1:] + turned.imag], axis=2) - centre
    values = _sampled(coarse, positions.astype(np.float32))
    values -= values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.maximum(length, 1e-6), length[:, 0] > _MIN_CONTRAST


def _sampled(pixels: Floats, at: Floats) -> Floats:
    """Bilinear samples at positions (…, 2), x first; beyond the edge, those of the edge."""
    height, width = pixels.shape
    x = np.clip(at[..., 0], 0, width - 1.001)
    y = np.clip(at[..., 1], 0, height - 1.001)
    left, top = x.astype(np.intp), y.astype(np.intp)
    right, down = x - left, y - top
    first, flat = top * width + left, pixels.ravel()
    upper = flat.take(first) * (1 - right) + flat.take(first + 1) * right
    lower = flat.take(first + width) * (1 - right) + flat.take(first + width + 1) * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)
