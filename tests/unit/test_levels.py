"""Which pictures are levelled, and how."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from likeness.pixels.levels import levelled
from tests.pictures import picture

SIZE = (224, 224)
PHOTO = picture(3, *SIZE)


def toned(gain: float, offset: float = 0.0, noise: float = 0.0) -> Image.Image:
    """PHOTO, darker or paler."""
    values = np.asarray(PHOTO, np.float32) * gain + offset
    values += np.random.default_rng(0).normal(0, noise, values.shape)
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def values(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image, np.float32)


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(values(one) - values(other)).mean())


@pytest.mark.parametrize(
    ("gain", "offset", "noise", "remains"),
    [(0.3, 0, 4, 20), (0.13, 0, 3, 30), (0.3, 120, 2, 20), (0.3, 170, 0, 20)],
    ids=["dark", "very dark", "washed out", "pale"],
)
def test_it_comes_close_to_the_original(
    gain: float, offset: float, noise: float, remains: float
) -> None:
    found = levelled(toned(gain, offset, noise))
    assert (found.mode, found.size) == ("RGB", SIZE)
    assert distance(found, PHOTO) < remains < distance(toned(gain, offset, noise), PHOTO) / 2


def test_colours_stay() -> None:
    """One map for all channels: what is grey stays grey, and what is red stays red."""
    image = Image.new("RGB", SIZE, (20, 20, 20))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 111, 111), fill=(60, 20, 20))
    draw.rectangle((112, 112, 223, 223), fill=(60, 60, 60))
    found = levelled(image)
    assert [found.getpixel(at) for at in ((50, 50), (180, 50), (180, 180))] == [
        (255, 0, 0),
        (0, 0, 0),
        (255, 255, 255),
    ]


def test_what_is_dark_even_then_is_lifted() -> None:
    image = Image.new("RGB", SIZE, (4, 4, 4))
    ImageDraw.Draw(image).rectangle((0, 0, 111, 223), fill=(14, 14, 14))
    ImageDraw.Draw(image).rectangle((0, 0, 20, 20), fill=(80, 80, 80))
    dim = levelled(image).getpixel((60, 180))
    assert isinstance(dim, tuple)
    assert dim[0] > 255 * (14 - 4) / (80 - 4) * 1.5


def night() -> Image.Image:
    image = Image.new("RGB", SIZE, (6, 6, 12))
    draw = ImageDraw.Draw(image)
    for x in range(20, 220, 40):
        draw.ellipse((x, 90, x + 10, 100), fill=(255, 240, 200))
    return image


def line_art() -> Image.Image:
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    for x in range(10, 220, 30):
        draw.line((x, 10, 224 - x, 210), fill="black", width=2)
    return image


def on_black() -> Image.Image:
    image = Image.new("RGB", SIZE, "black")
    ImageDraw.Draw(image).ellipse((60, 60, 160, 160), fill=(180, 90, 30))
    return image


def flat(noise: float) -> Image.Image:
    grains = np.random.default_rng(1).normal((90, 80, 110), noise, (*SIZE, 3))
    return Image.fromarray(grains.clip(0, 255).round().astype(np.uint8))


@pytest.mark.parametrize(
    "image",
    [PHOTO, toned(0.6), toned(0.5, 60), night(), line_art(), on_black(), flat(0), flat(3), flat(9)],
    ids=["photo", "dim", "pale", "night", "line art", "on black", "flat", "grain", "coarse grain"],
)
def test_other_pictures_are_the_same_object(image: Image.Image) -> None:
    assert levelled(image) is image


def test_noise_that_would_be_amplified_is_smoothed() -> None:
    noisy, clean = (values(levelled(toned(0.13, noise=n))) for n in (6, 0))
    gain = 1 / 0.13
    assert np.abs(noisy - clean).mean() < 6 * gain / 2


@pytest.mark.parametrize("size", [(1, 1), (31, 224), (32, 32), (33, 47)])
def test_every_size_is_taken(size: tuple[int, int]) -> None:
    dark = Image.fromarray((values(picture(1, *size)) * 0.2).astype(np.uint8))
    assert levelled(dark).size == size
