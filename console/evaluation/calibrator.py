"""`likeness calibrate`: verdicts calibrated for one model on a user's own images.

The shipped calibration is where the fit starts from: few pairs move it little, and no level is
loosened on so few that they cannot show it to be safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from likeness.embedding import Embedder
from likeness.errors import ModelBundleError
from likeness.proof.verdicts import (
    CALIBRATION,
    FITTED_LEVELS,
    Calibration,
    Level,
    LevelModel,
    load_calibration,
)

from .calibration_pairs import NO_PROOF, ORDER, Pairs, make_pairs
from .calibration_report import HeldOutResult, folds, measure, show
from .datasets import load
from .logistic_regression import fit, upper_bound

# A level is loosened only if its claims about different things are surely rarer than this.
_MAX_FALSE_RATES = {Level.SAME_ITEM: 0.01, Level.SIMILAR: 0.05}
# The pixel proof's thresholds rise until no larger share of known different pairs reaches a level.
_MAX_FALSE_PROOFS = {Level.COPY: 0.0005, Level.EDITED: 0.005, Level.VARIANT: 0.02}
_MARGIN = 1e-3  # log-odds above the highest score that must not be claimed
# Real pairs of one thing that are needed to say what the same item is; edits are no such pairs.
_MIN_REAL_PAIRS = 30
# The share of edits that the index must suspect, in half of the families at least.
_SUSPECTED = 0.98
# What an edit counts beside a real pair, where a level is learnt from both.
_EDIT_SHARE = 0.2
_PRIOR_STRENGTH, _RIDGE = 1.0, 1e-2


def fit_calibration(
    pairs: Pairs, model: str, made_from: str, known: Calibration | None = None
) -> Calibration:
    """Fit on all pairs, from `known` as the prior."""
    levels: dict[str, LevelModel] = {}
    for level in FITTED_LEVELS:
        prior = known.levels[level] if known else None
        if not _has_real_pairs(pairs, level):
            # without real pairs, the next closer level is the best guess for a new model
            levels[level] = prior or levels.get(Level.SAME_ITEM) or _fit_level(pairs, level, None)
        else:
            levels[level] = _unless_looser(_fit_level(pairs, level, prior), prior, pairs, level)
    suspicion = _fit_suspicion(pairs, known.suspicion if known else None)
    pixels = _stricter(pairs, known.pixels if known else {})
    if known:
        return msgspec.structs.replace(
            known,
            model=model,
            levels=levels,
            suspicion=suspicion,
            pixels=pixels,
            made_from=made_from,
        )
    return Calibration(model, levels, suspicion, pixels=pixels, made_from=made_from)


def held_out_result(pairs: Pairs, model: str, known: Calibration | None = None) -> HeldOutResult:
    """What fits to the other families, or the other half of the images, do on each."""
    parts = []
    for held_out in folds(pairs):
        calibration = fit_calibration(pairs.where(~held_out), model, "", known)
        parts.append((calibration, pairs.where(held_out)))
    return measure(parts)


def write(calibration: Calibration, bundle: Path) -> Path:
    """Write calibration.json into the bundle, atomically."""
    bundle.mkdir(parents=True, exist_ok=True)
    path = bundle / CALIBRATION
    draft = path.with_suffix(".new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n")
    draft.replace(path)
    return path


def starting_point(bundle: Path, model: str) -> Calibration | None:
    """The calibration of the bundle, which a new one starts from; None if it has none for it."""
    try:
        return load_calibration(bundle, model)
    except ModelBundleError:
        return None  # of another model or version: a new one replaces it


def run(
    dataset: Path,
    split: str | None,
    bundle: Path,
    target: Path,
    images: int,
    seed: int,
    dry_run: bool,
    out: Console,
) -> None:
    """The command. Raises DatasetError, ModelBundleError."""
    items = load(dataset, split)
    embedder = Embedder(bundle)
    model = embedder.fingerprint
    known = starting_point(bundle, model)

    def progress(numbers: Iterable[int]) -> Iterable[int]:
        return track(numbers, "editing and comparing", console=out, transient=True)

    pairs = make_pairs(items, embedder, images, seed, progress)
    count = len(np.unique(pairs.image[pairs.edited]))
    show(held_out_result(pairs, model, known), count, out)
    if dry_run:
        out.print("nothing written")
        return
    made_from = f"{dataset.parent.name}/{dataset.name}, {count} images"
    path = write(fit_calibration(pairs, model, made_from, known), target)
    out.print(f"[green]written[/green]  {escape(str(path))}")


def _has_real_pairs(pairs: Pairs, level: Level) -> bool:
    """Whether enough pairs of unedited images are this close by their labels, and some are not."""
    real = pairs.labelled & ~pairs.edited
    close = pairs.level[real] <= ORDER[level]
    return bool(close.sum() >= _MIN_REAL_PAIRS and not close.all())


def _fit_level(pairs: Pairs, level: Level, prior: LevelModel | None) -> LevelModel:
    used = pairs
    if level is Level.SIMILAR and (pairs.labelled & ~pairs.edited).any():
        used = pairs.where(pairs.labelled)
    groups = np.char.add(used.family, np.where(used.edited, " edited", ""))
    weights = np.where(used.edited, _EDIT_SHARE, 1.0)
    return fit(
        used.rows,
        used.level <= ORDER[level],
        _equal_groups(groups, weights),
        prior,
        _PRIOR_STRENGTH if prior else _RIDGE,
    )


def _fit_suspicion(pairs: Pairs, prior: LevelModel | None) -> LevelModel:
    """Pairs that are variants or closer, and upright, against what is not the same thing."""
    close = pairs.level <= ORDER[Level.VARIANT]
    used = pairs.where(pairs.upright & (pairs.level != ORDER[Level.SAME_ITEM]))
    close = used.level <= ORDER[Level.VARIANT]
    groups = np.char.add(used.family, np.where(close, " close", ""))
    importance = _equal_groups(groups, np.ones(len(close)))
    fitted = fit(used.rows, close, importance, prior, _PRIOR_STRENGTH if prior else _RIDGE)
    chances = fitted.probability(used.rows)
    lowest = [
        float(np.quantile(chances[close & (used.family == family)], 1 - _SUSPECTED))
        for family in np.unique(used.family[close])
    ]
    return msgspec.structs.replace(fitted, threshold=float(np.median(lowest)))


def _stricter(pairs: Pairs, known: Mapping[str, float]) -> dict[str, float]:
    """Thresholds of the pixel proof above its own, where these pairs show that they must be.

    Only pairs that the dataset tells apart count: others may be duplicates that nobody has named.
    """
    apart = pairs.where(pairs.apart & (pairs.level > ORDER[Level.VARIANT]))
    thresholds = dict(known)
    for level, rate in _MAX_FALSE_PROOFS.items():
        claimed = (apart.proven != NO_PROOF) & (apart.proven <= ORDER[level])
        falling = np.sort(apart.score[claimed])[::-1]
        allowed = int(rate * len(apart.score))
        if allowed < len(falling):
            least = float(falling[allowed]) + _MARGIN
            thresholds[level.value] = max(least, thresholds.get(level.value, least))
    return thresholds


def _equal_groups(groups: NDArray[np.str_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (N,) that give each group the same sum, times its pairs' own weight; N in all."""
    _, member, counts = np.unique(groups, return_inverse=True, return_counts=True)
    shares = weights / counts[member]
    return np.asarray(shares * len(shares) / shares.sum())


def _unless_looser(
    fitted: LevelModel, prior: LevelModel | None, pairs: Pairs, level: Level
) -> LevelModel:
    """The fitted model, or the prior if it claims less of different things and they are too few to
    show that the fitted one is safe.
    """
    if not prior:
        return fitted
    different = pairs.rows[(pairs.level > ORDER[level]) & ~pairs.edited]
    before, after = (int((m.probability(different) >= m.threshold).sum()) for m in (prior, fitted))
    safe = upper_bound(after, len(different)) <= _MAX_FALSE_RATES[level]
    return fitted if after <= before or safe else prior
