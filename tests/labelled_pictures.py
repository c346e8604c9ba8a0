"""Drawn pictures of products, photographed through patterns that have nothing to do with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tests.pictures import encoded, picture

PRODUCTS, VIEWS = 30, 4
_SIZE = (120, 90)


def view(product: int, number: int) -> bytes:
    """One of a product's pictures: what is laid over them varies in the same two ways for all."""
    rng = np.random.default_rng((product, number))
    common, own = _pixels(10_000), _pixels(product)
    pixels = common + 0.6 * (own - common) + 0.3 * (_pixels(30_000 + 100 * product + number) - 128)
    for pattern in range(2):
        pixels = pixels + 0.3 * rng.normal() * (_pixels(20_000 + pattern) - 128)
    return encoded(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))


def write_products(folder: Path, products: int = PRODUCTS, views: int = VIEWS) -> Path:
    """A folder for each product."""
    for product in range(products):
        place = folder / f"product-{product:02}"
        place.mkdir(parents=True)
        for number in range(views):
            (place / f"{number}.png").write_bytes(view(product, number))
    return folder


def _pixels(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(picture(seed, *_SIZE), np.float64)
