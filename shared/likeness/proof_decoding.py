"""Files → the images that pixel proofs compare, all decoded alike: or the order would matter."""

from __future__ import annotations

import math

from likeness import images
from likeness.preprocessing import cropped
from likeness.proof.pixel_proof import SIDE, ProofImage
from likeness.records import WHOLE, Box
from likeness.settings import Limits

# What decoders keep at least: images.decode makes it 1.5 times the short side.
_SHORT_SIDE = math.ceil(SIDE / 1.5)
_SMALLEST_SHARE = 0.1


def decode_for_proof(data: bytes, limits: Limits, version: int, box: Box = WHOLE) -> ProofImage:
    """The part of a file's picture inside a box.

    `version`: that of the preprocessing, which decides what a file's pixels are. Raises a subclass
    of ImageError.
    """
    share = max(min(box.right - box.left, box.bottom - box.top), _SMALLEST_SHARE)
    image, info = images.decode(data, limits, math.ceil(_SHORT_SIDE / share), version)
    if box == WHOLE:
        return ProofImage(image, (info.width, info.height))
    return ProofImage(cropped(image, box))
