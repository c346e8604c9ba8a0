"""Verdicts: levels of sameness, each with a calibrated probability.

What the index stores carries two levels, `same_item` and `similar`. For each a logistic model turns
the features of a pair (`evidence.pair_features`) into the probability that the pair is at least
that close (an ordinal model by cumulative binary ones; Frank and Hall, ECML 2001). A third model
suspects what only the pixels can prove. No weight is negative: more agreement never makes a pair
less close. `likeness calibrate` fits them.
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


# Levels that the index carries: bytes or pixels prove the closer ones, and `none` is what remains.
FITTED_LEVELS = (Level.SAME_ITEM, Level.SIMILAR)


class Basis(StrEnum):
    """What a verdict rests on."""

    BYTES = "bytes"
    PIXELS = "pixels"
    INDEX = "index"


class Verdict(NamedTuple):
    """`probability`: of being at least as close as `level` says; for none, of being no closer."""

    level: Level
    probability: float


class IndexVerdict(NamedTuple):
    """What the index says of a pair; `suspected`: the pixels may prove a closer level."""

    verdict: Verdict
    suspected: bool


class LevelModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One level's model: σ(weights · features + bias), reached from the threshold up.

    No weight is negative.
    """

    weights: tuple[float, ...]
    bias: float
    threshold: float = 0.5

    def probability(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of K pairs (K,), given their features (K, F)."""
        return sigmoid(rows @ np.array(self.weights) + self.bias)


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """calibration.json: what the scores of one model, named by its fingerprint, are worth.

    `suspicion` is the model of pairs that are variants or closer. `pixels`: thresholds of the pixel
    proof by level, where they are higher than its own. `refinement` and `geometry` are
    the weights of the rerank stages of these names: the share of refined scores in the global
    score, and what each unit of the geometry score adds to it.
    """

    model: str
    levels: Mapping[str, LevelModel]
    suspicion: LevelModel
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
    models = (*found.levels.values(), found.suspicion)
    if any(len(fitted.weights) != PAIR_FEATURES for fitted in models):
        raise ModelBundleError(f"{CALIBRATION}: each model has {PAIR_FEATURES} weights")
    if any(weight < 0 for fitted in models for weight in fitted.weights):
        raise ModelBundleError(f"{CALIBRATION}: no weight may be negative")
    return found


def judge(
    calibration: Calibration, rows: NDArray[np.float64], flat: NDArray[np.bool_]
) -> list[IndexVerdict]:
    """The closest level that reaches its threshold, for each row of features.

    flat (K,): pairs of which one image has too little detail to be more than `similar`.
    """
    at_least = probabilities(calibration, rows)
    suspicion = calibration.suspicion
    suspected = suspicion.probability(rows) >= suspicion.threshold
    return [
        IndexVerdict(_closest(calibration, row, FITTED_LEVELS[is_flat:]), bool(suspect))
        for row, is_flat, suspect in zip(at_least, flat.astype(int), suspected, strict=True)
    ]


def _closest(
    calibration: Calibration, at_least: NDArray[np.float64], levels: tuple[Level, ...]
) -> Verdict:
    """`at_least`: the probabilities of all fitted levels."""
    chances = dict(zip(FITTED_LEVELS, at_least.tolist(), strict=True))
    for level in levels:
        if chances[level] >= calibration.levels[level].threshold:
            return Verdict(level, chances[level])
    return Verdict(Level.NONE, 1 - chances[Level.SIMILAR])


def probabilities(calibration: Calibration, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities (K, 2) of being at least as close as each fitted level, rising along a row."""
    fitted = [calibration.levels[level] for level in FITTED_LEVELS]
    each = np.stack([model.probability(rows) for model in fitted], axis=1)
    return np.maximum.accumulate(each, axis=1)  # the same item is similar too


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))), np.float64)
