"""`likeness calibrate`: verdicts calibrated for one model on a user's own images.

An image and an edit of it are a pair of a known level. Where the dataset names instances and
labels, images of the same instance or label are further pairs. Each image is also compared with its
nearest neighbours: similar images that are not the same are what verdicts must tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from likeness.embedding import Embedder
from likeness.errors import ImageError, ModelBundleError
from likeness.features import ImageFeatures
from likeness.images import decode
from likeness.proof.verdicts import (
    CALIBRATION,
    FITTED_LEVELS,
    Calibration,
    Level,
    LevelModel,
    judge,
    load_calibration,
    probabilities,
)
from likeness.rerank.ranker import Ranker
from likeness.settings import Limits

from .datasets import DatasetError, Item, load
from .edits import EDITS, START_SIDE
from .gallery import features_of_file
from .logistic_regression import fit
from .metrics import Reliability, reliability

MIN_IMAGES = 20
_NEAREST, _RANDOM = 3, 2
# Two images above this cosine may be the same: they are no example of different images.
_MAX_COSINE = 0.97
# Largest shares of pairs of different things that may be called edited, or the same item.
_MAX_FALSE_RATES = {Level.EDITED: 0.003, Level.SAME_ITEM: 0.01}
_ORDER = {level: n for n, level in enumerate((*FITTED_LEVELS, Level.NONE))}


class Pairs(NamedTuple):
    """N pairs, each field (N, …): features (N, F), the level as a number in `_ORDER`, the number of
    the image, the edit's name or "", and whether the level is known from edit or labels.
    """

    rows: NDArray[np.float64]
    level: NDArray[np.intp]
    image: NDArray[np.intp]
    edit: NDArray[np.str_]
    labelled: NDArray[np.bool_]

    def where(self, mask: NDArray[np.bool_]) -> Pairs:
        return Pairs(
            self.rows[mask],
            self.level[mask],
            self.image[mask],
            self.edit[mask],
            self.labelled[mask],
        )


class HeldOutResult(Struct, frozen=True):
    """How a calibration fitted on half of the images does on the pairs of the other half.

    right: share of each level's pairs that are called so; edits: the same for each edit.
    false_copy, false_edited: shares of pairs of different things called that or closer.
    reliability: for each fitted level.
    """

    pairs: int
    right: dict[str, float]
    edits: dict[str, float]
    false_copy: float
    false_edited: float
    reliability: dict[str, Reliability]


class _Sample(NamedTuple):
    """One image to calibrate with."""

    item: Item
    features: ImageFeatures

    def image(self) -> Image.Image:
        return decode(self.item.path.read_bytes(), Limits(), START_SIDE)[0]


def make_pairs(
    items: Sequence[Item],
    embedder: Embedder,
    images: int,
    seed: int,
    progress: Callable[[Iterable[int]], Iterable[int]],
) -> Pairs:
    """Pairs from at most `images` items. Raises DatasetError if there are too few."""
    rng = np.random.default_rng(seed)
    chosen = [items[n] for n in rng.permutation(len(items))]
    samples, scenes = _read_samples(chosen, embedder, images)
    if len(samples) < MIN_IMAGES:
        raise DatasetError(f"only {len(samples)} images can be read: {MIN_IMAGES} are needed")
    features = [sample.features for sample in samples]
    vectors = np.stack([each.vector for each in features])
    cosines = vectors @ vectors.T
    ranker = Ranker(embedder.spec, None)
    found: list[tuple[NDArray[np.float64], int, int, str, bool]] = []

    def another() -> Image.Image:
        return scenes[int(rng.integers(len(scenes)))]

    def compare(query: ImageFeatures, number: int, edit: str, level: Level | None) -> None:
        others = _others(query, number, features, cosines, rng)
        rows = ranker.pair_features(query, [features[number], *(features[n] for n in others)])
        if level:
            found.append((rows[0], _ORDER[level], number, edit, True))
        for n, row in zip(others, rows[1:], strict=True):
            between, known = _level_between(samples[number].item, samples[n].item)
            found.append((row, _ORDER[between], number, "", known))

    for number in progress(range(len(samples))):
        compare(features[number], number, "", None)
        for edit in EDITS:
            data = edit.make(samples[number].image(), another, rng)
            try:
                compare(features_of_file(embedder, data)[1], number, edit.name, Level(edit.level))
            except ImageError:
                continue  # an edit may leave an image without detail
    rows, levels, numbers, names, labelled = map(np.array, zip(*found, strict=True))
    return Pairs(rows, levels, numbers, names, labelled)


def fit_calibration(
    pairs: Pairs, model: str, made_from: str, known: Calibration | None = None
) -> Calibration:
    """Fit on all pairs. Without labels that say what is similar, that level is taken from
    `known`; without that, it equals `same_item`.
    """
    levels: dict[str, LevelModel] = {}
    for n, level in enumerate(FITTED_LEVELS):
        used = np.ones(len(pairs.level), bool)
        if level is Level.EDITED:
            # an image pasted into a scene is the same photo: no example for either side
            used = pairs.level != _ORDER[Level.SAME_ITEM]
        if level is Level.SIMILAR:
            used = pairs.labelled
            if not (pairs.level[used] == n).any() or (pairs.level[used] <= n).all():
                levels[level] = known.levels[level] if known else levels[Level.SAME_ITEM]
                continue
        levels[level] = fit(pairs.rows[used], pairs.level[used] <= n, _MAX_FALSE_RATES.get(level))
    return Calibration(model, levels, made_from=made_from)


def held_out_result(pairs: Pairs, model: str, known: Calibration | None = None) -> HeldOutResult:
    """Fit on the pairs of half of the images, test on the others."""
    held_out = pairs.image % 2 == 1
    calibration = fit_calibration(pairs.where(~held_out), model, "", known)
    test = pairs.where(held_out)
    called = np.array([_ORDER[verdict.level] for verdict in judge(calibration, test.rows)])
    claimed = probabilities(calibration, test.rows)
    same, different = test.edit != "", test.level > _ORDER[Level.SAME_ITEM]

    def share(where: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
        return round(float(right[where].mean()), 5) if where.any() else float("nan")

    return HeldOutResult(
        pairs=len(called),
        right={
            level: share(same & (test.level == _ORDER[level]), called == _ORDER[level])
            for level in (Level.COPY, Level.EDITED, Level.SAME_ITEM)
        },
        edits={
            str(name): share(test.edit == name, called == test.level)
            for name in np.unique(test.edit[same])
        },
        false_copy=share(different, called <= _ORDER[Level.COPY]),
        false_edited=share(different, called <= _ORDER[Level.EDITED]),
        reliability={
            level: reliability(claimed[chosen, n], test.level[chosen] <= n)
            for n, level in enumerate(FITTED_LEVELS)
            for chosen in [_balanced(test.level <= n)]
        },
    )


def _balanced(close: NDArray[np.bool_]) -> NDArray[np.intp]:
    """As many pairs of either class, because `fit` weighs both the same."""
    rng = np.random.default_rng(0)
    sides = np.flatnonzero(close), np.flatnonzero(~close)
    least = min(len(side) for side in sides)
    return np.concatenate([rng.choice(side, least, replace=False) for side in sides])


def write(calibration: Calibration, bundle: Path) -> Path:
    """Write calibration.json into the bundle, atomically."""
    bundle.mkdir(parents=True, exist_ok=True)
    path = bundle / CALIBRATION
    draft = path.with_suffix(".new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n")
    draft.replace(path)
    return path


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
    try:
        known = load_calibration(bundle, model)
    except ModelBundleError:
        known = None  # of another model: a new one replaces it

    def progress(numbers: Iterable[int]) -> Iterable[int]:
        return track(numbers, "editing and comparing", console=out, transient=True)

    pairs = make_pairs(items, embedder, images, seed, progress)
    count = len(np.unique(pairs.image))
    _show(held_out_result(pairs, model, known), count, out)
    if dry_run:
        out.print("nothing written")
        return
    made_from = f"{dataset.parent.name}/{dataset.name}, {count} images"
    path = write(fit_calibration(pairs, model, made_from, known), target)
    out.print(f"[green]written[/green]  {escape(str(path))}")


def _show(result: HeldOutResult, images: int, out: Console) -> None:
    table = Table("", "called right", box=SIMPLE_HEAD)
    for level, share in result.right.items():
        table.add_row(level, f"{share:.1%}")
    for name, share in sorted(result.edits.items(), key=lambda item: item[1]):
        table.add_row(f"[dim]  {name}[/dim]", f"[dim]{share:.1%}[/dim]")
    out.print(table)
    out.print(f"{images} images, {result.pairs} pairs of the half that was held out")
    out.print(
        f"of different things, {result.false_copy:.2%} are called a copy or closer, "
        f"{result.false_edited:.2%} edited or closer"
    )
    errors = "  ".join(f"{level} {found.error:.3f}" for level, found in result.reliability.items())
    out.print(f"expected calibration error  {errors}")


def _read_samples(
    chosen: Sequence[Item], embedder: Embedder, images: int
) -> tuple[list[_Sample], list[Image.Image]]:
    """Samples, and scenes to paste them into, which are none of the samples."""
    samples: list[_Sample] = []
    scenes: list[Image.Image] = []
    for item in chosen:
        try:
            data = item.path.read_bytes()
            if len(scenes) * 5 < len(samples) + 1:
                scenes.append(embedder.decode(data, Limits())[0])
            elif len(samples) < images:
                samples.append(_Sample(item, features_of_file(embedder, data)[1]))
            else:
                break
        except ImageError:
            continue
    return samples, scenes


def _others(
    query: ImageFeatures,
    number: int,
    features: Sequence[ImageFeatures],
    cosines: NDArray[np.float32],
    rng: np.random.Generator,
) -> list[int]:
    """The nearest to the query and some at random, without the image itself and likely copies."""
    excluded = (cosines[number] > _MAX_COSINE) | (np.arange(len(features)) == number)
    near = np.where(excluded, -2, np.stack([each.vector for each in features]) @ query.vector)
    allowed = np.flatnonzero(~excluded)
    nearest = [int(n) for n in np.argsort(-near)[:_NEAREST] if not excluded[n]]
    drawn = rng.choice(allowed, min(_RANDOM, len(allowed)), replace=False)
    return list(dict.fromkeys([*nearest, *(int(n) for n in drawn)]))


def _level_between(one: Item, other: Item) -> tuple[Level, bool]:
    """How close two images are by their labels, and whether the dataset has labels for both."""
    if one.instance and one.instance == other.instance:
        return Level.SAME_ITEM, True
    if one.label and other.label:
        return (Level.SIMILAR if one.label == other.label else Level.NONE), True
    return Level.NONE, False
