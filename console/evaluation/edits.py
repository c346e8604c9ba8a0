"""Named edits of an image, each with the level that original and edit should be judged to be.

They are the ground truth of `likeness calibrate` and `likeness evaluate --synthetic`. Strengths are
random, so that pairs vary; the same state of the generator gives the same file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from likeness.images import decode
from likeness.proof.verdicts import Level
from likeness.settings import Limits

from ..demo.sample_images import jpeg

Another = Callable[[], Image.Image]
Make = Callable[[Image.Image, Another, np.random.Generator], bytes]
Encode = Callable[[Image.Image, np.random.Generator], bytes]
Change = Callable[[Image.Image, np.random.Generator], Image.Image]
Compose = Callable[[Image.Image, Another, np.random.Generator], Image.Image]
Colour = tuple[int, int, int]
Floats = NDArray[np.float64]

_LONGEST = 1024  # pixels of the long side: larger images are scaled down, and still are copies
_SHORTEST = 96  # pixels that scaling down leaves of the short side
_GRAINS = 320  # of noise along the long side; finer noise would vanish when images are scaled
_UNIT_SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
# Short side in pixels that an edit starts from, about a phone's screen.
START_SIDE = 1024
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, 2.5.1
_SMOOTH = (
    *(Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.HAMMING),
    *(Image.Resampling.BICUBIC, Image.Resampling.LANCZOS),
)
# From this mean difference (of 255) between two 12 × 12 layouts on, colours differ visibly. An
# encoder alone makes about 1.
_VISIBLE = 12.0
_CELLS = (12, 12)
_SHAPE = (48, 48)
_ALIKE = 0.25  # mean difference over the contrast, from which shapes are not the same
_TRIES = 20


class Edit(NamedTuple):
    """`make` takes an upright RGB image of any size, a function that returns another image (for
    scenes) and a random generator; it returns the edited file. upright: whether the edit shows the
    image upright and alone, so that the index can suspect it.
    """

    name: str
    level: Level
    make: Make
    upright: bool = True


def _copied(
    encode: Encode, image: Image.Image, _another: Another, rng: np.random.Generator
) -> bytes:
    return encode(_bounded(image), rng)


def _changed(
    change: Change,
    qualities: tuple[int, int],
    image: Image.Image,
    _another: Another,
    rng: np.random.Generator,
) -> bytes:
    changed = change(_bounded(image), rng)
    return jpeg(changed, int(rng.integers(*qualities, endpoint=True)))


def _placed(image: Image.Image, another: Another, rng: np.random.Generator) -> bytes:
    """The image as a part of a scene, like a photo of a print.

    It spans 35 to 70 % of the scene, which is scaled so that the image keeps its resolution.
    """
    item = _recoloured(_bounded(image), rng, 0.35)
    scene = another()
    corners = (_UNIT_SQUARE - 0.5 + rng.uniform(-0.1, 0.1, (4, 2))) * item.size
    angle = math.radians(rng.uniform(-20, 20))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    corners = corners @ turn.T
    corners -= corners.min(axis=0)
    share = rng.uniform(0.35, 0.7)
    sides = np.array(scene.size) * (corners.max(axis=0) / share / scene.size).max()
    shrink = min(1, _LONGEST / sides.max())
    scene = _resized(scene, sides * shrink)
    corners = (corners + rng.random(2) * (sides - corners.max(axis=0))) * shrink
    item = _resized(item, np.array(item.size) * shrink)
    _lay(item, corners, scene)
    return jpeg(scene, int(rng.integers(50, 95, endpoint=True)))


def _composed(
    compose: Compose, image: Image.Image, another: Another, rng: np.random.Generator
) -> bytes:
    composed = _bounded(compose(_bounded(image), another, rng))
    return jpeg(composed, int(rng.integers(*_GOOD, endpoint=True)))


def _on_a_phone(image: Image.Image, _another: Another, rng: np.random.Generator) -> Image.Image:
    """A screenshot: the image on 50 to 80 % of the width, below a status bar and a title, above
    buttons and lines of text.
    """
    width = round(image.width / rng.uniform(0.5, 0.8))
    unit = max(2, width // 40)
    height = max(image.height + 14 * unit, round(width * rng.uniform(1.4, 2.1)))
    paper, ink = [((255, 255, 255), (30, 30, 36)), ((20, 20, 24), (230, 230, 235))][rng.integers(2)]
    screen = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(screen)
    draw.text(
        (2 * unit, unit), f"{rng.integers(24):02}:{rng.integers(60):02}", ink, _font(2 * unit)
    )
    draw.rectangle((width - 5 * unit, unit, width - 2 * unit, 2.5 * unit), ink)
    _write(draw, _letters(8, rng), (4 * unit, 4 * unit, 20 * unit, 6 * unit), ink, paper)
    left, top = (width - image.width) // 2, 8 * unit
    screen.paste(image, (left, top))
    _draw_controls(draw, (left, top + image.height + unit, width - left, height), unit, ink, rng)
    return screen


def _draw_controls(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    unit: int,
    ink: Colour,
    rng: np.random.Generator,
) -> None:
    """Round buttons, then lines of text to the bottom."""
    left, top, right, bottom = box
    for number in range(3):
        x = left + 4 * unit * number
        draw.ellipse(
            (x, top, x + 2.5 * unit, top + 2.5 * unit), outline=ink, width=max(1, unit // 4)
        )
    for y in range(top + 4 * unit, bottom - 2 * unit, 2 * unit):
        text = " ".join(_letters(int(rng.integers(2, 9)), rng).lower() for _ in range(12))
        draw.text((left, y), text[: (right - left) * 2 // (unit * 2)], ink, _font(1.4 * unit))


def _in_a_collage(image: Image.Image, another: Another, rng: np.random.Generator) -> Image.Image:
    """One of four in two rows; the others are cropped to its shape."""
    gap = max(1, round(max(image.size) * rng.uniform(0, 0.03)))
    width, height = (side + gap for side in image.size)
    grey = (int(rng.integers(256)),) * 3
    sheet = Image.new("RGB", (2 * width + gap, 2 * height + gap), grey)
    own = int(rng.integers(4))
    for n in range(4):
        part = image if n == own else ImageOps.fit(another(), image.size)
        sheet.paste(part, (gap + n % 2 * width, gap + n // 2 * height))
    return sheet


def _from_a_screen(image: Image.Image, another: Another, rng: np.random.Generator) -> Image.Image:
    """A photo of a monitor: lit pixels beat with the camera's (moiré), the view is oblique."""
    lit = 255 * (np.asarray(image) / 255) ** rng.uniform(0.8, 1.4) + rng.uniform(0, 20)
    rows, columns = np.indices((image.height, image.width))
    angle, period = rng.uniform(0, math.pi), rng.uniform(3, 9)
    wave = np.sin((rows * math.sin(angle) + columns * math.cos(angle)) * 2 * math.pi / period)
    tints = rng.uniform(0.9, 1.05, 3) * (1 + rng.uniform(0.03, 0.1) * wave[..., None])
    bezel = ImageOps.expand(_to_image(lit * tints), max(2, image.width // 30), (18, 18, 20))
    margin = rng.uniform(0.05, 0.2)
    room = _resized(another(), np.array(bezel.size) * (1 + 2 * margin))
    corners = (_UNIT_SQUARE + rng.uniform(-0.05, 0.05, (4, 2)) + margin) * bezel.size
    _lay(bezel, corners, room)
    return room.filter(ImageFilter.GaussianBlur(max(room.size) / 1000))


def _lay(image: Image.Image, corners: Floats, scene: Image.Image) -> None:
    """Paste the image into the scene, with its four corners at these places."""
    to_image = _homography(corners, _UNIT_SQUARE * image.size)
    mask = _warped(Image.new("L", image.size, 255), to_image, scene.size, 0)
    scene.paste(_warped(image, to_image, scene.size, _edge_colour(image)), mask=mask)


def _as_jpeg(image: Image.Image, rng: np.random.Generator) -> bytes:
    return jpeg(image, int(rng.integers(10, 95, endpoint=True)))


def _as_webp(image: Image.Image, rng: np.random.Generator) -> bytes:
    out = io.BytesIO()
    image.save(out, "WEBP", quality=int(rng.integers(40, 90, endpoint=True)))
    return out.getvalue()


def _smaller(image: Image.Image, rng: np.random.Generator) -> bytes:
    return _rescaled(image, rng.uniform(0.3, 0.9), rng)


def _smaller_twice(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Like an image that was forwarded twice."""
    share = math.sqrt(rng.uniform(0.3, 0.9))
    once = decode(_rescaled(image, share, rng), Limits(), _LONGEST)[0]
    return _rescaled(once, share, rng)


def _rescaled(image: Image.Image, share: float, rng: np.random.Generator) -> bytes:
    share = max(share, min(1, _SHORTEST / min(image.size)))
    small = _resized(image, np.array(image.size) * share, _SMOOTH[rng.integers(len(_SMOOTH))])
    return jpeg(small, int(rng.integers(50, 95, endpoint=True)))


def _cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _detailed_part(image, rng.uniform(0.4, 0.9, 2), rng)


def _zoomed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    part = _detailed_part(image, np.full(2, rng.uniform(0.5, 0.7)), rng)
    return part.resize(image.size, Image.Resampling.BICUBIC)


def _detailed_part(image: Image.Image, shares: Floats, rng: np.random.Generator) -> Image.Image:
    """A part that holds its share of the detail: an empty one shows nothing of the image."""
    enough = 0.5 * float(np.prod(shares)) * _detail(image)
    for _ in range(_TRIES):
        part = image.crop(_box(image, shares, rng))
        if _detail(part) >= enough:
            break
    return part


def _detail(image: Image.Image) -> float:
    """The sum of the differences between neighbouring pixels."""
    grey = np.asarray(image.convert("L"), float)
    return float(sum(np.abs(np.diff(grey, axis=axis)).sum() for axis in (0, 1)))


def _rotated(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Corners are filled or cropped."""
    angle = float(_with_random_signs(rng.uniform(3, 15, 1), rng)[0])
    kind = rng.integers(3)
    turned = image.rotate(
        angle, Image.Resampling.BICUBIC, expand=kind == 1, fillcolor=_fill(image, rng)
    )
    if kind < 2:
        return turned
    # the largest inner part of the same aspect ratio, less the interpolated edge
    width, height = image.size
    sine, cosine = abs(math.sin(math.radians(angle))), math.cos(math.radians(angle))
    keep = 1 / (cosine + sine * max(width / height, height / width))
    inner = max(1, int(width * keep) - 2), max(1, int(height * keep) - 2)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    return turned.crop((left, top, left + inner[0], top + inner[1]))


def _in_perspective(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    shifts = _with_random_signs(rng.uniform(0.05, 0.15, (4, 2)), rng)
    quad = (_UNIT_SQUARE + shifts) * image.size
    to_image = _homography(_UNIT_SQUARE * image.size, quad)
    return _warped(image, to_image, image.size, _fill(image, rng))


def _mirrored(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Left to right."""
    return _distinct(ImageOps.mirror(image), image, rng)


def _quarter_turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)
    return _distinct(image.transpose(turns[rng.integers(2)]), image, rng)


def _half_turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _distinct(image.transpose(Image.Transpose.ROTATE_180), image, rng)


def _distinct(turned: Image.Image, image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The turned image; a symmetric one is cropped too, or it would be a copy."""
    if not _is_alike(turned, image):
        return turned
    return turned.crop(_box(turned, rng.uniform(0.7, 0.9, 2), rng))


def _visibly_recoloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _until_visible(image, lambda strength: _recoloured(image, rng, strength))


def _grey(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Without colours; an image with few gets another contrast, or it would be a copy."""

    def grey(strength: float) -> Image.Image:
        return _recoloured(image, rng, strength / 2).convert("L").convert("RGB")

    return _until_visible(image, grey)


def _until_visible(image: Image.Image, change: Callable[[float], Image.Image]) -> Image.Image:
    """The change at strength 1, or at the first strength above it that is visible."""
    changed = change(1)
    for strength in np.linspace(1, 2, _TRIES):
        if _differs(changed, image):
            break
        changed = change(strength)
    return changed


def _recoloured(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Changed brightness, white balance, contrast and saturation."""
    gains = _with_random_signs(rng.uniform(0.1, 0.4, 1), rng) + rng.uniform(-0.15, 0.15, 3)
    contrast, saturation = rng.uniform([-0.5, -1], [0.4, 0.6])
    pixels = np.asarray(image) * np.exp(strength * gains)
    grey = (pixels @ _LUMA)[..., None]
    pixels = grey + (pixels - grey) * math.exp(strength * saturation)
    return _to_image((pixels - 128) * math.exp(strength * contrast) + 128)


def _toned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Another brightness, contrast and gamma, the same for all colours."""

    def toned(strength: float) -> Image.Image:
        gain, contrast, gamma = _with_random_signs(rng.uniform(0.1, 0.4, 3), rng) * strength
        pixels = 255 * (np.asarray(image) / 255) ** math.exp(gamma) * math.exp(gain / 2)
        return _to_image((pixels - 128) * math.exp(contrast) + 128)

    return _until_visible(image, toned)


def _hue_shifted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Hues turned by 20° to 90°; an image with few colours is recoloured instead."""
    hue, saturation, value = image.convert("HSV").split()
    steps = round(float(_with_random_signs(rng.uniform(20, 90, 1), rng)[0]) / 360 * 256)
    turned = Image.fromarray((np.asarray(hue).astype(int) + steps).astype(np.uint8))
    shifted = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    return shifted if _differs(shifted, image) else _visibly_recoloured(image, rng)


def _watermarked(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Translucent letters across the image, once or in rows."""
    rows = int(rng.integers(1, 5))
    mask = Image.new("L", image.size)
    word = _letters(int(rng.integers(5, 12)), rng)
    width, height = image.size
    for row in range(rows):
        top = height * (row + rng.uniform(0.1, 0.3)) / rows
        box = (width * 0.1, top, width * 0.9, top + height * 0.6 / rows)
        _write(ImageDraw.Draw(mask), word, box, 255, outline=255)
    mask = mask.rotate(float(rng.uniform(-30, 30)), Image.Resampling.BICUBIC)
    strength = rng.uniform(0.25, 0.6)
    colour = _contrasting(_mean(image), _colour(rng))
    image.paste(colour, mask=mask.point(lambda value: value * strength))
    return image


def _captioned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """One to three lines of letters at a random place."""
    lengths = rng.integers(4, 10, rng.integers(1, 4), endpoint=True)
    box = _box(image, rng.uniform([0.6, 0.2], [0.95, 0.4]), rng)
    colour = _contrasting(_mean(image.crop(box)), _colour(rng))
    _write(ImageDraw.Draw(image), "\n".join(_letters(n, rng) for n in lengths), box, colour)
    return image


def _stamped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A box or an ellipse with letters, like a logo, over 5 to 25 % of the image."""
    oval = rng.random() < 0.5
    share = rng.uniform(0.05, 0.25) * (4 / math.pi if oval else 1)
    aspect = math.exp(rng.uniform(-0.5, 0.5))
    box = left, top, right, bottom = _box(image, np.sqrt([share * aspect, share / aspect]), rng)
    colour = _contrasting(_mean(image.crop(box)), _colour(rng))
    draw = ImageDraw.Draw(image)
    shape = draw.ellipse if oval else draw.rectangle
    shape((left, top, right - 1, bottom - 1), fill=colour)
    dx, dy = (right - left) / 6, (bottom - top) / 4
    inside = left + dx, top + dy, right - dx, bottom - dy
    _write(draw, _letters(int(rng.integers(2, 6)), rng), inside, _contrasting(colour, _colour(rng)))
    return image


def _framed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    margin = max(1, round(math.sqrt(image.width * image.height) * rng.uniform(0.04, 0.15)))
    white_or_black = ((255, 255, 255), (0, 0, 0))
    colour = white_or_black[rng.integers(2)] if rng.random() < 0.5 else _colour(rng)
    return ImageOps.expand(image, margin, _contrasting(_edge_colour(image), colour))


def _letterboxed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Bars on two opposite sides, black or white or of another grey."""
    width, height = image.size
    extra = rng.uniform(0.15, 0.8)
    across = rng.random() < 0.5
    sides = (width, height * (1 + extra)) if across else (width * (1 + extra), height)
    colours = (0, 0, 255, int(rng.integers(256)))
    boxed = Image.new("RGB", (round(sides[0]), round(sides[1])), (colours[rng.integers(4)],) * 3)
    boxed.paste(image, ((boxed.width - width) // 2, (boxed.height - height) // 2))
    return _bounded(boxed)


def _blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    radius = max(image.size) * rng.uniform(0.012, 0.03)
    return image.filter(ImageFilter.GaussianBlur(max(1, radius)))


def _noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    shrink = min(1, _GRAINS / max(image.size))
    rows, columns = (max(1, round(side * shrink)) for side in (image.height, image.width))
    noise = rng.normal(128, rng.uniform(25, 50), (rows, columns, 3))
    grain = _to_image(noise).resize(image.size, Image.Resampling.BICUBIC)
    return _to_image(np.asarray(image, float) + np.asarray(grain) - 128)


def _cropped_and_recoloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _visibly_recoloured(_cropped(image, rng), rng)


def _bounded(image: Image.Image) -> Image.Image:
    """A copy, scaled down if it is large."""
    return _resized(image, np.array(image.size) * min(1, _LONGEST / max(image.size)))


def _resized(
    image: Image.Image,
    size: Floats,
    resampling: Image.Resampling = Image.Resampling.LANCZOS,
) -> Image.Image:
    """A copy of this width and height, rounded, at least one pixel."""
    width, height = np.maximum(1, size.round()).astype(int).tolist()
    return image.resize((width, height), resampling, reducing_gap=2)


def _box(image: Image.Image, shares: Floats, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) at a random place, covering these shares of both sides."""
    size = np.array(image.size)
    sides = np.maximum(1, (size * shares).round())
    first = (rng.random(2) * (size - sides)).round()
    left, top, right, bottom = np.concatenate([first, first + sides]).astype(int).tolist()
    return left, top, right, bottom


def _homography(source: Floats, target: Floats) -> Floats:
    """The 3 × 3 matrix that maps four points (4, 2) to four others, as its first 8 numbers.

    Hartley and Zisserman, Multiple View Geometry, 2nd ed., section 4.1, with h33 = 1.
    """
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    return np.asarray(np.linalg.solve(np.array(rows), target.ravel()), np.float64)


def _warped(
    image: Image.Image,
    to_image: Floats,
    size: tuple[int, int],
    fill: Colour | int,
) -> Image.Image:
    """Warped by a homography from the result's pixels to the image's; `fill` surrounds it."""
    return image.transform(
        size,
        Image.Transform.PERSPECTIVE,
        to_image.tolist(),
        Image.Resampling.BICUBIC,
        fillcolor=fill,
    )


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    box: tuple[float, float, float, float],
    colour: Colour | int,
    outline: Colour | int | None = None,
) -> None:
    """Centred in a box, as large as fits; an outline of black or white unless one is given."""
    left, top, right, bottom = box
    x, y, to_x, to_y = draw.multiline_textbbox((0, 0), text, _font(100), spacing=20)
    size = 100 * min((right - left) / (to_x - x), (bottom - top) / (to_y - y))
    centre = ((left + right) / 2, (top + bottom) / 2)
    if outline is None:
        outline = (0, 0, 0) if np.mean(colour) > 127 else (255, 255, 255)
    draw.multiline_text(
        centre,
        text,
        colour,
        _font(size),
        "mm",
        size / 5,
        "center",
        stroke_width=size / 15,
        stroke_fill=outline,
    )


def _font(size: float) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(max(1, size))


def _letters(count: int, rng: np.random.Generator) -> str:
    return "".join(map(chr, rng.integers(ord("A"), ord("Z"), count, endpoint=True)))


def _with_random_signs(values: Floats, rng: np.random.Generator) -> Floats:
    """Each value with a random sign."""
    return np.where(rng.random(values.shape) < 0.5, -values, values)


def _colour(rng: np.random.Generator) -> Colour:
    red, green, blue = rng.integers(0, 256, 3).tolist()
    return red, green, blue


def _contrasting(background: Colour, colour: Colour) -> Colour:
    """The colour, with channels changed that are too close to the background."""
    red, green, blue = (
        own if abs(own - other) >= 64 else (other + 128) % 256
        for own, other in zip(colour, background, strict=True)
    )
    return red, green, blue


def _fill(image: Image.Image, rng: np.random.Generator) -> Colour:
    return _edge_colour(image) if rng.random() < 0.5 else _colour(rng)


def _edge_colour(image: Image.Image) -> Colour:
    pixels = np.asarray(image)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return _mean(Image.fromarray(edge[None]))


def _mean(image: Image.Image) -> Colour:
    red, green, blue = np.asarray(image).mean(axis=(0, 1)).astype(int).tolist()
    return red, green, blue


def _is_alike(image: Image.Image, other: Image.Image) -> bool:
    """Whether the shapes of both, at the same size, hardly differ."""
    one, two = (
        np.asarray(i.convert("L").resize(_SHAPE, Image.Resampling.BOX), float)
        for i in (image, other)
    )
    return bool(np.abs(one - two).mean() < _ALIKE * max(1.0, one.std()))


def _differs(image: Image.Image, other: Image.Image) -> bool:
    one, two = (np.asarray(i.resize(_CELLS, Image.Resampling.BOX), float) for i in (image, other))
    return bool(np.abs(one - two).mean() >= _VISIBLE)


def _to_image(pixels: Floats) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))


_GOOD, _STRONG = (60, 95), (20, 40)  # ranges of JPEG quality
EDITS: tuple[Edit, ...] = (
    Edit("jpeg", Level.COPY, partial(_copied, _as_jpeg)),
    Edit("webp", Level.COPY, partial(_copied, _as_webp)),
    Edit("smaller", Level.COPY, partial(_copied, _smaller)),
    Edit("smaller twice", Level.COPY, partial(_copied, _smaller_twice)),
    Edit("cropped", Level.EDITED, partial(_changed, _cropped, _GOOD)),
    Edit("zoomed", Level.EDITED, partial(_changed, _zoomed, _GOOD)),
    Edit("rotated", Level.EDITED, partial(_changed, _rotated, _GOOD)),
    Edit("perspective", Level.EDITED, partial(_changed, _in_perspective, _GOOD)),
    Edit("mirrored", Level.EDITED, partial(_changed, _mirrored, _GOOD), upright=False),
    Edit("recoloured", Level.EDITED, partial(_changed, _visibly_recoloured, _GOOD)),
    Edit("grey", Level.EDITED, partial(_changed, _grey, _GOOD)),
    Edit("text", Level.EDITED, partial(_changed, _captioned, _GOOD)),
    Edit("logo", Level.EDITED, partial(_changed, _stamped, _GOOD)),
    Edit("framed", Level.EDITED, partial(_changed, _framed, _GOOD)),
    Edit("letterboxed", Level.EDITED, partial(_changed, _letterboxed, _GOOD)),
    Edit("tone", Level.EDITED, partial(_changed, _toned, _GOOD)),
    Edit("hue", Level.EDITED, partial(_changed, _hue_shifted, _GOOD)),
    Edit("watermark", Level.EDITED, partial(_changed, _watermarked, _GOOD)),
    Edit("quarter turn", Level.EDITED, partial(_changed, _quarter_turned, _GOOD), upright=False),
    Edit("half turn", Level.EDITED, partial(_changed, _half_turned, _GOOD), upright=False),
    Edit("blurred", Level.EDITED, partial(_changed, _blurred, _GOOD)),
    Edit("noisy", Level.EDITED, partial(_changed, _noisy, _GOOD)),
    Edit("strong", Level.EDITED, partial(_changed, _cropped_and_recoloured, _STRONG)),
    Edit("in a scene", Level.EDITED, _placed, upright=False),
    Edit("screenshot", Level.EDITED, partial(_composed, _on_a_phone), upright=False),
    Edit("collage", Level.EDITED, partial(_composed, _in_a_collage), upright=False),
    Edit("photo of a screen", Level.EDITED, partial(_composed, _from_a_screen), upright=False),
)
