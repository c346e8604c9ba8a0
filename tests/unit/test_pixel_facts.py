"""Facts about two aligned pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from likeness.proof.pixel_facts import PixelFacts, components
from likeness.proof.pixel_proof import ProofImage, compare_pixels
from tests.pictures import as_jpeg, scene


def facts(one: Image.Image, other: Image.Image) -> PixelFacts:
    found = compare_pixels(ProofImage(one), ProofImage(other))
    assert found is not None
    return found.facts


def test_a_compressed_picture_agrees_everywhere_and_keeps_its_colours() -> None:
    found = facts(scene(21), as_jpeg(scene(21), 70))
    assert found.share > 0.97 and found.quality > 0.9
    assert found.covered_least > 0.99
    assert found.unchanged > 0.8 and found.colour_median < 4
    assert found.turn < 0.01 and found.mirrored == 0


def test_a_caption_is_one_difference_outside_of_which_all_agrees() -> None:
    image = scene(22)
    captioned = image.copy()
    ImageDraw.Draw(captioned).rectangle((40, 220, 360, 280), fill="white")
    found = facts(image, captioned)
    assert found.share < 0.95
    assert found.outside > 0.97
    assert 0.05 < found.difference_area < 0.35


def test_brightness_is_explained_by_one_tone_curve() -> None:
    found = facts(scene(23), ImageEnhance.Brightness(scene(23)).enhance(0.6))
    assert found.share > 0.95
    assert found.changed > 0.5
    assert found.tone_unexplained < 0.1 and found.hue_turned < 0.1


def test_a_colour_that_only_one_object_changed_is_not_explained_by_one_transform() -> None:
    image = scene(24)
    pixels = np.asarray(image).copy()
    pixels[100:200, 120:280] = pixels[100:200, 120:280, ::-1]  # red and blue exchanged
    found = facts(image, Image.fromarray(pixels))
    assert found.hue_turned > 0.03 or found.colour_unexplained > 0.03


def test_components_join_cells_that_are_one_apart() -> None:
    mask = np.zeros((6, 8), bool)
    mask[0, 0] = mask[0, 2] = mask[5, 7] = True
    labels = components(mask)
    assert labels[0, 0] == labels[0, 2] != labels[5, 7] > 0
    assert (labels > 0).sum() == 3
