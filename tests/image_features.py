"""Features of images for tests, with random descriptors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from likeness.descriptor_packing import pack
from likeness.features import ImageFeatures
from likeness.model import Descriptors, Input, ModelSpec, Normalise, Output, Resize
from likeness.preprocessing import COLOURS

SIDE, DIM, VECTOR = 14, 64, 32
Floats = NDArray[np.float32]


def unit(values: NDArray[np.floating]) -> Floats:
    """Rows of length 1; rows of zeros stay zero."""
    lengths = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(values / np.maximum(lengths, 1e-12), np.float32)


def spec(resize: Resize | None = None, with_local: bool = True, weights: str = "0") -> ModelSpec:
    """A bundle's spec, in which only the sizes matter."""
    return ModelSpec(
        name="a model",
        version="1",
        licence="none",
        source="here",
        files={"image.onnx": weights * 64},
        input=Input("image", 224, 224),
        resize=resize or Resize("squash"),
        normalise=Normalise(),
        embedding=Output("embedding", VECTOR),
        local=Descriptors("local", SIDE, DIM) if with_local else None,
    )


def vector(seed: int) -> Floats:
    return unit(np.random.default_rng(seed).normal(size=VECTOR))


def near(other: Floats, cosine: float, seed: int) -> Floats:
    """A unit vector at this cosine from another."""
    aside = np.random.default_rng(seed).normal(size=len(other))
    aside = unit(aside - (aside @ other) * other)
    return unit(cosine * other + (1 - cosine**2) ** 0.5 * aside)


def descriptors(seed: int) -> Floats:
    return unit(np.random.default_rng(seed).normal(size=(SIDE**2, DIM)))


def layout(seed: int) -> bytes:
    """Smooth colours with some detail, as images have them."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    size = (COLOURS, COLOURS)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).tobytes()


def made(seed: int, **of: Any) -> ImageFeatures:
    """A picture just looked at, unlike any other seed's. `of` are fields that are to differ."""
    local = of.pop("local", descriptors(seed))
    fields = {
        "vector": vector(seed),
        "local": local,
        "packed": None if local is None else pack(local),
        "colours": layout(seed),
        "sha256": f"{seed:064x}",
    }
    return ImageFeatures(**(fields | of))
