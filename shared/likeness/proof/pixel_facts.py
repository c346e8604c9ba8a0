"""Facts about two aligned pictures: how much agrees, what differs, and how the colours changed.

All are symmetric in the two pictures, but for what the order of the pair decides beforehand.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from likeness.proof.alignment import Alignment, Matrix, transformed
from likeness.proof.blocks import GREY, MIN_TEXTURE, Blocks

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Standard deviation in grey levels from which a block can differ: compression changes fainter ones.
_CLEAR_TEXTURE = 4.0
_OVER_NOISE = 1.6  # a texture is one if it is so many times the picture's own noise
# Correlations from which a block agrees: where most agree better, more is asked of each.
_AGREEING, _SURELY_AGREEING, _BELOW_MEDIAN = 0.6, 0.8, 0.2
_DIFFERING = 0.3
_CONTRAST_RATIO = 1.2  # natural logarithm: how far a block's contrast may change against the others
_COLOURFUL, _COLOURLESS = 24.0, 40.0  # chroma, in grey levels
_TURNED_HUE = 0.45  # radians
_ONE_HUE = 0.15  # diversity up to which a picture has a single hue
_OTHER_COLOUR = 0.6  # of the chroma: a change that is more than one of saturation
_UNCHANGED, _CHANGED, _UNEXPLAINED = 10.0, 20.0, 16.0  # mean differences of colours
# Cells within two of a cell that come before it in reading order.
_BEFORE = [(dy, dx) for dy in (-2, -1, 0) for dx in range(-2, 3) if (dy, dx) < (0, 0)]


class PixelFacts(NamedTuple):
    """What the boosted trees of pixel_model.json see; see `pixel_facts`.

    Shares are of the textured blocks that both pictures show, unless they say otherwise. agreeing,
    differing: natural logarithms of how many blocks do, plus one. quality: mean correlation of the
    blocks that agree; residue: of those that do not. inliers: a logarithm too. covered_most,
    covered_least: share of either frame that the other shows. by_chance: largest share that agrees
    though one picture was displaced. outside: share that agrees outside the largest difference,
    which spans `difference_area` of what is shown; difference_count: how many there are.
    one_sided, two_sided: of the differing blocks, in how many only one picture has texture: the
    excess of one side, and the smaller side.
    """

    share: float
    agreeing: float
    differing: float
    quality: float
    residue: float
    inliers: float
    inlier_share: float
    covered_most: float
    covered_least: float
    by_chance: float
    by_chance_mean: float
    low: float
    lower_quartile: float
    median: float
    clearly_differing: float
    clearly_differing_outside: float
    outside: float
    difference_area: float
    difference_count: float
    one_sided: float
    two_sided: float
    shown: float
    sharpness: float
    noise_most: float
    noise_least: float
    mirrored: float
    turn: float
    stretch: float
    colour_median: float
    colour_high: float
    colour_of_agreeing: float
    unchanged: float
    changed: float
    changed_spread: float
    hue_turn: float
    hue_coherence: float
    hue_turned: float
    hue_diversity: float
    faded: float
    one_hue: float
    tone_unexplained: float
    colour_unexplained: float


class BlockClasses(NamedTuple):
    """Of the shown blocks (R, C): which agree, which differ, and the components of the latter,
    numbered from 1 in `labels`, 0 elsewhere.
    """

    agreeing: Mask
    differing: Mask
    textured: tuple[Mask, Mask]
    labels: NDArray[np.intp]


def classify(blocks: Blocks) -> BlockClasses:
    shown = blocks.shown
    noises = _noises(blocks)
    one, other = (
        texture > max(_CLEAR_TEXTURE, _OVER_NOISE * noise)
        for texture, noise in zip(blocks.textures, noises, strict=True)
    )
    both = shown & (blocks.textures.min(axis=0) > MIN_TEXTURE)
    agreeing = both & (blocks.correlation > _agreeing_from(blocks.correlation[both]))
    if agreeing.any():
        ratio = np.log(np.maximum(blocks.textures[1], 0.5) / np.maximum(blocks.textures[0], 0.5))
        agreeing &= np.abs(ratio - np.median(ratio[agreeing])) < _CONTRAST_RATIO
    differing = shown & (one | other) & ~agreeing
    return BlockClasses(agreeing, differing, (one, other), components(differing))


def _agreeing_from(correlations: Floats) -> float:
    median = float(np.median(correlations)) if len(correlations) else 0.0
    return float(np.clip(median - _BELOW_MEDIAN, _AGREEING, _SURELY_AGREEING))


def components(mask: Mask) -> NDArray[np.intp]:
    """Numbers of the groups of cells that touch or are one cell apart, from 1; 0 elsewhere."""
    parent: dict[tuple[int, int], tuple[int, int]] = {}

    def root(cell: tuple[int, int]) -> tuple[int, int]:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = parent[cell]
        return cell

    for y, x in np.argwhere(mask).tolist():
        parent[y, x] = (y, x)
        for dy, dx in _BEFORE:
            if (y + dy, x + dx) in parent:
                parent[root((y + dy, x + dx))] = root((y, x))
    labels, numbers = np.zeros(mask.shape, np.intp), dict[tuple[int, int], int]()
    for cell in parent:
        labels[cell] = numbers.setdefault(root(cell), len(numbers) + 1)
    return labels


def pixel_facts(
    alignment: Alignment,
    blocks: Blocks,
    classes: BlockClasses,
    sizes: tuple[tuple[int, int], tuple[int, int]],
) -> PixelFacts | None:
    """The facts; None where so little agrees that no verdict could rest on it.

    sizes: width and height of the first picture and of the second, in pixels.
    """
    agreeing, differing = classes.agreeing, classes.differing
    count, apart = int(agreeing.sum()), int(differing.sum())
    if count < 3:
        return None
    correlation = blocks.correlation
    both = blocks.textures.min(axis=0) > MIN_TEXTURE
    textured = blocks.shown & (classes.textured[0] | classes.textured[1])
    values = np.where(both, correlation, 0)[textured | agreeing]
    low, quartile, median = np.quantile(values, [0.1, 0.25, 0.5])
    clearly = differing & (np.where(both, correlation, 0) < _DIFFERING)
    box = _largest_box(classes.labels)
    outside = ~box & (agreeing | differing)
    only_one = int((differing & classes.textured[0] & ~classes.textured[1]).sum())
    only_other = int((differing & classes.textured[1] & ~classes.textured[0]).sum())
    covered = covered_shares(blocks.homography, sizes)
    noises = _noises(blocks)
    shape = _shape(blocks.homography, sizes[0])
    return PixelFacts(
        count / (count + apart),
        np.log1p(count),
        np.log1p(apart),
        float(correlation[agreeing].mean()),
        float(correlation[differing].mean()) if apart else 1.0,
        np.log1p(alignment.inliers),
        alignment.inliers / max(1, alignment.matches),
        max(covered),
        min(covered),
        max(blocks.displaced),
        float(np.mean(blocks.displaced)),
        float(low),
        float(quartile),
        float(median),
        float(clearly.sum() / max(1, len(values))),
        float((clearly & ~box).sum() / max(1, outside.sum())),
        float((agreeing & ~box).sum() / max(1, outside.sum())),
        float((box & blocks.shown).sum() / max(1, blocks.shown.sum())),
        np.log1p(classes.labels.max()),
        abs(only_one - only_other) / max(1, apart),
        min(only_one, only_other) / max(1, apart),
        np.log1p(blocks.shown.sum()),
        abs(np.log(max(1e-3, blocks.sharpness))),
        max(noises),
        min(noises),
        *shape,
        *_colour_facts(blocks, classes),
    )


def covered_shares(
    homography: Matrix, sizes: tuple[tuple[int, int], tuple[int, int]]
) -> tuple[float, float]:
    """Share of the first frame that the second shows, and of the second that the first shows."""
    one, other = sizes
    return (
        _covered(homography, one, other),
        _covered(np.linalg.inv(homography), other, one),
    )


def _covered(
    homography: NDArray[np.floating], size: tuple[int, int], other: tuple[int, int]
) -> float:
    places = (np.arange(20) + 0.5) / 20
    grid = np.stack(np.meshgrid(places * size[0], places * size[1]), axis=-1).reshape(-1, 2)
    moved, slack = transformed(homography, grid), 0.01 * max(other)
    inside = (moved >= -slack) & (moved <= np.array(other) + slack)
    return float(inside.all(axis=1).mean())


def _noises(blocks: Blocks) -> list[float]:
    """Each picture's noise, from its smoothest blocks: white noise keeps .8 of it when blurred."""
    if not blocks.shown.any():
        return [0.0, 0.0]
    return [float(np.quantile(fine[blocks.shown], 0.1)) / 0.8 for fine in blocks.noises]


def _largest_box(labels: NDArray[np.intp]) -> Mask:
    """The bounding box of the largest component."""
    box = np.zeros(labels.shape, bool)
    if labels.any():
        rows, columns = np.nonzero(labels == np.bincount(labels.ravel())[1:].argmax() + 1)
        box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    return box


def _shape(homography: Matrix, size: tuple[int, int]) -> tuple[float, float, float]:
    """Whether it mirrors, by how much it turns (0 to π), and how much it changes the proportions
    of the frame (natural logarithm).
    """
    width, height = size
    centre = np.array([[width / 2, height / 2]])
    steps = centre + np.array([[0, 0], [width / 4, 0], [0, height / 4]])
    at, right, down = transformed(homography, steps)
    across, along = (right - at) @ (1, 1j), (down - at) @ (1, 1j)
    mirrored = float((across.conjugate() * along).imag < 0)
    # a mirror image has its left at the right: that alone is no turn
    turn = abs(float(np.angle(-across if mirrored else across)))
    stretch = np.log(max(1e-6, abs(across)) / width * height / max(1e-6, abs(along)))
    return mirrored, turn, abs(float(stretch))


def colour_samples(blocks: Blocks, classes: BlockClasses) -> tuple[Floats, Floats]:
    """Colours (N, 3) of both pictures, 0–255: of flat blocks their mean, of blocks that agree the
    darker and the lighter part. Blocks beside a difference are left out.
    """
    textured = classes.textured[0] | classes.textured[1]
    flat = blocks.shown & ~textured & ~classes.agreeing & ~_grown(classes.differing)
    agreeing = classes.agreeing
    colours, contrasts = blocks.colours, 1.5 * blocks.contrasts
    one, other = (
        np.concatenate([mean[flat], (mean - step)[agreeing], (mean + step)[agreeing]])
        for mean, step in zip(colours, contrasts, strict=True)
    )
    return np.clip(one, 0, 255), np.clip(other, 0, 255)


def _colour_facts(blocks: Blocks, classes: BlockClasses) -> tuple[float, ...]:
    one, other = (part.astype(np.float64) for part in colour_samples(blocks, classes))
    difference = np.abs(other - one).mean(axis=1)
    median, high = np.quantile(difference, [0.5, 0.9])
    agreeing = classes.agreeing
    means = np.abs(blocks.colours[0][agreeing] - blocks.colours[1][agreeing]).mean()
    changed = difference >= _CHANGED
    light, light_other = one @ GREY, other @ GREY
    tone = np.stack([np.ones_like(light), light / 255, (light / 255) ** 2], axis=1)
    affine = np.column_stack([one / 255, np.ones(len(one))])
    return (
        float(median),
        float(high),
        float(means),
        float((difference < _UNCHANGED).mean()),
        float(changed.mean()),
        float(light[changed].std()) if changed.sum() > 2 else 0.0,
        *_hue_facts(one, other),
        _unexplained(tone, light_other[:, None]),
        _unexplained(affine, other),
    )


def _hue_facts(one: Matrix, other: Matrix) -> tuple[float, float, float, float, float, float]:
    """How far hues turned (radians), how much alike (0–1), the share that did, how many different
    hues there are (0–1), the share of colours that one picture has and the other has not, and the
    share of the colours that changed, where each picture has one hue only.
    """
    planes = [_hue_plane(colours) for colours in (one, other)]
    chromas = np.abs(planes)
    least, most = chromas.min(axis=0), chromas.max(axis=0)
    faded = float(((most > _COLOURLESS) & (least < 0.35 * most)).mean())
    one_hue = _one_hue_changed(planes)
    both = least > _COLOURFUL
    if both.sum() < 3:
        return 0.0, 1.0, 0.0, 0.0, faded, one_hue
    weights = least[both] / least[both].sum()
    units = [plane[both] / chroma[both] for plane, chroma in zip(planes, chromas, strict=True)]
    turns = units[1] * units[0].conj()
    mean = complex((weights * turns).sum())
    return (
        abs(float(np.angle(mean))),
        abs(mean),
        float((np.abs(np.angle(turns)) > _TURNED_HUE).mean()),
        1 - abs(complex((weights * units[0]).sum())),
        faded,
        one_hue,
    )


def _hue_plane(colours: Matrix) -> NDArray[np.complex128]:
    """Opponent colours as complex numbers (N,): the angle is the hue, the length the chroma."""
    red, green, blue = colours.T
    return np.asarray(red - green + 1j * ((red + green) / 2 - blue))


def _one_hue_changed(planes: list[NDArray[np.complex128]]) -> float:
    """Of the colourful samples, the share that lost or changed its colour; 0 where a picture has
    several hues, by which a change of all of them could be told from one of a single object.
    """
    chromas = np.abs(planes)
    colourful = chromas.max(axis=0) > _COLOURFUL
    if colourful.sum() < 3:
        return 0.0
    for plane, chroma in zip(planes, chromas, strict=True):
        strong = chroma > _COLOURFUL
        if strong.sum() >= 3:
            weights = chroma[strong] / chroma[strong].sum()
            if 1 - abs(complex((weights * plane[strong] / chroma[strong]).sum())) > _ONE_HUE:
                return 0.0
    changed = np.abs(planes[1] - planes[0]) > _OTHER_COLOUR * chromas.max(axis=0)
    return float(changed[colourful].mean())


def _unexplained(design: Matrix, goals: Matrix) -> float:
    """Share of the rows that a linear model, fitted robustly (least absolute residuals), misses."""
    weights, residual = np.ones(len(design)), np.zeros(len(design))
    for _ in range(4):
        weighted = design * weights[:, None]
        solved = np.linalg.solve(
            weighted.T @ design + 1e-2 * np.eye(design.shape[1]), weighted.T @ goals
        )
        residual = np.abs(design @ solved - goals).mean(axis=1)
        weights = 1 / np.maximum(residual, 4)
    return float((residual > _UNEXPLAINED).mean())


def _grown(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return np.asarray(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:])
