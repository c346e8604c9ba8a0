"""What transparent pixels are laid on."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from likeness.pixels.ground import DARK, WHITE, on_ground
from tests.pictures import picture


def ring(colour: tuple[int, int, int], size: int = 200, alpha: int = 255) -> Image.Image:
    """A drawing on a transparent ground."""
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    box = (size // 5, size // 5, size * 4 // 5, size * 4 // 5)
    ImageDraw.Draw(image).ellipse(box, outline=(*colour, alpha), width=size // 10)
    return image


@pytest.mark.parametrize("size", [40, 200, 1500])
@pytest.mark.parametrize(
    ("colour", "ground"),
    [
        ((255, 255, 255), DARK),
        ((240, 245, 240), DARK),
        ((0, 0, 0), WHITE),
        ((128, 128, 128), WHITE),
        ((255, 0, 0), WHITE),
        (DARK, WHITE),
    ],
)
def test_it_stands_out(
    colour: tuple[int, int, int], ground: tuple[int, int, int], size: int
) -> None:
    found = on_ground(ring(colour, size))
    assert found.mode == "RGB"
    assert found.getpixel((0, 0)) == ground
    assert found.getpixel((size // 2, size // 5 + size // 20)) == colour


def test_white_with_an_outline_stays_on_white() -> None:
    image = ring((255, 255, 255))
    ImageDraw.Draw(image).ellipse((38, 38, 162, 162), outline=(0, 0, 0, 255), width=3)
    assert on_ground(image).getpixel((0, 0)) == WHITE


def test_what_is_hardly_visible_hardly_counts() -> None:
    """Black under transparent pixels, and a faint shadow, are no reason for white."""
    image = ring((255, 255, 255))
    shadow = ring((0, 0, 0), alpha=2).rotate(0, translate=(20, 20))
    faint = Image.alpha_composite(shadow, image)
    assert on_ground(faint).getpixel((0, 0)) == DARK


def test_a_white_photo_without_transparency_and_a_transparent_image_are_as_on_white() -> None:
    pale = Image.new("RGBA", (50, 50), (250, 250, 250, 255))
    assert on_ground(pale).getpixel((3, 3)) == (250, 250, 250)
    assert on_ground(Image.new("RGBA", (50, 50))).getpixel((3, 3)) == WHITE


def test_it_is_composited_as_pillow_does() -> None:
    image = picture(2, 60, 40).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((60, 40)))
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, image).convert("RGB")
    assert np.abs(np.subtract(on_ground(image), expected, dtype=np.int16)).max() <= 1
