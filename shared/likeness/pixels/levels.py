"""Dark and washed-out pictures are levelled; every other picture stays as it is.

One linear map for all three channels, so that colours stay: the darkest value becomes black and the
brightest white. What is dark even then is lifted by a power. A picture that has both dark and
bright pixels (a night with a few lights, a product on black, line art) has nothing to stretch, and
the noise of a plain surface is no picture.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

# Values are taken from a copy at half the size, which has half the noise, without this share at
# either end.
_REDUCTION = 2
_TAIL = 0.005
# Levels of 255. Of ordinary photos, 98 in 100 have a larger range (decision 0111).
_LOW_RANGE = 112
# Means of so many parts along a side differ by this in one channel at least: noise averages out.
_PARTS, _MIN_CONTRAST = 16, 10
_MAX_GAIN = 12.0
_DARK_MEAN, _WANTED_MEAN, _MIN_GAMMA = 70, 100, 0.5
_VISIBLE_NOISE = 8  # levels, once it is amplified; a blur of this radius then does more good
_BLUR = 2.0


def levelled(image: Image.Image) -> Image.Image:
    """An RGB image of a network's input size in its full range: the same object where it had it."""
    if min(image.size) < 2 * _PARTS:
        return image
    reduced = np.asarray(image.reduce(_REDUCTION))
    # by pairs of channels: along an axis of three, min and max take a hundred times as long
    red, green, blue = np.moveaxis(reduced, 2, 0)
    low = _ranked(np.minimum(np.minimum(red, green), blue), _TAIL)
    high = _ranked(np.maximum(np.maximum(red, green), blue), 1 - _TAIL)
    if high - low >= _LOW_RANGE or _is_plain(image):
        return image
    gain = min(_MAX_GAIN, 255 / (high - low))
    levels = np.clip((np.arange(256) - low) * gain, 0, 255)
    mean = float(levels[reduced].mean())
    if mean < _DARK_MEAN:
        gamma = math.log(_WANTED_MEAN / 255) / math.log(max(1.0, mean) / 255)
        levels = 255 * (levels / 255) ** max(_MIN_GAMMA, gamma)
    stretched = image.point(levels.round().astype(int).tolist() * 3)
    if _noise(reduced) * gain > _VISIBLE_NOISE:
        return stretched.filter(ImageFilter.GaussianBlur(_BLUR))
    return stretched


def _ranked(values: NDArray[np.uint8], share: float) -> int:
    below = np.bincount(values.ravel(), minlength=256).cumsum()
    return int(np.searchsorted(below, share * values.size))


def _is_plain(image: Image.Image) -> bool:
    parts = np.asarray(image.resize((_PARTS, _PARTS), Image.Resampling.BOX)).reshape(-1, 3)
    return bool(np.ptp(parts, axis=0).max() < _MIN_CONTRAST)


def _noise(pixels: NDArray[np.uint8]) -> float:
    """Standard deviation of white noise, by the mask of J. Immerkær, Fast Noise Variance
    Estimation, Computer Vision and Image Understanding 64(2), 1996, with a median, which edges do
    not raise.
    """
    grey = pixels.astype(np.float32).mean(axis=2)
    rows = grey[:-2] - 2 * grey[1:-1] + grey[2:]
    masked = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    return float(np.median(np.abs(masked)) / (6 * 0.6745))
