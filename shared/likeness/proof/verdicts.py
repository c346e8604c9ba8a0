"""Verdicts: what a raw score cannot say, a calibrated probability can.

A pair of images is looked at in several ways (`Evidence`). For each level of sameness a logistic
model turns them into the probability that the pair is at least so close (an ordinal model by
cumulative binary ones; Frank and Hall, ECML 2001). `likeness calibrate` fits it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from likeness.descriptor_packing import cell_positions
from likeness.errors import ModelBundleError
from likeness.proof.geometry import Verification

CALIBRATION = "calibration.json"
_FACTS = 12
FEATURES = _FACTS + _FACTS * (_FACTS + 1) // 2
_FULL_SCORE = 32.0  # 64 descriptors, each with the weight 1 − 0.5 of a perfect match


class Level(StrEnum):
    """How close two images are, the closest first.

    exact: the same bytes. copy: encoded or scaled anew. edited: cropped, turned, recoloured,
    overlaid. same_item: another photo of the same thing. similar: a thing of the same kind.
    """

    EXACT = "exact"
    COPY = "copy"
    EDITED = "edited"
    SAME_ITEM = "same_item"
    SIMILAR = "similar"
    NONE = "none"


# What logistic models are fitted for: exact is read off the bytes, none is what is left.
FITTED = (Level.COPY, Level.EDITED, Level.SAME_ITEM, Level.SIMILAR)


class Verdict(NamedTuple):
    """`probability`: of being at least as close as `level` says; for none, of being no closer."""

    level: Level
    probability: float


class Evidence(NamedTuple):
    """Facts of one query and K candidates, each (K,).

    geometry: soft inlier score. inliers: matches that agree. shift: how far the corners of the
    query's frame are moved, in frames. overlap_query, overlap_target: shares of either frame that
    the other shows. colour: mean difference of colours where the frames overlap, worst: its 90th
    percentile, both 0 to 1; likeness: correlation of colours there, each channel less its mean.
    plain_colour, plain_worst: mean and most that colours differ, as if nothing had moved.
    """

    cosine: NDArray[np.float32]
    geometry: NDArray[np.float32]
    inliers: NDArray[np.float32]
    shift: NDArray[np.float32]
    overlap_query: NDArray[np.float32]
    overlap_target: NDArray[np.float32]
    colour: NDArray[np.float32]
    worst: NDArray[np.float32]
    likeness: NDArray[np.float32]
    plain_colour: NDArray[np.float32]
    plain_worst: NDArray[np.float32]


class Fitted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One level: σ(weights · features + bias), and from which probability on it is claimed."""

    weights: tuple[float, ...]
    bias: float
    threshold: float = 0.5


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """calibration.json: how far the scores of one model, named by its fingerprint, can be trusted.

    `refinement` is the share that global refinement has in the global score, `geometry` what a unit
    of verified matches adds to it.
    """

    model: str
    levels: Mapping[str, Fitted]
    refinement: float = 0.5
    geometry: float = 0.1
    made_from: str = ""


def load_calibration(folder: Path, model: str) -> Calibration | None:
    """That of a bundle's folder; None where it has none.

    Raises ModelBundleError where it is another model's, or no calibration.
    """
    path = folder / CALIBRATION
    if not path.exists():
        return None
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        raise ModelBundleError(f"{CALIBRATION}: {error}") from error
    if found.model != model:
        raise ModelBundleError(
            f"{CALIBRATION} is of model {found.model}, the bundle is {model}: "
            "`likeness calibrate` makes one for it"
        )
    if set(found.levels) != {level.value for level in FITTED}:
        raise ModelBundleError(f"{CALIBRATION}: the levels are {sorted(found.levels)}")
    if any(len(fitted.weights) != FEATURES for fitted in found.levels.values()):
        raise ModelBundleError(f"{CALIBRATION}: each level has {FEATURES} weights")
    return found


def evidence(
    cosines: NDArray[np.float32],
    verified: Verification,
    side: int,
    query_colours: NDArray[np.uint8],
    colours: NDArray[np.uint8],
) -> Evidence:
    """What is known of K candidates. `side`: cells of the local map; query_colours (c, c, 3),
    colours (K, c, c, 3): layouts, of any one size.
    """
    last = side - 0.5
    corners = np.array([(-0.5, -0.5), (last, -0.5), (-0.5, last), (last, last)]).T
    shift = np.abs(_moved(verified.affine, corners) - corners).mean(axis=(1, 2)) / side
    cells = len(query_colours)
    # centres of the layout's cells, in cells of the local map
    centres = (cell_positions(cells).T.astype(np.float64) + 0.5) * side / cells - 0.5
    there = _moved(verified.affine, centres)
    inside = _within(there, side)
    theirs, mine = _channels(colours), _channels(query_colours[None])[0]
    aligned = _sampled(theirs, (there + 0.5) * cells / side - 0.5, cells)
    difference = np.abs(aligned - mine).mean(axis=1)
    plain = np.abs(theirs - mine).mean(axis=1)
    return Evidence(
        cosine=cosines,
        geometry=verified.score,
        inliers=verified.inliers.astype(np.float32),
        shift=np.minimum(1, shift).astype(np.float32),
        overlap_query=inside.mean(axis=1, dtype=np.float32),
        overlap_target=_covered(verified.affine, side),
        colour=_mean(difference, inside),
        worst=_ninth_tenth(difference, inside),
        likeness=_correlation(mine, aligned, inside),
        plain_colour=plain.mean(axis=1, dtype=np.float32),
        plain_worst=plain.max(axis=1),
    )


def features(found: Evidence) -> NDArray[np.float64]:
    """(K, FEATURES), each about 0 to 1: facts, and their products, since few facts mean much alone.

    Colours that agree are no proof where geometry has found nothing to align them by.
    """
    strength = np.log1p(found.geometry) / np.log1p(_FULL_SCORE)
    columns = [
        found.cosine,
        -np.log10(np.maximum(0, 1 - found.cosine) + 1e-3) / 3,
        strength,
        np.minimum(1, found.inliers / 40),
        np.sqrt(found.shift),
        found.overlap_query,
        found.overlap_target,
        np.minimum(1, 3 * found.colour),
        np.minimum(1, 2 * found.worst),
        np.maximum(0, found.likeness),
        np.sqrt(np.minimum(1, 4 * found.plain_colour)),
        np.sqrt(np.minimum(1, found.plain_worst)),
    ]
    facts = np.stack(columns, axis=1).astype(np.float64)
    one, other = np.triu_indices(_FACTS)
    return np.concatenate([facts, facts[:, one] * facts[:, other]], axis=1)


def judge(calibration: Calibration, rows: NDArray[np.float64]) -> list[Verdict]:
    """The closest level that is likely enough, for each row of features; never exact (`Level`)."""
    at_least = chances(calibration, rows)
    thresholds = [calibration.levels[level].threshold for level in FITTED]
    verdicts = []
    for row in at_least:
        level = next((n for n, least in enumerate(thresholds) if row[n] >= least), None)
        if level is None:
            verdicts.append(Verdict(Level.NONE, float(1 - row[-1])))
        else:
            verdicts.append(Verdict(FITTED[level], float(row[level])))
    return verdicts


def chances(calibration: Calibration, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (K, 4) of being at least as close as each of FITTED: they rise along a row."""
    fitted = [calibration.levels[level] for level in FITTED]
    each = np.stack([sigmoid(rows @ np.array(f.weights) + f.bias) for f in fitted], axis=1)
    return np.maximum.accumulate(each, axis=1)  # a copy is edited or closer too


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))), np.float64)


def _channels(layouts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(K, c, c, 3) → (K, 3, c²), 0 to 1: loops over places are fast, loops over three are not."""
    planes = np.moveaxis(layouts, 3, 1).reshape(len(layouts), 3, -1)
    return planes.astype(np.float32) / np.float32(255)


def _moved(affine: NDArray[np.float32], points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (2, P) under K transforms: (K, 2, P)."""
    return np.asarray(affine[..., :2] @ points + affine[..., 2:], np.float64)


def _within(points: NDArray[np.float64], side: int) -> NDArray[np.bool_]:
    """Which of the points (K, 2, P) lie in a map: (K, P)."""
    return np.asarray(((points > -0.5) & (points < side - 0.5)).all(axis=1))


def _covered(affine: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Share (K,) of the candidate's cells that the query's frame is mapped onto."""
    linear, shift = np.split(affine.astype(np.float64), [2], axis=2)
    sound = np.abs(np.linalg.det(linear)) > 1e-3
    back = np.linalg.inv(np.where(sound[:, None, None], linear, np.eye(2)))
    inside = _within(back @ (cell_positions(side).T - shift), side)
    return np.where(sound, inside.mean(axis=1), 0).astype(np.float32)


def _mean(values: NDArray[np.float32], where: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Row means over some places; 1, the most that colours differ, where there is none."""
    counts = where.sum(axis=1)
    means = (values * where).sum(axis=1) / np.maximum(1, counts)
    return np.where(counts > 0, means, 1).astype(np.float32)


def _ninth_tenth(values: NDArray[np.float32], where: NDArray[np.bool_]) -> NDArray[np.float32]:
    ordered = np.sort(np.where(where, values, -1), axis=1)
    counts = where.sum(axis=1)
    # those that do not count stand first: the place of the ninth tenth among the rest
    place = values.shape[1] - counts + (0.9 * np.maximum(0, counts - 1)).astype(np.intp)
    found = np.take_along_axis(ordered, np.minimum(place, values.shape[1] - 1)[:, None], axis=1)
    return np.where(counts > 0, found[:, 0], 1).astype(np.float32)


def _sampled(
    layouts: NDArray[np.float32], at: NDArray[np.float64], cells: int
) -> NDArray[np.float32]:
    """Bilinear samples (K, 3, P) of layouts (K, 3, cells²) at (x, y) (K, 2, P), in cells."""
    at = np.clip(at, 0, cells - 1)
    low = np.minimum(at.astype(np.intp), cells - 2)
    right, down = np.moveaxis((at - low).astype(np.float32), 1, 0)[:, :, None]
    planes = np.arange(layouts.shape[0] * 3).reshape(-1, 3, 1) * cells**2
    first = planes + (low[:, 1:] * cells + low[:, :1])
    values = layouts.ravel()
    upper = (1 - right) * values.take(first) + right * values[1:].take(first)
    lower = (1 - right) * values[cells:].take(first) + right * values[cells + 1 :].take(first)
    return np.asarray((1 - down) * upper + down * lower, np.float32)


def _correlation(
    mine: NDArray[np.float32], theirs: NDArray[np.float32], where: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Of colours (3, P) and (K, 3, P) over some places: (K,)."""
    counts = np.maximum(1, where.sum(axis=1, dtype=np.float32))[:, None, None]
    shown = where[:, None].astype(np.float32)
    a = (mine - (mine * shown).sum(axis=2, keepdims=True) / counts) * shown
    b = (theirs - (theirs * shown).sum(axis=2, keepdims=True) / counts) * shown
    both, ours, its = (np.einsum("kcp,kcp->k", x, y) for x, y in ((a, b), (a, a), (b, b)))
    return np.asarray(both / np.maximum(np.sqrt(ours * its), 1e-6), np.float32)
