"""Files → images for pixel proofs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from likeness.errors import TruncatedImage
from likeness.model import NEWEST_PREPROCESSING
from likeness.proof.pixel_proof import SIDE, ProofImage, prove_pixels
from likeness.proof.verdicts import Level
from likeness.proof_decoding import decode_for_proof
from likeness.records import WHOLE, Box
from likeness.settings import Limits
from tests.pictures import encoded, scene


def decoded(data: bytes, box: Box = WHOLE) -> ProofImage:
    return decode_for_proof(data, Limits(), NEWEST_PREPROCESSING, box)


def test_a_large_jpeg_is_reduced_and_its_full_size_is_known() -> None:
    found = decoded(encoded(scene(1, 4000, 3000), "JPEG"))
    assert max(found.image.size) == SIDE
    assert found.full_size == (4000, 3000)


def test_a_part_of_a_large_picture_has_as_many_pixels_as_a_whole_one() -> None:
    data = encoded(scene(2, 4000, 3000), "JPEG")
    assert max(decoded(data, Box(0.25, 0.25, 0.5, 0.5)).image.size) == SIDE


def test_a_small_picture_is_not_enlarged() -> None:
    assert decoded(encoded(scene(3, 90, 60))).image.size == (90, 60)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "I;16"])
def test_transparent_grey_and_16_bit_files_are_compared(mode) -> None:
    image = scene(4)
    if mode == "I;16":
        odd = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    else:
        odd = image.convert(mode)
    verdict = prove_pixels(decoded(encoded(image)), decoded(encoded(odd))).verdict
    assert verdict is not None and verdict.level in (Level.COPY, Level.EDITED)


def test_a_damaged_file_raises_the_error_of_the_decoder() -> None:
    data = encoded(scene(5), "JPEG")
    with pytest.raises(TruncatedImage):
        decoded(data[: len(data) // 3])
