"""Which frame of an animation represents it."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, features

from likeness.pixels.frames import BLANK_FRAMES, representative
from tests.pictures import encoded, picture

PHOTO = picture(4, 120, 90)
BLACK = Image.new("RGB", PHOTO.size)
FORMATS = ["GIF", "PNG", "WEBP", *(["AVIF"] if features.check("avif") else [])]


def faded(share: float) -> Image.Image:
    return Image.blend(BLACK, PHOTO, share)


def animation(frames: Sequence[Image.Image], format: str = "GIF") -> Image.Image:
    lossless = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **lossless)
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def chosen(image: Image.Image, max_pixels: int = 50_000_000) -> Image.Image:
    return representative(image, lambda frame: frame.convert("RGB"), max_pixels)


def distance(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.subtract(one, other, dtype=np.float32)).mean())


@pytest.mark.parametrize("format", FORMATS)
def test_the_first_frame_with_content_is_taken(format: str) -> None:
    found = chosen(animation([BLACK, faded(0.05), PHOTO, picture(5, 120, 90)], format))
    assert distance(found, PHOTO) < 8 < distance(found, picture(5, 120, 90))


@pytest.mark.parametrize("format", FORMATS)
def test_a_first_frame_with_content_is_taken_and_no_other_is_read(format: str) -> None:
    dim = faded(0.1)
    image = animation([dim, PHOTO], format)
    assert image.is_animated  # type: ignore[attr-defined]
    image.seek = None  # type: ignore[method-assign, assignment]
    assert distance(chosen(image), dim) < 4


def test_of_frames_with_little_content_the_one_with_most_is_taken() -> None:
    found = chosen(animation([BLACK, faded(0.05), faded(0.12), faded(0.08)], "PNG"))
    assert distance(found, faded(0.12)) < 1


def test_where_none_has_content_their_number_is_kept() -> None:
    flat = [Image.new("RGB", (60, 40), (shade, 0, 0)) for shade in range(0, 90, 30)]
    found = chosen(animation(flat, "PNG"))
    assert found.info[BLANK_FRAMES] == 3
    assert found.getpixel((0, 0)) == (0, 0, 0)


def test_a_picture_is_no_animation() -> None:
    assert BLANK_FRAMES not in chosen(Image.open(io.BytesIO(encoded(BLACK)))).info


def test_frames_and_pixels_are_limited() -> None:
    flat = [Image.new("RGB", (60, 40), (shade % 256, shade // 256, 0)) for shade in range(70)]
    image = animation([*flat, PHOTO.resize((60, 40))], "PNG")
    assert chosen(image).info[BLANK_FRAMES] == 50
    image = animation([*flat[:9], PHOTO.resize((60, 40))], "PNG")
    assert chosen(image, max_pixels=4 * 60 * 40).info[BLANK_FRAMES] == 4


def test_a_damaged_frame_ends_the_search() -> None:
    data = encoded(BLACK, "GIF", save_all=True, append_images=[picture(7, 120, 90), PHOTO])
    image = Image.open(io.BytesIO(data[: len(data) // 3]))
    image.load()
    assert chosen(image).size == PHOTO.size


def test_frames_larger_than_the_canvas_are_not_read() -> None:
    """Pillow lets a GIF's canvas grow with them: 125 kB took 2.1 GB and nine seconds."""
    first, grown = (encoded(Image.new("P", size), "GIF") for size in ((1, 1), (9000, 9000)))
    blocks = [data[data.index(b",", 13 + 3 * (2 << (data[10] & 7))) :] for data in (first, grown)]
    data = first[: -len(blocks[0])] + blocks[0][:-1] + blocks[1]
    image = Image.open(io.BytesIO(data))
    image.load()
    found = chosen(image)
    assert (found.size, found.info[BLANK_FRAMES]) == ((1, 1), 1)
    image = Image.open(io.BytesIO(data))
    image.seek(1)
    assert image.size == (9000, 9000)  # else this would test nothing
