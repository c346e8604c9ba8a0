"""Block comparison: two aligned pictures on one grid, compared block by block.

The grid is that of the picture with the coarser pixels. Blocks are correlated after local
normalisation (mean and contrast of their surroundings taken off), so that neither tone nor one
strong outline decides, and looked for a pixel or more around their place.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from likeness.proof.alignment import Matrix, fit_affine, fit_homography, transformed

Floats = NDArray[np.float32]

# (pixels of the grid's longer side, pixels of a block, pixels around its place): each corrects the
# alignment for the next, which is finer.
_CORRECTIONS = ((128, 8, 3), (256, 16, 1))
BLOCK = 8  # pixels of the grid
# Blurred, enlarged or noisy pictures are compared where both are about equally sharp.
_SIDES = (384, 192, 96)
_EQUALLY_SHARP = 2.2
# Share of a block's texture that blurring takes off: with less, such as in skies, the grid shows
# little but noise, and a coarser one shows what the picture has.
_DETAILED, _COMPARABLE = 0.1, 3.0  # a share; grey levels of texture from which it is measured
_FINER = 1.3  # than the grid: what pictures are reduced to before they are sampled
# Of the longer side: an edge may show the frame that was put around the picture.
_MARGIN = 0.012
MIN_TEXTURE = 2.5  # standard deviation in grey levels from which a block can be compared
_SURE = 0.6  # correlation from which a block's place corrects the alignment
# By so much another place must be better: along an edge all places are alike.
_CLEARLY_BETTER = 0.05
_ITERATIONS = 6
_NORMALISED_CONTRAST = 4.0  # grey levels: contrast below this is not raised further
# Pixels by which one picture is displaced to see what agrees by chance.
_DISPLACED = ((0, 20), (20, 0), (0, 52), (52, 0))
GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, 2.5.1


class Blocks(NamedTuple):
    """R × C blocks of two pictures. homography: the corrected one, from the first picture's pixels
    to the second's; to_one, to_other: from the grid's pixels to either's.

    shown: the block lies inside both. correlation: of the normalised grey levels, −1 to 1.
    textures, noises (2, R, C): standard deviation of the grey levels of either, and of what
    blurring takes off them. colours, contrasts (2, R, C, 3): mean colours, and what one standard
    deviation of grey adds to them. sharpness: how much sharper the first picture is than the
    second on the finest grid. displaced: for some displacements, the share of blocks that agree.
    """

    homography: Matrix
    to_one: Matrix
    to_other: Matrix
    side: int
    shown: NDArray[np.bool_]
    correlation: Floats
    textures: Floats
    noises: Floats
    colours: Floats
    contrasts: Floats
    sharpness: float
    displaced: tuple[float, ...]


class _Textures(NamedTuple):
    """What decides whether a grid is too fine; names as in `Blocks`. detail: the share of the
    textures that the finest level shows, in the smoother picture.
    """

    shown: NDArray[np.bool_]
    textures: Floats
    noises: Floats
    sharpness: float
    detail: float

    def are_sharp(self) -> bool:
        """Whether both pictures have detail on this grid, and about the same."""
        return self.detail > _DETAILED and 1 / _EQUALLY_SHARP < self.sharpness < _EQUALLY_SHARP


class _Grid(NamedTuple):
    """Both pictures, uint8 (h, w, 3), in a box of the first that shows all they have in common.
    `inner`: left, top, right and bottom of the second picture without its edges.
    """

    one: NDArray[np.uint8]
    other: NDArray[np.uint8]
    to_one: Matrix
    to_other: Matrix
    inner: tuple[float, float, float, float]

    def shown(self, block: int) -> NDArray[np.bool_]:
        """Which blocks (R, C) lie inside the second picture."""
        rows, columns = self.one.shape[0] // block, self.one.shape[1] // block
        y, x = np.mgrid[0 : rows + 1, 0 : columns + 1] * block
        corners = transformed(self.to_other, np.stack([x.ravel(), y.ravel()], axis=1))
        left, top, right, bottom = self.inner
        inside = ((corners >= (left, top)) & (corners <= (right, bottom))).all(axis=1)
        inside = inside.reshape(rows + 1, columns + 1)
        return inside[1:, 1:] & inside[1:, :-1] & inside[:-1, 1:] & inside[:-1, :-1]


def compare_blocks(one: Image.Image, other: Image.Image, homography: Matrix) -> Blocks | None:
    """Compare two RGB pictures; None where they overlap by too little."""
    for side, block, reach in _CORRECTIONS:
        grid = _on_one_grid(one, other, homography, side)
        if grid is None:
            return None
        homography = _corrected(grid, homography, block, reach)
    sharpness: float | None = None
    for side in _SIDES:
        grid = _on_one_grid(one, other, homography, side)
        if grid is None or min(grid.one.shape[:2]) < BLOCK:
            return None
        greys = grid.one @ GREY, grid.other @ GREY
        found = _textures(grid, greys)
        if sharpness is None:
            sharpness = found.sharpness
        if found.are_sharp() or side == _SIDES[-1]:
            return _correlated(grid, greys, found._replace(sharpness=sharpness), homography, side)
    return None


def _on_one_grid(
    one: Image.Image, other: Image.Image, homography: Matrix, side: int
) -> _Grid | None:
    box = _overlap(one.size, other.size, homography)
    if box is None:
        return None
    left, top, right, bottom = box
    finer = _scale_at(homography, np.array([[(left + right) / 2, (top + bottom) / 2]]))
    if not 0.02 < finer < 50:
        return None
    step = max((right - left) / side, (bottom - top) / side, 1.0, 1.0 / finer)
    width, height = round((right - left) / step), round((bottom - top) / step)
    if min(width, height) < 4:
        return None
    to_one = np.array(
        [[(right - left) / width, 0, left], [0, (bottom - top) / height, top], [0, 0, 1]]
    )
    to_other = homography @ to_one
    margin = _MARGIN * max(other.size)
    return _Grid(
        _resampled(one, to_one, (width, height), step),
        _resampled(other, to_other, (width, height), step * finer),
        to_one,
        to_other,
        (margin, margin, other.width - margin, other.height - margin),
    )


def _overlap(
    size: tuple[int, int], other: tuple[int, int], homography: Matrix
) -> tuple[float, float, float, float] | None:
    """The box in the first picture around what the second shows of it."""
    edge = np.linspace(0, 1, 9)
    sides = [np.stack([np.full(9, end), edge], axis=1) for end in (0.0, 1.0)]
    outline = np.concatenate([*sides, *(side[:, ::-1] for side in sides)]) * other
    if abs(np.linalg.det(homography)) < 1e-12:
        return None
    back = transformed(np.linalg.inv(homography), outline)
    if not np.isfinite(back).all():
        return None
    margin = _MARGIN * max(size)
    low, high = np.clip([back.min(axis=0), back.max(axis=0)], margin, np.array(size) - margin)
    if (high - low).min() < BLOCK:
        return None
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _scale_at(homography: Matrix, centre: Matrix) -> float:
    """Pixels of the second picture to one of the first, at a point (1, 2)."""
    around = transformed(homography, centre + np.array([[0, 0], [1, 0], [0, 1.0]]))
    return float(np.sqrt(abs(np.linalg.det(around[1:] - around[0]))))


def _resampled(
    image: Image.Image, to_image: Matrix, size: tuple[int, int], step: float
) -> NDArray[np.uint8]:
    """The picture on a grid whose pixels span `step` of its own.

    It is reduced first, or it would alias; but not quite as far, or sampling between its pixels
    would blur it against the other one.
    """
    reduction = step / _FINER
    if reduction > 1.1:
        small = max(1, round(image.width / reduction)), max(1, round(image.height / reduction))
        to_image = np.diag([small[0] / image.width, small[1] / image.height, 1.0]) @ to_image
        image = image.resize(small, Image.Resampling.HAMMING)
    coefficients = (to_image / to_image[2, 2]).ravel()[:8].tolist()
    return np.asarray(
        image.transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
    )


def _corrected(grid: _Grid, homography: Matrix, block: int, reach: int) -> Matrix:
    """The homography refitted to where the blocks are found; the same where too few are."""
    one, other = grid.one @ GREY, grid.other @ GREY
    if min(one.shape) < block:
        return homography
    correlation, moved = _best_places(one, other, block, reach)
    sure = grid.shown(block) & (correlation > _SURE)
    sure &= np.minimum(_deviations(one, block), _deviations(other, block)) > MIN_TEXTURE
    if sure.sum() < 6:
        return homography
    y, x = np.nonzero(sure)
    centres = (np.stack([x, y], axis=1) + 0.5) * block
    source = transformed(grid.to_one, centres)
    goals = transformed(grid.to_other, centres + moved[sure])
    fit = fit_homography if len(x) >= 24 else fit_affine
    pixel = np.sqrt(abs(np.linalg.det(grid.to_other[:2, :2])))
    weights, found = np.ones(len(x)), homography
    # Blocks that differ are found anywhere: Cauchy weights, as in iterated least squares
    for _ in range(_ITERATIONS):
        found = fit(source, goals, weights)
        apart = np.hypot(*(transformed(found, source) - goals).T) / pixel
        weights = 1 / (1 + apart**2)
    return found


def _textures(grid: _Grid, greys: tuple[Floats, Floats]) -> _Textures:
    textures = np.stack([_deviations(grey, BLOCK) for grey in greys])
    noises = np.stack([_deviations(grey - _smoothed(grey), BLOCK) for grey in greys])
    shown = grid.shown(BLOCK)
    both = shown & (textures.min(axis=0) > _COMPARABLE)
    sharpness = detail = 1.0
    if both.sum() >= BLOCK:
        fine = noises[:, both] / textures[:, both]
        sharpness = float(np.median(fine[0] / np.maximum(fine[1], 1e-3)))
        detail = float(np.median(fine, axis=1).min())
    return _Textures(shown, textures, noises, sharpness, detail)


def _correlated(
    grid: _Grid, greys: tuple[Floats, Floats], found: _Textures, homography: Matrix, side: int
) -> Blocks:
    one, other = map(_normalised, greys)
    both = found.shown & (found.textures.min(axis=0) > MIN_TEXTURE)
    displaced = tuple(
        float((_best_places(one, np.roll(other, by, (0, 1)), BLOCK, 0)[0][both] > _SURE).mean())
        if both.any()
        else 0.0
        for by in _DISPLACED
    )
    colours, contrasts = zip(*map(_colours, (grid.one, grid.other), greys), strict=True)
    return Blocks(
        homography,
        grid.to_one,
        grid.to_other,
        side,
        found.shown,
        _best_places(one, other, BLOCK, 1)[0],
        found.textures,
        found.noises,
        np.stack(colours),
        np.stack(contrasts),
        found.sharpness,
        displaced,
    )


def _best_places(one: Floats, other: Floats, block: int, reach: int) -> tuple[Floats, Floats]:
    """The best correlation (R, C) of each block within reach, and (x, y) by which it moved."""
    rows, columns = one.shape[0] // block, one.shape[1] // block
    mine = one[: rows * block, : columns * block]
    mean, deviation = _means(mine, block), _deviations(mine, block)
    padded = np.pad(other, reach, mode="edge") if reach else other
    best = middle = np.full((rows, columns), -1, np.float32)
    moved = np.zeros((rows, columns, 2), np.float32)
    # the middle first, then what is nearer
    for dy, dx in sorted(
        np.ndindex(2 * reach + 1, 2 * reach + 1),
        key=lambda at: (at[0] - reach) ** 2 + (at[1] - reach) ** 2,
    ):
        theirs = padded[dy : dy + rows * block, dx : dx + columns * block]
        covariance = _means(mine * theirs, block) - mean * _means(theirs, block)
        scale = deviation * _deviations(theirs, block)
        found = covariance / np.maximum(scale, 1e-3)
        if (dy, dx) == (reach, reach):
            middle = found
        moved[(found > best) & (found > middle + _CLEARLY_BETTER)] = dx - reach, dy - reach
        best = np.maximum(best, found)
    return best, moved


def _normalised(grey: Floats) -> Floats:
    """Each pixel less the mean around it, in units of the contrast around it."""
    apart = grey - _around(grey)
    contrast = np.sqrt(np.maximum(_around(apart * apart), 0))
    return np.asarray(apart / (contrast + np.float32(_NORMALISED_CONTRAST)), np.float32)


def _around(values: Floats) -> Floats:
    """Means of the surroundings, about 8 pixels wide: reduced, and enlarged again."""
    image = Image.fromarray(values)
    small = max(1, round(image.width / 6)), max(1, round(image.height / 6))
    reduced = image.resize(small, Image.Resampling.BOX)
    return np.asarray(reduced.resize(image.size, Image.Resampling.BILINEAR))


def _means(values: NDArray[np.generic], block: int) -> Floats:
    """Means of blocks, of (h, w) or (h, w, 3); what is left at the edges is dropped."""
    rows, columns = values.shape[0] // block, values.shape[1] // block
    cells = values[: rows * block, : columns * block].reshape(rows, block, columns * block, -1)
    lines = cells.sum(axis=1, dtype=np.float32)
    sums = lines.reshape(rows, columns, block, -1).sum(axis=2)
    return np.asarray(sums.reshape(rows, columns, *values.shape[2:]) / block**2, np.float32)


def _deviations(values: Floats, block: int) -> Floats:
    mean = _means(values, block)
    return np.sqrt(np.maximum(_means(values * values, block) - mean * mean, 0))


def _colours(pixels: NDArray[np.uint8], grey: Floats) -> tuple[Floats, Floats]:
    colours, mean = _means(pixels, BLOCK), _means(grey, BLOCK)
    covariance = _means(pixels * grey[..., None], BLOCK) - colours * mean[..., None]
    contrasts = covariance / np.maximum(_deviations(grey, BLOCK), 0.03)[..., None]
    return colours, contrasts.astype(np.float32)


def _smoothed(values: Floats) -> Floats:
    padded = np.pad(values, 1, mode="edge")
    rows = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 16)
