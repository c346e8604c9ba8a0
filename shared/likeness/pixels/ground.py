"""The ground under transparent pixels: white, unless what is visible would vanish on it."""

from __future__ import annotations

import numpy as np
from PIL import Image

WHITE, DARK = (255, 255, 255), (48, 48, 48)

# Contrast is measured on a copy of about this many pixels on either side.
_SIDE = 256
# Levels of 255, and the share of what is visible that must differ so much from white.
_MIN_CONTRAST, _MIN_SHARE = 32, 0.05


def on_ground(image: Image.Image) -> Image.Image:
    """An RGBA image as RGB, on the ground that it stands out from."""
    canvas = Image.new("RGB", image.size, DARK if _vanishes_on_white(image) else WHITE)
    canvas.paste(image, mask=image)  # as alpha_composite, without its copies of 200 MB each
    return canvas


def _vanishes_on_white(image: Image.Image) -> bool:
    factors = max(1, image.width // _SIDE), max(1, image.height // _SIDE)
    small = image.reduce(factors) if max(factors) > 1 else image
    grey, alpha = (np.asarray(band, np.float32) for band in small.convert("LA").split())
    visible = alpha.sum()
    if visible == 0 or alpha.min() == 255:
        return False
    contrasting = alpha[grey <= 255 - _MIN_CONTRAST].sum()
    return bool(contrasting < _MIN_SHARE * visible)
