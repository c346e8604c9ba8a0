"""The features of one image: everything that is compared with other images."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from likeness.descriptor_packing import pack
from likeness.model import ModelSpec
from likeness.preprocessing import seen_box
from likeness.records import WHOLE, Box, Point, Vector


class ImageFeatures(msgspec.Struct, frozen=True):
    """An image, or the part of it inside `box`, as one model describes it.

    vector: float32 (D,), a unit vector. local: local descriptors, float32 (n, d), unit rows, of a
    square map; packed: the most salient of them as bytes. patches: float32 (m, p), unit rows.
    colours: the grid of `preprocessing.Prepared` as bytes. None where the model does not have them,
    or they were not kept. `sha256` is that of the whole file; `seen` is the part of the box that
    the network receives.
    """

    vector: Vector
    local: NDArray[np.float32] | None = None
    packed: bytes | None = None
    patches: NDArray[np.float32] | None = None
    colours: bytes | None = None
    sha256: str | None = None
    box: Box = WHOLE
    seen: Box = WHOLE


def features_of_point(point: Point, spec: ModelSpec) -> ImageFeatures:
    """The stored features of a live image whose point was read with its vector."""
    assert point.vector is not None
    image = point.image
    size = (image.width, image.height) if image else (1, 1)
    return ImageFeatures(
        point.vector,
        packed=point.local,
        colours=point.colours,
        sha256=image.sha256 if image else None,
        seen=seen_box(size, spec, point.content or WHOLE),
    )


def packed_descriptors(view: ImageFeatures) -> bytes:
    """All known local descriptors of a query, the most salient first, packed as its token carries
    them: a search by token must find what the search by image found, and prove the same.
    """
    if view.local is None:
        return view.packed or b""
    salience = np.zeros(len(view.local), np.float32)
    if view.packed:
        cells = view.packed[: len(view.packed) // (1 + view.local.shape[1] // 2)]
        salience[list(cells)] = np.arange(len(cells), 0, -1)
    return pack(view.local, salience, keep=len(view.local))
