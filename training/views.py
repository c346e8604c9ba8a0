"""The training's augmentation: edited views of a photo, each with its homography.

Run as a script, it writes a contact sheet for inspection.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

SIDE = 192  # pixels of a view; the photos are no larger
UNIT_SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


class View(NamedTuple):
    """A view of SIDE × SIDE pixels, and its mapping to the photo.

    `to_photo` is the homography from the view's unit square to the photo's: (3, 3).
    """

    image: Image.Image
    to_photo: NDArray[np.float64]


def make_view(
    photo: Image.Image, another: Callable[[], Image.Image], rng: np.random.Generator
) -> View:
    """One random view: the whole photo, a crop, rotated, or pasted into another photo."""
    kind = rng.random()
    if kind < 0.15:
        to_photo = np.eye(3)
        image = photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    elif kind < 0.75:
        to_photo = homography(UNIT_SQUARE, _crop(rng))
        image = _render(photo, to_photo, _colour(rng))
    else:
        to_photo = homography(_pasted_area(rng), UNIT_SQUARE)
        scene = _render(another(), homography(UNIT_SQUARE, _crop(rng)), _colour(rng))
        image = _paste(photo, to_photo, scene)
    return View(_retouched(image, rng), to_photo)


def homography(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 3 × 3 matrix that maps four points (4, 2) to four others.

    Hartley and Zisserman, Multiple View Geometry, 2nd ed., section 4.1, with h33 = 1.
    """
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    solved = np.linalg.solve(np.array(rows), np.array(values))
    return np.append(solved, 1.0).reshape(3, 3)


def _quad(
    centre: NDArray[np.float64], sides: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Corners of a rectangle, rotated, sometimes mirrored or in perspective."""
    corners = (UNIT_SQUARE - 0.5) * sides
    kind = rng.random()
    if kind < 0.08:
        angle = math.pi / 2 * rng.integers(1, 4)
    elif kind < 0.25:
        angle = rng.uniform(-0.8, 0.8)
    else:
        angle = rng.normal(0, 0.08)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    corners = corners @ turn.T
    if rng.random() < 0.35:
        corners += rng.uniform(-0.12, 0.12, (4, 2)) * sides
    if rng.random() < 0.15:
        corners[:, 0] = -corners[:, 0]
    return np.asarray(centre + corners, np.float64)


def _crop(rng: np.random.Generator) -> NDArray[np.float64]:
    """Corners, in the photo, of the part that becomes the view."""
    side = math.sqrt(math.exp(rng.uniform(math.log(0.15), math.log(1.1))))
    aspect = math.exp(rng.uniform(-0.3, 0.3) / 2)
    sides = np.array([side * aspect, side / aspect])
    margin = np.maximum(0, 1 - sides) / 2
    return _quad(0.5 + rng.uniform(-margin, margin), sides, rng)


def _pasted_area(rng: np.random.Generator) -> NDArray[np.float64]:
    """Corners, in the view, of the area where the whole photo is pasted."""
    side = rng.uniform(0.4, 0.9)
    aspect = math.exp(rng.uniform(-0.3, 0.3) / 2)
    sides = np.array([side * aspect, side / aspect])
    margin = np.maximum(0, 1 - sides) / 2
    return _quad(0.5 + rng.uniform(-margin, margin), sides, rng)


def _render(
    photo: Image.Image, to_photo: NDArray[np.float64], fill: tuple[int, ...]
) -> Image.Image:
    """The view's pixels; a photo that shrinks a lot is reduced first, to avoid aliasing."""
    corners = np.column_stack([UNIT_SQUARE, np.ones(4)]) @ to_photo.T
    corners = corners[:, :2] / corners[:, 2:]
    # shoelace formula: area of the photo, in photos, that the view covers
    x, y = corners.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    shrink = math.sqrt(area) * max(photo.size) / SIDE
    if shrink > 1.3:
        width, height = (max(8, round(s / shrink)) for s in photo.size)
        photo = photo.resize((width, height), Image.Resampling.BOX)
    width, height = photo.size
    pixels = np.diag([width, height, 1.0]) @ to_photo @ np.diag([1 / SIDE, 1 / SIDE, 1.0])
    coefficients = (pixels / pixels[2, 2]).ravel()[:8]
    return photo.transform(
        (SIDE, SIDE),
        Image.Transform.PERSPECTIVE,
        tuple(coefficients),
        Image.Resampling.BICUBIC,
        fillcolor=fill,
    )


def _paste(photo: Image.Image, to_photo: NDArray[np.float64], scene: Image.Image) -> Image.Image:
    mask = _render(Image.new("L", photo.size, 255), to_photo, (0,))
    return Image.composite(_render(photo, to_photo, (0, 0, 0)), scene, mask)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3)
    return int(red), int(green), int(blue)


def _retouched(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Edits that apps, cameras and people make to an image, each with its own probability."""
    if rng.random() < 0.5:
        image = _recoloured(image, rng)
    if rng.random() < 0.05:
        image = image.convert("L").convert("RGB")
    if rng.random() < 0.12:
        image = _overlaid(image, rng)
    if rng.random() < 0.1:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.8)))
    if rng.random() < 0.1:
        noisy = np.asarray(image) + rng.normal(0, rng.uniform(3, 18), (SIDE, SIDE, 3))
        image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(15, 90)))
        image = Image.open(file).convert("RGB")
    return image


def _recoloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.6, 1.4))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.6, 1.4))
    image = ImageEnhance.Color(image).enhance(rng.uniform(0.4, 1.6))
    gains = np.exp(rng.normal(0, 0.1, 3))
    table = np.clip(np.arange(256)[None] * gains[:, None], 0, 255).astype(np.uint8)
    return image.point(table.ravel().tolist())


def _overlaid(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A border, a box or a line of letters in a random colour."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    kind = rng.integers(0, 3)
    if kind == 0:
        draw.rectangle(
            (0, 0, SIDE - 1, SIDE - 1), outline=_colour(rng), width=int(rng.integers(3, 22))
        )
    elif kind == 1:
        x, y = rng.integers(0, SIDE * 3 // 4, 2)
        width, height = rng.integers(SIDE // 8, SIDE // 2, 2)
        draw.rectangle((x, y, x + width, y + height), fill=_colour(rng))
    else:
        text = "".join(chr(c) for c in rng.integers(65, 91, rng.integers(3, 12)))
        at = (int(rng.integers(0, SIDE // 2)), int(rng.integers(0, SIDE * 3 // 4)))
        draw.text(at, text, fill=_colour(rng), font_size=int(rng.integers(14, 44)))
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="+", help="image files")
    parser.add_argument("--out", type=Path, default=Path("views.png"))
    parser.add_argument("--views", type=int, default=10, help="number of views of each photo")
    arguments = parser.parse_args()
    photos = [Image.open(path).convert("RGB") for path in arguments.photos]
    rng = np.random.default_rng(0)
    sheet = Image.new("RGB", (SIDE * arguments.views, SIDE * len(photos)))
    for row, photo in enumerate(photos):
        for column in range(arguments.views):
            view = make_view(photo, lambda: photos[rng.integers(len(photos))], rng)
            sheet.paste(view.image, (column * SIDE, row * SIDE))
    sheet.save(arguments.out)


if __name__ == "__main__":
    main()
