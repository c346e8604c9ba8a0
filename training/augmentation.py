"""The training's augmentation: batches of edited views of photos, each with its homography.

Everything is computed by torch on whole batches. Run as a script, it writes a contact sheet for
inspection.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from targets import SIDE

UNIT_SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
_WHOLE, _PASTED = 0.1, 0.28  # shares of the views; the others are crops
_MIXED = 0.06
_LEVELS = 3  # of the pyramid that views which shrink a photo are sampled from
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, 2.5.1
# JPEG's example luminance table (ITU-T T.81, table K.1), here for all three channels.
_JPEG_TABLE = """
16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56  14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92  49 64 78 87 103 121 120 101
72 92 95 98 112 100 103 99
"""
_BLUR = 11  # pixels on a side of the blur's kernels
_STAMPS = 64


class Views(NamedTuple):
    """N views of side S. `images` and `plain`, before and after the pixels were edited but in the
    same geometry: float32 of 0…1, (N, 3, S, S). `to_photo` maps a view's unit square to the
    photo's: float64 (N, 3, 3), negative determinant for a mirrored view. `second` is another photo
    of the batch that the image is mixed with, `share` the first one's weight (1: not mixed).
    """

    images: Tensor
    plain: Tensor
    to_photo: Tensor
    second: NDArray[np.intp]
    share: NDArray[np.float64]


def make_views(photos: Tensor, side: int, rng: np.random.Generator) -> Views:
    """A random view of each photo, uint8 (N, SIDE, SIDE, 3): the whole of it, a crop, rotated, in
    perspective, or as a part of another photo.
    """
    count = len(photos)
    kind = rng.random(count)
    pasted = kind < _PASTED
    to_photo = homographies(
        np.where(pasted[:, None, None], _areas(count, (0.3, 0.9), rng), UNIT_SQUARE),
        np.where(pasted[:, None, None], UNIT_SQUARE, _areas(count, None, rng)),
    )
    to_photo[kind > 1 - _WHOLE] = np.eye(3)
    pixels = photos.permute(0, 3, 1, 2).float() / 255
    fill = torch.from_numpy(rng.random((count, 3, 1, 1)).astype(np.float32))
    plain, inside = _render(pixels, to_photo, side)
    background = fill.expand_as(plain).clone()
    rows = np.flatnonzero(pasted)
    scenes = homographies(
        np.broadcast_to(UNIT_SQUARE, (len(rows), 4, 2)), _areas(len(rows), None, rng)
    )
    background[rows], _ = _render(
        pixels[(rows + 1 + rng.integers(count - 1)) % count], scenes, side
    )
    plain = plain * inside + background * (1 - inside)
    second = rng.permutation(count)
    share = np.where(rng.random(count) < _MIXED, rng.uniform(0.5, 0.8, count), 1.0)
    weight = torch.from_numpy(share.astype(np.float32)).view(-1, 1, 1, 1)
    edited = _retouched(plain.clone(), rng)
    return Views(
        edited * weight + edited[second] * (1 - weight) if (share < 1).any() else edited,
        plain,
        torch.from_numpy(to_photo),
        second,
        share,
    )


def homographies(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrices (N, 3, 3) that map four points to four others, both (N, 4, 2).

    Hartley and Zisserman, Multiple View Geometry, 2nd ed., section 4.1, with h33 = 1.
    """
    x, y, u, v = source[..., 0], source[..., 1], target[..., 0], target[..., 1]
    zero, one = np.zeros_like(x), np.ones_like(x)
    first = np.stack([x, y, one, zero, zero, zero, -u * x, -u * y], axis=-1)
    other = np.stack([zero, zero, zero, x, y, one, -v * x, -v * y], axis=-1)
    solved = np.linalg.solve(
        np.concatenate([first, other], axis=1), np.concatenate([u, v], axis=1)[..., None]
    )
    return np.concatenate([solved[..., 0], np.ones((len(solved), 1))], axis=1).reshape(-1, 3, 3)


def _areas(
    count: int, sides: tuple[float, float] | None, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Corners (N, 4, 2) of rectangles in the unit square, turned, some mirrored or in perspective.

    Their sides are uniform in a range, or those of crops of 12 to 110 % of the area.
    """
    side = (
        rng.uniform(*sides, count)
        if sides
        else np.sqrt(np.exp(rng.uniform(math.log(0.12), math.log(1.1), count)))
    )
    aspect = np.exp(rng.uniform(-0.3, 0.3, count) / 2)
    lengths = np.stack([side * aspect, side / aspect], axis=1)[:, None]
    corners = (UNIT_SQUARE - 0.5) * lengths
    kind = rng.random(count)
    angle = np.where(kind < 0.3, rng.uniform(-0.8, 0.8, count), rng.normal(0, 0.08, count))
    angle = np.where(kind < 0.12, math.pi / 2 * rng.integers(1, 4, count), angle)
    turn = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], axis=1)
    corners = corners @ turn.reshape(-1, 2, 2)
    skewed = rng.random((count, 1, 1)) < 0.35
    corners = corners + skewed * rng.uniform(-0.12, 0.12, (count, 4, 2)) * lengths
    corners[..., 0] *= np.where(rng.random((count, 1)) < 0.15, -1, 1)
    margin = np.maximum(0, 1 - lengths) / 2
    return np.asarray(corners + 0.5 + rng.uniform(-margin, margin), np.float64)


def _render(pixels: Tensor, to_photo: NDArray[np.float64], side: int) -> tuple[Tensor, Tensor]:
    """The views' pixels, and 1 where they show the photo, 0 beyond its edge: (N, 1, side, side).

    A photo that shrinks a lot is reduced first, to avoid aliasing.
    """
    centres = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([x.ravel(), y.ravel(), torch.ones(side * side)], dim=1)
    moved = points @ torch.from_numpy(to_photo.astype(np.float32)).transpose(1, 2)
    moved = moved[..., :2] / moved[..., 2:].clamp(min=1e-3)
    grid = (moved * 2 - 1).view(-1, side, side, 2)
    corner = np.column_stack([UNIT_SQUARE, np.ones(4)])
    corners = corner @ to_photo.transpose(0, 2, 1)
    corners = corners[..., :2] / np.maximum(corners[..., 2:], 1e-3)
    # shoelace formula: area of the photo, in photos, that the view covers
    ahead = np.roll(corners, -1, axis=1)
    area = np.abs((corners[..., 0] * ahead[..., 1] - ahead[..., 0] * corners[..., 1]).sum(1)) / 2
    shrink = np.sqrt(area) * SIDE / side
    level = np.clip(np.floor(np.log2(np.maximum(shrink, 1e-3)) + 0.4), 0, _LEVELS - 1).astype(int)
    found = torch.empty(len(pixels), 3, side, side)
    for number in range(_LEVELS):
        rows = torch.from_numpy(np.flatnonzero(level == number))
        if len(rows):
            reduced = functional.avg_pool2d(pixels[rows], 2**number) if number else pixels[rows]
            found[rows] = functional.grid_sample(
                reduced, grid[rows], padding_mode="border", align_corners=False
            )
    inside = (grid.abs() <= 1).all(dim=3).unsqueeze(1).float()
    return found.clamp(0, 1), inside


Change = Callable[[Tensor, np.random.Generator], Tensor]


def _retouched(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Edits that apps, cameras and people make to an image, each to a share of the images."""
    edits: tuple[tuple[float, Change], ...] = (
        (0.22, _overlaid),
        (0.55, _recoloured),
        (0.15, _gamma),
        (0.06, _grey),
        (0.04, _tinted),
        (0.22, _blurred),
        (0.18, _dark),
        (0.12, _washed_out),
        (0.22, _noisy),
        (0.35, _compressed),
    )
    for share, change in edits:
        rows = torch.from_numpy(np.flatnonzero(rng.random(len(images)) < share))
        if len(rows):
            images[rows] = change(images[rows], rng).clamp(0, 1)
    return images


def _uniform(
    low: float, high: float, count: int, rng: np.random.Generator, columns: int = 1
) -> Tensor:
    values = rng.uniform(low, high, (count, columns, 1, 1))
    return torch.from_numpy(values.astype(np.float32))


def _noise(images: Tensor, rng: np.random.Generator) -> Tensor:
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    return torch.randn(images.shape, generator=generator)


def _luminance(images: Tensor) -> Tensor:
    return (images * torch.tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)


def _recoloured(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation and white balance."""
    count = len(images)
    images = images * _uniform(0.6, 1.4, count, rng)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + (images - mean) * _uniform(0.6, 1.4, count, rng)
    luminance = _luminance(images)
    images = luminance + (images - luminance) * _uniform(0.3, 1.7, count, rng)
    return images * torch.exp(_uniform(-0.2, 0.2, count, rng, 3))


def _gamma(images: Tensor, rng: np.random.Generator) -> Tensor:
    changed: Tensor = images.clamp(1e-4, 1) ** torch.exp(_uniform(-0.6, 0.6, len(images), rng))
    return changed


def _grey(images: Tensor, _rng: np.random.Generator) -> Tensor:
    return _luminance(images).expand_as(images)


def _tinted(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Grey between two colours, like a print on coloured paper."""
    ink, paper = (_uniform(low, low + 0.4, len(images), rng, 3) for low in (0.0, 0.6))
    return ink + (paper - ink) * _luminance(images)


def _dark(images: Tensor, rng: np.random.Generator) -> Tensor:
    """A photo in little light: noise of the sensor, then mostly levelled as the service does it."""
    count = len(images)
    light = torch.exp(_uniform(math.log(0.06), math.log(0.7), count, rng))
    images = images * light + _noise(images, rng) * _uniform(0.002, 0.02, count, rng)
    images = (images.clamp(0, 1) * 255).round() / 255
    sample = images.flatten(1)[:, ::61]
    brightest = sample.quantile(0.99, dim=1).view(-1, 1, 1, 1).clamp(min=0.02)
    levelled = torch.from_numpy(rng.random((count, 1, 1, 1)) < 0.7)
    return torch.where(levelled, images / brightest, images)


def _washed_out(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Little contrast, as through haze, glass or a reflection."""
    share = _uniform(0.25, 0.8, len(images), rng)
    return images * share + (1 - share) * _uniform(0.3, 1.0, len(images), rng)


def _noisy(images: Tensor, rng: np.random.Generator) -> Tensor:
    return images + _noise(images, rng) * _uniform(0.01, 0.09, len(images), rng)


def _blurred(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Out of focus (Gaussian) or moved (a line)."""
    count, middle = len(images), _BLUR // 2
    y, x = np.mgrid[-middle : middle + 1, -middle : middle + 1][:, None].astype(np.float64)
    sigma = rng.uniform(0.4, 2.4, (count, 1, 1))
    angle = rng.uniform(0, math.pi, (count, 1, 1))
    reach = rng.uniform(1, middle + 0.5, (count, 1, 1))
    along, across = (
        x * np.cos(angle) + y * np.sin(angle),
        y * np.cos(angle) - x * np.sin(angle),
    )
    line = np.exp(-(across**2) / 0.5) * (np.abs(along) <= reach)
    kernels = np.where(
        rng.random((count, 1, 1)) < 0.5, np.exp(-(x**2 + y**2) / (2 * sigma**2)), line
    )
    kernels /= kernels.sum(axis=(1, 2), keepdims=True)
    weights = torch.from_numpy(kernels.astype(np.float32)).repeat_interleave(3, dim=0)[:, None]
    side = images.shape[-1]
    padded = functional.pad(images, (middle,) * 4, mode="reflect")
    flat = padded.reshape(1, -1, *padded.shape[2:])
    return functional.conv2d(flat, weights, groups=3 * count).view(-1, 3, side, side)


def _compressed(images: Tensor, rng: np.random.Generator) -> Tensor:
    """JPEG's quantisation of 8 × 8 blocks, on each colour channel, at a quality of 8 to 80."""
    n = torch.arange(8, dtype=torch.float32)
    basis = torch.cos((2 * n[None] + 1) * n[:, None] * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    quality = rng.uniform(8, 80, len(images))
    scale = np.where(quality < 50, 50 / quality, 2 - quality / 50)
    table = torch.tensor([float(v) for v in _JPEG_TABLE.split()]).view(1, 1, 1, 1, 8, 8)
    steps = (table * torch.from_numpy(scale.astype(np.float32)).view(-1, 1, 1, 1, 1, 1)).clamp(
        min=1
    )
    count, _, height, width = images.shape
    blocks = images.reshape(count, 3, height // 8, 8, width // 8, 8).permute(0, 1, 2, 4, 3, 5)
    found = ((basis @ (blocks * 255 - 128) @ basis.T) / steps).round() * steps
    pixels = (basis.T @ found @ basis + 128) / 255
    return pixels.permute(0, 1, 2, 4, 3, 5).reshape(images.shape)


def _overlaid(images: Tensor, rng: np.random.Generator) -> Tensor:
    """A border, a box, a line of letters, or a small copy of another image on top."""
    side = images.shape[-1]
    originals = images.clone()
    for image in images:
        colour = torch.from_numpy(rng.random((3, 1, 1)).astype(np.float32))
        kind = rng.integers(4)
        if kind == 0:
            width = int(rng.integers(2, side // 9))
            for edge in (
                image[:, :width],
                image[:, -width:],
                image[..., :width],
                image[..., -width:],
            ):
                edge[:] = colour
            continue
        height, width = (int(v) for v in rng.integers(side // 8, side // 2, 2))
        top, left = (int(v) for v in rng.integers(0, side - np.array([height, width])))
        area = image[:, top : top + height, left : left + width]
        if kind == 1:
            area[:] = colour
        elif kind == 2:
            other = originals[int(rng.integers(len(images)))][None]
            area[:] = functional.interpolate(other, (height, width), mode="area")[0]
        else:
            stamp = _letters()[int(rng.integers(_STAMPS))][None]
            mask = functional.interpolate(stamp, (height, width), mode="bilinear")[0]
            area[:] = area * (1 - mask) + colour * mask
    return images


@cache
def _letters() -> Tensor:
    """Masks of random words: (_STAMPS, 1, 40, 160)."""
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(_STAMPS):
        mask = Image.new("L", (160, 40))
        text = "".join(chr(c) for c in rng.integers(65, 91, rng.integers(3, 9)))
        ImageDraw.Draw(mask).text((4, 2), text, fill=255, font_size=int(rng.integers(18, 34)))
        masks.append(torch.from_numpy(np.asarray(mask, np.float32) / 255)[None])
    return torch.stack(masks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, nargs="+", help="image files, at least two")
    parser.add_argument("--out", type=Path, default=Path("views.png"))
    parser.add_argument("--views", type=int, default=10, help="number of views of each photo")
    arguments = parser.parse_args()
    opened = [Image.open(path).convert("RGB").resize((SIDE, SIDE)) for path in arguments.photos]
    photos = torch.from_numpy(np.stack([np.asarray(image) for image in opened]))
    rng = np.random.default_rng(0)
    columns = [make_views(photos, SIDE, rng).images for _ in range(arguments.views)]
    sheet = torch.stack(columns, dim=1).permute(0, 3, 1, 4, 2)
    pixels = (sheet.reshape(len(photos) * SIDE, -1, 3) * 255).byte().numpy()
    Image.fromarray(pixels).save(arguments.out)


if __name__ == "__main__":
    main()
