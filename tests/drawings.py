"""Drawn pictures with corners and colours for tests of the pixel proof, and edits of them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw


def scene(seed: int, width: int = 400, height: int = 300) -> Image.Image:
    """Overlapping shapes of many colours on a shaded ground, different for each seed."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(60, 200, (3, 4, 3), np.uint8)
    image = Image.fromarray(ground).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        across, down = rng.uniform(8, width / 6, 2)
        box = (x, y, x + across, y + down)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def as_jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")
