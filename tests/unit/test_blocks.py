"""Block comparison: what agrees under a transform, and what does not."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from likeness.proof.alignment import transformed
from likeness.proof.blocks import compare_blocks
from tests.pictures import as_jpeg, scene


def agreeing(one: Image.Image, other: Image.Image, homography: np.ndarray) -> float:
    found = compare_blocks(one, other, homography)
    assert found is not None
    both = found.shown & (found.textures.min(axis=0) > 2.5)
    assert both.sum() > 20
    return float((found.correlation[both] > 0.6).mean())


def test_a_compressed_picture_agrees_and_another_one_does_not() -> None:
    image = scene(11)
    assert agreeing(image, as_jpeg(image, 60), np.eye(3)) > 0.95
    assert agreeing(image, scene(12), np.eye(3)) < 0.2


def test_a_shift_of_some_pixels_is_corrected() -> None:
    image = scene(13)
    moved = image.transform(image.size, Image.Transform.AFFINE, (1, 0, -5, 0, 1, -4))
    found = compare_blocks(image, moved, np.eye(3))
    assert found is not None
    [centre] = transformed(found.homography, np.array([[200.0, 150.0]]))
    assert np.abs(centre - (205, 154)).max() < 1


def test_a_blurred_picture_is_compared_on_a_coarser_grid() -> None:
    image = scene(14)
    blurred = compare_blocks(image, image.filter(ImageFilter.GaussianBlur(4)), np.eye(3))
    sharp = compare_blocks(image, image, np.eye(3))
    assert blurred is not None and sharp is not None
    assert blurred.side < sharp.side
    assert blurred.sharpness > 2


def test_a_part_of_a_larger_picture_is_compared_at_the_resolution_of_the_coarser() -> None:
    image = scene(15, 512, 384)
    page = Image.new("RGB", (512, 512), "white")
    page.paste(image.resize((256, 192), Image.Resampling.BOX), (100, 200))
    homography = np.array([[0.5, 0, 100], [0, 0.5, 200], [0, 0, 1.0]])
    assert agreeing(image, page, homography) > 0.9


def test_frames_that_do_not_overlap_cannot_be_compared() -> None:
    image = scene(16)
    away = np.array([[1, 0, 5000], [0, 1, 0], [0, 0, 1.0]])
    assert compare_blocks(image, image, away) is None
    assert compare_blocks(image, image, np.zeros((3, 3))) is None
    assert compare_blocks(image, Image.new("RGB", (1, 1)), np.eye(3)) is None
