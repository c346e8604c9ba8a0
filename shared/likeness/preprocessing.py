"""Upright RGB image → input tensor: pure functions of the image and the model's spec."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from likeness.errors import NoDetail
from likeness.model import Input, ModelSpec, Normalise, Resize
from likeness.pixels import bars
from likeness.pixels.frames import BLANK_FRAMES
from likeness.pixels.levels import levelled
from likeness.records import WHOLE, Box

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}
# First a cheap box reduction to twice the target: three times faster on large images, and closer
# to an exact resize than `draft` is. Pillow's guide to `reducing_gap` recommends 2.
_REDUCING_GAP = 2.0
# Grey levels of 255: a smaller range is compression noise around a single colour.
_FLAT_RANGE = 2
COLOURS = 16  # cells on each side of the colour layout: 768 bytes


class Prepared(NamedTuple):
    """`tensor`: (1, C, H, W) or (1, H, W, C), float32 or uint8, as `spec.input` requires.

    `colours`: the colour layout, mean colours of the same pixels on a grid, uint8
    (COLOURS, COLOURS, 3). `seen`: the part of the box that the network receives. `content`: the
    part of the whole image inside its bars.
    """

    tensor: NDArray[np.float32] | NDArray[np.uint8]
    colours: NDArray[np.uint8]
    seen: Box
    content: Box


def prepare(image: Image.Image, spec: ModelSpec, box: Box = WHOLE) -> Prepared:
    """Prepare an upright RGB image, or its part inside a box.

    From version 2 of the preprocessing, bars are cut away first, and dark and washed-out images are
    levelled. Raises NoDetail for a single flat colour.
    """
    blank_frames = image.info.get(BLANK_FRAMES)
    content = content_box(image, spec)
    part = _part(box, content)
    if part != WHOLE:
        image = cropped(image, part)
    small = resized(image, spec.input, spec.resize)
    unpadded = small
    if spec.resize.rule == "pad":
        unpadded = small.crop((0, 0, *_fitted(image.size, spec.input)))
    if max(high - low for low, high in _extrema(unpadded)) <= _FLAT_RANGE:
        subject = (
            f"each of the first {blank_frames} frames has" if blank_frames else "the image has"
        )
        raise NoDetail(f"{subject} a single flat colour: there is nothing to compare")
    if spec.preprocessing > 1 and (level := levelled(unpadded)) is not unpadded:
        small.paste(level)
    # padding included: geometry assumes that the layout covers the same area as the local map
    colours = np.asarray(small.resize((COLOURS, COLOURS), Image.Resampling.BOX))
    pixels = _normalised(np.asarray(small), spec.input, spec.normalise)
    seen = input_box(image.size, spec)
    if part != box:
        seen = seen.placed_in(part).relative_to(box)
    return Prepared(pixels, colours, seen, content)


def content_box(image: Image.Image, spec: ModelSpec) -> Box:
    """The part of an upright RGB image inside its bars, where the model's preprocessing cuts them;
    else WHOLE.
    """
    return WHOLE if spec.preprocessing == 1 else bars.content_box(image)


def seen_box(size: tuple[int, int], spec: ModelSpec, content: Box) -> Box:
    """The area of an image of this width and height, with this content, that the network's input
    covers; see `input_box`.
    """
    if content == WHOLE:
        return input_box(size, spec)
    width, height = size
    across, down = content.right - content.left, content.bottom - content.top
    inside = max(1, round(width * across)), max(1, round(height * down))
    return input_box(inside, spec).placed_in(content)


def _part(box: Box, content: Box) -> Box:
    """A box without the bars; itself where it shows nothing else."""
    part = box.intersection(content)
    return part if part.left < part.right and part.top < part.bottom else box


def cropped(image: Image.Image, box: Box) -> Image.Image:
    """The part of an image inside a box, at least one pixel."""
    width, height = image.size
    left, top = int(box.left * width), int(box.top * height)
    right, bottom = math.ceil(box.right * width), math.ceil(box.bottom * height)
    left, top = min(left, width - 1), min(top, height - 1)
    return image.crop((left, top, max(left + 1, right), max(top + 1, bottom)))


def input_box(size: tuple[int, int], spec: ModelSpec) -> Box:
    """The area of an image of this width and height that the network's input covers.

    With a crop it is a part of the image; with padding it extends beyond the right or lower edge.
    """
    width, height = size
    if spec.resize.rule == "squash":
        return WHOLE
    if spec.resize.rule == "crop":
        left, top, right, bottom = _centre_box(size, spec.input, spec.resize)
        return Box(left / width, top / height, right / width, bottom / height)
    fitted = _fitted(size, spec.input)
    return Box(0.0, 0.0, spec.input.width / fitted[0], spec.input.height / fitted[1])


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    """The lowest and highest value of each channel of an RGB image."""
    return [band.getextrema() for band in image.split()]  # type: ignore[misc]


def decode_size(spec: ModelSpec) -> int:
    """The short side in pixels that this model scales images to, and a decoder must preserve."""
    return spec.resize.short_side or max(spec.input.height, spec.input.width)


def resized(image: Image.Image, target: Input, rule: Resize) -> Image.Image:
    """RGB image of exactly target.width × target.height pixels."""
    size = (target.width, target.height)
    resample = _FILTERS[rule.filter]
    if rule.rule == "squash":
        return image.resize(size, resample, reducing_gap=_REDUCING_GAP)
    if rule.rule == "crop":
        return image.resize(
            size, resample, _centre_box(image.size, target, rule), reducing_gap=_REDUCING_GAP
        )
    canvas = Image.new("RGB", size, (rule.fill,) * 3)
    inner = _fitted(image.size, target)
    canvas.paste(image.resize(inner, resample, reducing_gap=_REDUCING_GAP))
    return canvas


def _fitted(size: tuple[int, int], target: Input) -> tuple[int, int]:
    """Width and height of the image inside a padded canvas, with its aspect ratio."""
    scale = min(target.width / size[0], target.height / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _centre_box(
    size: tuple[int, int], target: Input, rule: Resize
) -> tuple[float, float, float, float]:
    """The part of the source that resizing the short side and a centre crop keep, (x0, y0, x1, y1).

    Cropping first avoids scaling pixels that are discarded. The scaled size and the margins are
    rounded as in CLIP's preprocessing (torchvision's Resize and CenterCrop); otherwise a long
    image would be shifted by half a pixel.
    """
    width, height = size
    if rule.short_side is not None:
        edge, side = rule.short_side, min(size)
    elif target.width * height >= target.height * width:
        edge, side = target.width, width
    else:
        edge, side = target.height, height
    scaled_width, scaled_height = width * edge // side, height * edge // side
    left = round((scaled_width - target.width) / 2)
    top = round((scaled_height - target.height) / 2)
    across, down = width / scaled_width, height / scaled_height
    right, bottom = (left + target.width) * across, (top + target.height) * down
    return left * across, top * down, min(width, right), min(height, bottom)


def _normalised(
    pixels: NDArray[np.uint8], target: Input, rule: Normalise
) -> NDArray[np.float32] | NDArray[np.uint8]:
    if target.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    if target.layout == "NCHW":
        pixels = pixels.transpose(2, 0, 1)
    if target.dtype == "uint8":
        return np.ascontiguousarray(pixels)[np.newaxis]
    shape = (3, 1, 1) if target.layout == "NCHW" else (1, 1, 3)
    std = np.array(rule.std, np.float32).reshape(shape)
    shift = np.array(rule.mean, np.float32).reshape(shape) / std
    # contiguous floats first, then arithmetic in place: five times as fast as the reverse
    tensor = np.ascontiguousarray(pixels, np.float32)
    tensor *= np.float32(rule.scale) / std
    if shift.any():
        tensor -= shift
    return tensor[np.newaxis]
