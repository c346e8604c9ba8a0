"""Preprocessing of a photo: squashed to a square, normalised like ImageNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def squashed(image: Image.Image) -> NDArray[np.uint8]:
    """RGB image → (SIDE, SIDE, 3)."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def normalised(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(SIDE, SIDE, 3) → (1, 3, SIDE, SIDE)."""
    scaled = (pixels / np.float32(255) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None], np.float32)


def tensor(path: Path) -> NDArray[np.float32]:
    """An image file as the network's input: (1, 3, SIDE, SIDE)."""
    return normalised(squashed(Image.open(path).convert("RGB")))
