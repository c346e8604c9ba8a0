"""Small pictures for tests, each different from the others and with detail."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def picture(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    """Smooth colour blobs: as unlike noise as a photograph, and unlike any other seed's."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def png(seed: int, width: int = 96, height: int = 72) -> bytes:
    return encoded(picture(seed, width, height))


def jpeg(seed: int, width: int = 96, height: int = 72, quality: int = 90) -> bytes:
    return encoded(picture(seed, width, height), "JPEG", quality=quality)
