"""Pixel proof: what was done to one picture to make the other."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from likeness.proof.alignment import transformed
from likeness.proof.pixel_facts import PixelFacts
from likeness.proof.pixel_proof import (
    PROVEN_LEVELS,
    Edit,
    PixelVerdict,
    ProofImage,
    pixel_model,
    prove_pixels,
)
from likeness.proof.verdicts import Level
from tests.pictures import as_jpeg, scene


def proven(one: Image.Image, other: Image.Image) -> PixelVerdict:
    return prove_pixels(ProofImage(one), ProofImage(other))


def captioned(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).rectangle((60, 230, 340, 280), fill="black")
    return image


def in_collage(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", (820, 620), "white")
    for n, at in enumerate(itertools.product((5, 415), (5, 315))):
        page.paste(image if n == 2 else scene(900 + n), at)
    return page


EDITED = {
    "crop": (lambda i: i.crop((60, 40, 340, 260)), Edit.CROPPED),
    "mirror": (ImageOps.mirror, Edit.MIRRORED),
    "quarter turn": (lambda i: i.transpose(Image.Transpose.ROTATE_90), Edit.TURNED),
    "half turn": (lambda i: i.rotate(180), Edit.TURNED),
    "10 degrees": (lambda i: i.rotate(10, Image.Resampling.BICUBIC), Edit.TURNED),
    "darker": (lambda i: ImageEnhance.Brightness(i).enhance(0.5), Edit.RECOLOURED),
    "grey": (lambda i: i.convert("L").convert("RGB"), Edit.RECOLOURED),
    "blur": (lambda i: i.filter(ImageFilter.GaussianBlur(3)), Edit.BLURRED),
    "caption": (captioned, Edit.OVERLAID),
    "border": (lambda i: ImageOps.expand(i, 40, "white"), Edit.BORDERED),
    "bars": (lambda i: ImageOps.pad(i, (400, 460), color="black"), Edit.BORDERED),
    "collage": (in_collage, Edit.PART_OF),
}


@pytest.mark.parametrize(("change", "edit"), EDITED.values(), ids=EDITED.keys())
def test_an_edit_is_recognised_and_named(change, edit) -> None:
    for seed in (31, 32, 33):
        image = scene(seed)
        found = proven(image, as_jpeg(change(image), 85))
        assert found.verdict is not None and found.proof is not None
        assert found.verdict.level is Level.EDITED
        assert edit in found.proof.edits


@pytest.mark.parametrize("quality", [30, 60, 95])
def test_a_compressed_picture_is_a_copy(quality) -> None:
    found = proven(scene(34), as_jpeg(scene(34), quality))
    assert found.verdict is not None and found.verdict.level is Level.COPY
    assert found.proof is not None and found.proof.edits == (Edit.RECOMPRESSED,)


def test_equal_pixels_are_a_copy_without_doubt_or_edits() -> None:
    flat = Image.new("RGB", (50, 40), "red")
    for image in (scene(35), flat):
        found = proven(image, image.copy())
        assert found.verdict == (Level.COPY, 1.0)
        assert found.proof is not None and found.proof.edits == ()


def test_a_smaller_file_is_a_scaled_copy() -> None:
    image = scene(36, 1024, 768)
    found = proven(image, image.resize((512, 384), Image.Resampling.LANCZOS))
    assert found.verdict is not None and found.verdict.level is Level.COPY
    assert found.proof is not None and Edit.SCALED in found.proof.edits


def test_different_pictures_prove_nothing() -> None:
    for seed in range(40, 50):
        assert proven(scene(seed), scene(seed + 100)) == PixelVerdict(None, None)


def test_the_transform_maps_fractions_of_the_query_to_those_of_the_target() -> None:
    image = scene(51)
    found = proven(image, ImageOps.mirror(image).crop((40, 30, 360, 270)))
    assert found.proof is not None
    matrix = np.array(found.proof.transform).reshape(3, 3)
    [place] = transformed(matrix, np.array([[0.25, 0.5]]))
    assert np.abs(place - ((300 - 40) / 320, (150 - 30) / 240)).max() < 0.02


def test_differences_are_boxes_of_both_pictures() -> None:
    image = scene(52)
    found = proven(image, ImageOps.expand(captioned(image), 50, "white"))
    assert found.proof is not None and found.proof.differences
    query, target = found.proof.differences[0]
    assert np.abs(np.array(query) - (60 / 400, 230 / 300, 340 / 400, 280 / 300)).max() < 0.1
    moved = ((60 + 50) / 500, (230 + 50) / 400, (340 + 50) / 500, (280 + 50) / 400)
    assert np.abs(np.array(target) - moved).max() < 0.1


@pytest.mark.parametrize("change", [change for change, _ in EDITED.values()], ids=EDITED.keys())
def test_the_order_of_the_pictures_does_not_matter(change) -> None:
    one, other = scene(53), as_jpeg(change(scene(53)), 80)
    there, back = proven(one, other), proven(other, one)
    assert there.verdict == back.verdict
    assert there.proof is not None and back.proof is not None
    assert there.proof.edits == back.proof.edits
    assert there.proof.differences == tuple((b, a) for a, b in back.proof.differences)
    product = np.reshape(there.proof.transform, (3, 3)) @ np.reshape(back.proof.transform, (3, 3))
    np.testing.assert_allclose(product / product[2, 2], np.eye(3), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (8, 8), (500, 3)])
def test_tiny_pictures_prove_nothing_and_raise_nothing(size) -> None:
    for image in (Image.new("RGB", size, "red"), scene(54).resize(size)):
        assert proven(scene(54), image).verdict is None
        assert proven(image, scene(55)).verdict is None


def test_pictures_without_texture_prove_nothing() -> None:
    dark, light = Image.new("RGB", (300, 200), (9, 9, 9)), Image.new("RGB", (300, 200), "white")
    assert proven(dark, light).verdict is None
    gradient = Image.linear_gradient("L").convert("RGB")
    assert proven(gradient, ImageOps.flip(gradient)).verdict is None


def product(colour: tuple[int, int, int]) -> Image.Image:
    """A bag on white, with seams and buckles."""
    image = Image.new("RGB", (400, 400), "white")
    draw = ImageDraw.Draw(image)
    shade = tuple(channel * 2 // 3 for channel in colour)
    draw.ellipse((130, 40, 270, 200), outline=shade, width=14)
    draw.rounded_rectangle((70, 120, 330, 340), 30, fill=colour)
    for x in range(90, 320, 26):
        draw.line((x, 140, x + 12, 330), fill=shade, width=4)
    for x in (110, 250):
        draw.rectangle((x, 170, x + 40, 230), fill=(190, 190, 190), outline=(60, 60, 60), width=3)
    return image


@pytest.mark.parametrize("other", [(40, 70, 190), (30, 130, 60), (120, 120, 120)])
def test_a_product_in_another_colour_is_a_variant_and_not_overlaid(other) -> None:
    found = proven(as_jpeg(product((190, 40, 40)), 92), as_jpeg(product(other), 92))
    assert found.verdict is not None and found.verdict.level is Level.VARIANT
    assert found.proof is not None and Edit.OVERLAID not in found.proof.edits
    assert Edit.RECOLOURED in found.proof.edits


def test_a_stricter_threshold_withholds_a_claim() -> None:
    one, other = ProofImage(scene(56)), ProofImage(as_jpeg(captioned(scene(56)), 80))
    assert prove_pixels(one, other).verdict is not None
    strict = dict.fromkeys(PROVEN_LEVELS, 99.0)
    assert prove_pixels(one, other, strict).verdict is None
    lower = dict.fromkeys(PROVEN_LEVELS, -99.0)
    assert prove_pixels(one, other, lower) == prove_pixels(one, other)


def test_the_model_that_ships_has_trees_and_thresholds_for_every_level() -> None:
    model = pixel_model()
    assert model.facts == PixelFacts._fields
    for level in PROVEN_LEVELS:
        assert model.levels[level].trees
        assert math.isfinite(model.thresholds[level])
