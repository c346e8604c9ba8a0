"""Verdicts: levels of sameness, each with a calibrated probability.

For each level a logistic model turns the features of a pair (`evidence.pair_features`) into the
probability that the pair is at least that close (an ordinal model by cumulative binary ones; Frank
and Hall, ECML 2001). `likeness calibrate` fits it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from likeness.errors import ModelBundleError
from likeness.proof.evidence import PAIR_FEATURES

CALIBRATION = "calibration.json"


class Level(StrEnum):
    """How close two images are, the closest first.

    exact: the same bytes. copy: re-encoded or resized. edited: cropped, rotated, recoloured,
    overlaid. variant: the same design in another colour or with other content. same_item: another
    photo of the same object. similar: an object of the same kind.
    """

    EXACT = "exact"
    COPY = "copy"
    EDITED = "edited"
    VARIANT = "variant"
    SAME_ITEM = "same_item"
    SIMILAR = "similar"
    NONE = "none"


# Levels with a logistic model: equal bytes make `exact`, and `none` is what remains.
FITTED_LEVELS = (Level.COPY, Level.EDITED, Level.SAME_ITEM, Level.SIMILAR)


class Basis(StrEnum):
    """What a verdict rests on."""

    BYTES = "bytes"
    PIXELS = "pixels"
    INDEX = "index"


class Verdict(NamedTuple):
    """`probability`: of being at least as close as `level` says; for none, of being no closer."""

    level: Level
    probability: float


class LevelModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One level's model: σ(weights · features + bias), reached from the threshold up."""

    weights: tuple[float, ...]
    bias: float
    threshold: float = 0.5


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """calibration.json: what the scores of one model, named by its fingerprint, are worth.

    `pixels`: thresholds of the pixel proof by level, where they are higher than its own.
    `refinement` and `geometry` are the weights of the rerank stages of these names: the share of
    refined scores in the global score, and what each unit of the geometry score adds to it.
    """

    model: str
    levels: Mapping[str, LevelModel]
    refinement: float = 0.5
    geometry: float = 0.1
    pixels: Mapping[str, float] = {}
    made_from: str = ""


def load_calibration(folder: Path, model: str) -> Calibration | None:
    """The calibration in a bundle's folder, or None if there is none.

    Raises ModelBundleError if it is invalid or belongs to another model.
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
    if set(found.levels) != {level.value for level in FITTED_LEVELS}:
        raise ModelBundleError(f"{CALIBRATION}: the levels are {sorted(found.levels)}")
    if any(len(fitted.weights) != PAIR_FEATURES for fitted in found.levels.values()):
        raise ModelBundleError(f"{CALIBRATION}: each level has {PAIR_FEATURES} weights")
    return found


def judge(calibration: Calibration, rows: NDArray[np.float64]) -> list[Verdict]:
    """The closest level that reaches its threshold, for each row of features; never `exact`."""
    at_least = probabilities(calibration, rows)
    thresholds = [calibration.levels[level].threshold for level in FITTED_LEVELS]
    verdicts = []
    for row in at_least:
        level = next((n for n, least in enumerate(thresholds) if row[n] >= least), None)
        if level is None:
            verdicts.append(Verdict(Level.NONE, float(1 - row[-1])))
        else:
            verdicts.append(Verdict(FITTED_LEVELS[level], float(row[level])))
    return verdicts


def probabilities(calibration: Calibration, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (K, 4) of being at least as close as each fitted level, rising along a row."""
    fitted = [calibration.levels[level] for level in FITTED_LEVELS]
    each = np.stack([sigmoid(rows @ np.array(f.weights) + f.bias) for f in fitted], axis=1)
    return np.maximum.accumulate(each, axis=1)  # a copy is at least `edited` too


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))), np.float64)
