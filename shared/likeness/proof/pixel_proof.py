"""Pixel proof: two pictures laid over each other, and what was done to one to make the other.

Keypoints propose a transform (alignment.py), blocks are compared under it (blocks.py), and boosted
trees judge the facts (pixel_facts.py, pixel_model.json). The proof depends on no embedding model.
It is symmetric: the pair is put in one order first.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache, cached_property
from importlib import resources
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from PIL import Image, ImageOps

from likeness.proof.alignment import Matrix, align, transformed
from likeness.proof.blocks import BLOCK, Blocks, compare_blocks
from likeness.proof.boosted_trees import PixelModel
from likeness.proof.keypoints import Keypoints, find_keypoints
from likeness.proof.pixel_facts import (
    BlockClasses,
    PixelFacts,
    classify,
    covered_shares,
    pixel_facts,
)
from likeness.proof.verdicts import Level, Verdict
from likeness.records import Box

# Pixels of the longer side: what a proof looks at.
SIDE = 512
PROVEN_LEVELS = (Level.COPY, Level.EDITED, Level.VARIANT)

_WHOLE = 0.97  # share of a frame from which all of it is shown
_TURNED = 0.035  # radians: 2 degrees
_SCALED = 0.03
_MOST, _HALF = 0.5, 0.5  # shares of the colours
_SINGLE_HUE = 0.02  # diversity: photos of one thing have more
_RECOLOURED, _MANY_CHANGED = 6.0, 0.1  # grey levels; share of the colours
_BLURRED = 0.45  # natural logarithm of the ratio of sharpness
_MAX_DIFFERENCES = 8
_MIN_DIFFERENCE = 3  # blocks
_PLAIN, _JUMP = 16.0, 20.0  # grey levels: within a border's colour, and of an edge
_NEARLY_NONE = 0.03  # share of a border that may have another colour
_EDGE = 0.015  # share of the part's sides
# Where an edge is looked for, as a share of the part's sides: beyond its frame, and twice inside.
_INSETS = (-0.015, 0.012, 0.039)
_MANY_JUMPS, _MORE_JUMPS = 0.4, 1.3  # share of a frame that is an edge; times that inside


class Edit(StrEnum):
    """What was done to one picture to make the other.

    part_of: one is a part of a larger picture, such as a collage or a screenshot.
    """

    CROPPED = "cropped"
    SCALED = "scaled"
    MIRRORED = "mirrored"
    TURNED = "turned"
    RECOLOURED = "recoloured"
    BLURRED = "blurred"
    RECOMPRESSED = "recompressed"
    OVERLAID = "overlaid"
    BORDERED = "bordered"
    PART_OF = "part_of"


class PixelProof(Struct, frozen=True):
    """What two pictures have in common, pixel by pixel.

    transform: a 3 × 3 homography, row by row, from the query's (x, y) to the target's, both as
    fractions of width and height. differences: where the pictures differ although both show the
    place, as a box in the query and one in the target, the largest first. agreeing: the share of
    the textured blocks shown by both that agree.
    """

    edits: tuple[Edit, ...]
    transform: tuple[float, ...]
    differences: tuple[tuple[Box, Box], ...]
    agreeing: float


class PixelVerdict(Struct, frozen=True):
    """Both are None where nothing is proven: the pair is then no closer than `same_item`."""

    verdict: Verdict | None
    proof: PixelProof | None


NOTHING_PROVEN = PixelVerdict(None, None)


class ProofImage:
    """A picture as proofs compare it: an RGB image, scaled down to at most SIDE pixels."""

    def __init__(self, image: Image.Image, full_size: tuple[int, int] | None = None) -> None:
        """`image` is upright and RGB, and is not kept if it is larger. `full_size`: width and
        height of the picture that it was decoded from.
        """
        self.full_size = full_size or image.size
        scale = min(1.0, SIDE / max(image.size))
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        self.image = image if scale == 1 else image.resize(size, Image.Resampling.BOX)

    @cached_property
    def keypoints(self) -> Keypoints:
        # half a percent at either end may be noise
        return find_keypoints(ImageOps.autocontrast(self.image.convert("L"), cutoff=0.5))

    @cached_property
    def order(self) -> tuple[tuple[int, int], bytes]:
        """What puts the two pictures of a pair in one order."""
        return self.image.size, self.image.tobytes()


class Comparison(NamedTuple):
    """Two aligned pictures, the first of which comes first by `ProofImage.order`."""

    facts: PixelFacts
    blocks: Blocks
    classes: BlockClasses


def prove_pixels(
    query: ProofImage, target: ProofImage, stricter: Mapping[str, float] | None = None
) -> PixelVerdict:
    """Compare two pictures: `copy`, `edited`, `variant`, or nothing proven.

    stricter: thresholds by level, where they are higher than the model's own.
    """
    if query.order == target.order and query.full_size == target.full_size:
        return PixelVerdict(
            Verdict(Level.COPY, 1.0), PixelProof((), tuple(np.eye(3).ravel().tolist()), (), 1.0)
        )
    swapped = target.order < query.order
    one, other = (target, query) if swapped else (query, target)
    found = compare_pixels(one, other)
    verdict = judge_pixels(found.facts, stricter or {}) if found else None
    if found is None or verdict is None:
        return NOTHING_PROVEN
    return PixelVerdict(verdict, _proof(found, verdict.level, one, other, swapped))


def compare_pixels(one: ProofImage, other: ProofImage) -> Comparison | None:
    """Two pictures in their order, aligned and compared; None where nothing agrees."""
    alignment = align(one.keypoints, other.keypoints, max(other.image.size))
    if alignment is None:
        return None
    blocks = compare_blocks(one.image, other.image, alignment.homography)
    if blocks is None:
        return None
    classes = classify(blocks)
    facts = pixel_facts(alignment, blocks, classes, (one.image.size, other.image.size))
    return Comparison(facts, blocks, classes) if facts else None


@cache
def pixel_model() -> PixelModel:
    """The fitted trees, which ship with the library."""
    data = resources.files(__package__).joinpath("pixel_model.json").read_bytes()
    return msgspec.json.decode(data, type=PixelModel)


def judge_pixels(facts: PixelFacts, stricter: Mapping[str, float]) -> Verdict | None:
    """The closest level that the facts prove."""
    model = pixel_model()
    scores = {level: model.levels[level].score(facts) for level in PROVEN_LEVELS}
    reached = [
        level
        for level, score in scores.items()
        if score >= max(model.thresholds[level], stricter.get(level, score))
    ]
    if reached and is_another_colour(facts):
        reached = [Level.VARIANT]
    if Level.EDITED not in reached and Level.COPY in reached:
        reached.remove(Level.COPY)  # what may be a variant is no copy
    if not reached:
        return None
    return Verdict(reached[0], float(1 / (1 + np.exp(-scores[reached[0]]))))


def is_another_colour(facts: PixelFacts) -> bool:
    """Whether something of one hue has another colour: on a ground that kept its own, or as the
    very same hue everywhere.

    That is a product in another colour, or an edit of one. Nothing tells which, so it is called a
    variant, which nobody deletes.
    """
    on_its_ground = facts.unchanged >= _HALF
    as_one = facts.hue_turned > _MOST and facts.hue_diversity < _SINGLE_HUE
    return facts.one_hue > _MOST and (on_its_ground or as_one)


def _proof(
    found: Comparison, level: Level, one: ProofImage, other: ProofImage, swapped: bool
) -> PixelProof:
    blocks, facts = found.blocks, found.facts
    to_fractions = [
        np.linalg.inv(np.diag([*each.image.size, 1.0])) @ matrix
        for each, matrix in ((one, blocks.to_one), (other, blocks.to_other))
    ]
    transform = to_fractions[1] @ np.linalg.inv(to_fractions[0])
    differences = _differences(found.classes, to_fractions)
    edits = _edits(found, level, one, other, bool(differences))
    if swapped:
        transform = np.linalg.inv(transform)
        differences = [(target, query) for query, target in differences]
    return PixelProof(
        edits,
        tuple((transform / transform[2, 2]).ravel().tolist()),
        tuple(differences),
        facts.share,
    )


def _differences(classes: BlockClasses, to_fractions: list[Matrix]) -> list[tuple[Box, Box]]:
    labels = classes.labels
    counts = np.bincount(labels.ravel())[1:]
    largest = [n for n in np.argsort(-counts) if counts[n] >= _MIN_DIFFERENCE]
    boxes = []
    for number in largest[:_MAX_DIFFERENCES]:
        rows, columns = np.nonzero(labels == number + 1)
        left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
        corners = np.array([(left, top), (right, top), (left, bottom), (right, bottom)]) * BLOCK
        one, other = (_box_around(transformed(matrix, corners)) for matrix in to_fractions)
        boxes.append((one, other))
    return boxes


def _box_around(points: Matrix) -> Box:
    (left, top), (right, bottom) = np.clip([points.min(axis=0), points.max(axis=0)], 0, 1).tolist()
    return Box(left, top, right, bottom)


def _edits(
    found: Comparison, level: Level, one: ProofImage, other: ProofImage, differs: bool
) -> tuple[Edit, ...]:
    facts = found.facts
    recoloured = facts.colour_of_agreeing > _RECOLOURED or facts.changed > _MANY_CHANGED
    named = {
        **_framing(found, one, other),
        Edit.SCALED: facts.stretch > _SCALED or _is_scaled(found.blocks, one, other),
        Edit.MIRRORED: facts.mirrored > 0,
        Edit.TURNED: facts.turn > _TURNED,
        Edit.RECOLOURED: recoloured or facts.faded > _MANY_CHANGED,
        Edit.BLURRED: facts.sharpness > _BLURRED,
        # what differs in a variant is its content
        Edit.OVERLAID: differs and level is Level.EDITED,
    }
    edits = tuple(edit for edit in Edit if named.get(edit))
    return edits if edits or level is Level.VARIANT else (Edit.RECOMPRESSED,)


def _is_scaled(blocks: Blocks, one: ProofImage, other: ProofImage) -> bool:
    """Whether the whole files show the same things with another number of pixels."""
    linear = blocks.homography[:2, :2]
    scale = np.sqrt(abs(np.linalg.det(linear)))
    scale *= one.image.width / one.full_size[0] * other.full_size[0] / other.image.width
    return bool(abs(np.log(max(1e-6, scale))) > _SCALED)


def _framing(found: Comparison, one: ProofImage, other: ProofImage) -> dict[Edit, bool]:
    """Whether one frame shows less than the other, and what surrounds it there."""
    covered = covered_shares(found.blocks.homography, (one.image.size, other.image.size))
    if min(covered) >= _WHOLE:
        return {}
    if max(covered) < _WHOLE:
        return {Edit.CROPPED: True}
    if covered[1] >= covered[0]:  # the second picture is the part
        part, outer, homography = other, one, np.linalg.inv(found.blocks.homography)
    else:
        part, outer, homography = one, other, found.blocks.homography
    plain, jumps = _surroundings(outer.image, homography @ np.diag([*part.image.size, 1.0]))
    return {
        Edit.BORDERED: plain,
        Edit.PART_OF: not plain and jumps,
        Edit.CROPPED: not plain and not jumps,
    }


def _surroundings(outer: Image.Image, to_outer: NDArray[np.floating]) -> tuple[bool, bool]:
    """Whether a part of a picture is surrounded by one plain colour and nothing else, and whether
    its edge is an edge in the whole: a crop's is not.

    to_outer (3, 3): fractions of the part → pixels of the whole.
    """
    pixels = np.asarray(outer.convert("L"), np.float32)
    beyond, edge, inside = (_along_frame(pixels, to_outer, inset) for inset in _INSETS)
    known = np.isfinite(beyond) & np.isfinite(edge) & np.isfinite(inside)
    around = _beyond_frame(pixels, to_outer)
    if known.sum() < 8 or not len(around):
        return False, False
    plain = (np.abs(around - np.median(beyond[known])) > _PLAIN).mean() < _NEARLY_NONE
    jumps = float((np.abs(beyond - edge)[known] > _JUMP).mean())
    within = float((np.abs(edge - inside)[known] > _JUMP).mean())
    return bool(plain), jumps > max(_MANY_JUMPS, _MORE_JUMPS * within)


def _beyond_frame(
    pixels: NDArray[np.float32], to_outer: NDArray[np.floating]
) -> NDArray[np.float32]:
    """Grey levels of the whole on a grid, without the part and its edge."""
    height, width = pixels.shape
    y, x = np.mgrid[0 : height : max(1, height // 48), 0 : width : max(1, width // 48)]
    points = np.stack([x.ravel(), y.ravel()], axis=1) + 0.5
    part = transformed(np.linalg.inv(to_outer), points)
    outside = ((part < -_EDGE) | (part > 1 + _EDGE)).any(axis=1)
    return np.asarray(pixels[y.ravel(), x.ravel()][outside], np.float32)


def _along_frame(
    pixels: NDArray[np.float32], to_outer: NDArray[np.floating], inset: float
) -> Matrix:
    """Grey levels along a frame inside (or outside) that of the part; NaN beyond the whole."""
    along = np.linspace(0.05, 0.95, 24)
    low, high = np.full(24, inset), np.full(24, 1 - inset)
    sides = [(along, low), (along, high), (low, along), (high, along)]
    points = np.concatenate([np.stack(side, axis=1) for side in sides])
    x, y = np.floor(transformed(to_outer, points)).astype(np.intp).T
    height, width = pixels.shape
    known = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    levels = pixels[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    return np.where(known, levels, np.nan)
