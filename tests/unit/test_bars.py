"""Bars and rims, on pictures made here; and on real ones, where they are at hand."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from likeness.pixels.bars import content_box
from likeness.records import WHOLE, Box
from tests.pictures import encoded, picture

DATA = Path(__file__).parents[3] / "shared" / "data"
PHOTO = picture(3, 300, 200)


def in_bars(
    image: Image.Image,
    before: int,
    after: int,
    colour: object = "black",
    upright: bool = False,
) -> tuple[Image.Image, Box]:
    """The image between bars above and below it, or `upright` ones beside it, and where it is."""
    width, height = image.size
    size = (width + before + after, height) if upright else (width, height + before + after)
    canvas = Image.new("RGB", size, colour)  # type: ignore[arg-type]
    at = (before, 0) if upright else (0, before)
    canvas.paste(image, at)
    ends = [at[0] / size[0], at[1] / size[1]]
    ends += [(at[0] + width) / size[0], (at[1] + height) / size[1]]
    return canvas, Box(*ends)


def compressed(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=quality))).convert("RGB")


@pytest.mark.parametrize("upright", [False, True], ids=["letterbox", "pillarbox"])
@pytest.mark.parametrize("colour", ["black", (16, 16, 16), "white", (120, 30, 60)])
@pytest.mark.parametrize(("before", "after"), [(60, 60), (30, 90), (15, 16)])
def test_bars_are_found(before: int, after: int, colour: object, upright: bool) -> None:
    barred, inside = in_bars(PHOTO, before, after, colour, upright)
    assert content_box(barred) == pytest.approx(inside, abs=0.015)


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("quality", [85, 60])
def test_compression_hides_no_bars(quality: int, scale: int) -> None:
    photo = PHOTO.resize((300 * scale, 200 * scale))
    barred, inside = in_bars(photo, 50 * scale, 40 * scale)
    assert content_box(compressed(barred, quality)) == pytest.approx(inside, abs=0.03)


def test_the_content_has_no_pixel_of_the_bars() -> None:
    barred, _ = in_bars(PHOTO, 61, 47)
    blend = np.asarray(barred).copy()
    blend[[61, -48]] //= 2  # an edge between two rows
    left, top, right, bottom = content_box(Image.fromarray(blend))
    assert (left, right) == (0, 1)
    assert 62 <= round(top * barred.height) <= 64
    assert 48 <= round((1 - bottom) * barred.height) <= 50


def test_a_video_on_an_upright_screen_is_found() -> None:
    barred, inside = in_bars(picture(4, 360, 203), 218, 219)
    assert content_box(barred) == pytest.approx(inside, abs=0.015)


def test_both_pairs_of_bars_are_cut() -> None:
    letterboxed, _ = in_bars(PHOTO, 20, 20)
    barred, _ = in_bars(letterboxed, 90, 90, upright=True)
    expected = (90 / 480, 20 / 240, 390 / 480, 220 / 240)
    assert content_box(barred) == pytest.approx(expected, abs=0.015)


def on_white(width: int = 300, height: int = 200) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    canvas = Image.new("RGB", (width, height), "white")
    return canvas, ImageDraw.Draw(canvas)


def product() -> Image.Image:
    """Touches no edge of the image, and its own margins in one place each."""
    canvas, draw = on_white()
    draw.ellipse((60, 30, 240, 170), fill="firebrick", outline="black", width=4)
    return canvas


def drawing() -> Image.Image:
    canvas, draw = on_white()
    for x in range(0, 300, 12):
        draw.line((x, 40, 300 - x, 160), fill="black", width=2)
    return canvas


def outlined_drawing() -> Image.Image:
    canvas, draw = on_white()
    draw.rectangle((0, 30, 299, 170), outline="black", width=3)
    draw.line((0, 100, 299, 60), fill="black", width=3)
    draw.ellipse((100, 60, 200, 140), outline="black", width=3)
    return canvas


def framed() -> Image.Image:
    canvas = Image.new("RGB", (340, 240), "black")
    canvas.paste(PHOTO, (20, 20))
    return canvas


def flag(*stripes: str) -> Image.Image:
    canvas, draw = on_white()
    for row, stripe in enumerate(stripes):
        top, bottom = (200 * end // len(stripes) for end in (row, row + 1))
        draw.rectangle((0, top, 299, bottom - 1), fill=stripe)
    draw.ellipse((130, 80, 170, 120), fill="green")
    return canvas


def one_sided() -> Image.Image:
    return in_bars(PHOTO, 60, 0)[0]


def with_header_and_footer() -> Image.Image:
    canvas, draw = on_white()
    draw.rectangle((0, 0, 299, 25), fill="black")
    draw.rectangle((0, 175, 299, 199), fill="black")
    for y in range(50, 160, 12):
        draw.line((20, y, 60 + (y * 7) % 220, y), fill="black", width=3)
    return canvas


def product_on_black() -> Image.Image:
    canvas = Image.new("RGB", (300, 200), "black")
    ImageDraw.Draw(canvas).polygon([(150, 20), (280, 170), (20, 180)], fill="orange")
    return canvas


def vignette() -> Image.Image:
    rows = np.minimum(np.arange(200), np.arange(200)[::-1]) * 2
    return Image.fromarray(np.broadcast_to(rows[:, None, None], (200, 300, 3)).astype(np.uint8))


def sliver() -> Image.Image:
    return in_bars(picture(5, 300, 40), 130, 130)[0]


@pytest.mark.parametrize(
    "image",
    [
        PHOTO,
        product(),
        drawing(),
        outlined_drawing(),
        framed(),
        flag("red", "white", "red"),
        flag("blue", "yellow", "white", "yellow", "blue"),
        one_sided(),
        with_header_and_footer(),
        product_on_black(),
        vignette(),
        sliver(),
        Image.new("RGB", (300, 200), "black"),
        Image.new("RGB", (1, 1)),
        Image.new("RGB", (20_000, 2), "red"),
    ],
    ids=[
        "photo",
        "product on white",
        "drawing",
        "outlined drawing",
        "frame",
        "flag",
        "flag of five stripes",
        "one bar",
        "page",
        "product on black",
        "vignette",
        "sliver",
        "flat",
        "pixel",
        "line",
    ],
)
def test_nothing_else_is_cut(image: Image.Image) -> None:
    assert content_box(image) == WHOLE
    assert content_box(compressed(image, 75)) == WHOLE


def real_files(folder: str, column: str, value: str) -> Iterator[Path]:
    labels = DATA / folder / "labels.csv"
    if not labels.exists():
        pytest.skip(f"{folder} is not in shared/data")
    with labels.open() as file:
        for row in csv.DictReader(file):
            if row[column] == value:
                yield labels.parent / row["path"]


@pytest.mark.parametrize(
    ("folder", "column", "value", "most"),
    [
        ("grocery", "split", "iconic", 0),
        # of 1,791: a cupboard as wide as its picture is high, and a print on black cloth
        ("varied", "kind", "drawing", 2),
        ("varied", "kind", "logo", 0),
    ],
)
def test_catalogue_pictures_line_art_and_flags_are_not_cut(
    folder: str, column: str, value: str, most: int
) -> None:
    cut = [
        path.name
        for path in real_files(folder, column, value)
        if content_box(Image.open(path).convert("RGB")) != WHOLE
    ]
    assert len(cut) <= most, cut
