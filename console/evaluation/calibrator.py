"""`likeness calibrate`: how far one model's scores can be trusted on one's own pictures.

Edits of pictures are pairs with a known level; pictures of the same instance and of the same label
are more, where the dataset names them. Each picture is held against its nearest others too: what
looks most alike and is not the same is what verdicts must tell apart.
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
from likeness.feature_extraction import extract_features
from likeness.features import ImageFeatures
from likeness.images import decode
from likeness.proof.verdicts import (
    CALIBRATION,
    FITTED,
    Calibration,
    Fitted,
    Level,
    chances,
    judge,
    load_calibration,
)
from likeness.rerank.profiles import Ranker
from likeness.settings import Limits

from .datasets import DatasetError, Item, load
from .edits import EDITS, START_SIDE
from .logistic_regression import fit
from .metrics import Reliability, reliability

LEAST_PICTURES = 20
_NEAREST, _RANDOM = 3, 2
# Two pictures of a set that are nearer than this may well be the same: no example of others.
_TOO_NEAR = 0.97
# Shares of pairs of different things that may be called edited, or the same item.
_MOST_FALSE = {Level.EDITED: 0.003, Level.SAME_ITEM: 0.01}
_ORDER = {level: n for n, level in enumerate((*FITTED, Level.NONE))}


class Pairs(NamedTuple):
    """N pairs: features (N, F), how close they are as a number in `_ORDER` (N,), the pictures that
    they are of (N,), the edit's name or "" (N,), and whether labels tell that they differ (N,).
    """

    rows: NDArray[np.float64]
    level: NDArray[np.intp]
    picture: NDArray[np.intp]
    edit: NDArray[np.str_]
    labelled: NDArray[np.bool_]

    def where(self, chosen: NDArray[np.bool_]) -> Pairs:
        return Pairs(
            self.rows[chosen],
            self.level[chosen],
            self.picture[chosen],
            self.edit[chosen],
            self.labelled[chosen],
        )


class Trial(Struct, frozen=True):
    """What a calibration fitted on half of the pictures says of the other half's pairs.

    right: shares of the pairs of each level that are called so. edits: the same for each edit.
    false_copy, false_edited: shares of pairs of different things that are called that or closer.
    reliability: for each fitted level.
    """

    pairs: int
    right: dict[str, float]
    edits: dict[str, float]
    false_copy: float
    false_edited: float
    reliability: dict[str, Reliability]


def observe(
    items: Sequence[Item],
    embedder: Embedder,
    pictures: int,
    seed: int,
    progress: Callable[[Iterable[int]], Iterable[int]],
) -> Pairs:
    """Pairs of at most so many pictures. Raises DatasetError where there are too few."""
    rng = np.random.default_rng(seed)
    chosen = [items[n] for n in rng.permutation(len(items))]
    looked, scenes = _look(chosen, embedder, pictures)
    if len(looked) < LEAST_PICTURES:
        raise DatasetError(f"{len(looked)} pictures can be read: {LEAST_PICTURES} are needed")
    seen = [picture.seen for picture in looked]
    cosines = np.stack([s.vector for s in seen]) @ np.stack([s.vector for s in seen]).T
    ranker = Ranker(embedder.spec, None)
    found: list[tuple[NDArray[np.float64], int, int, str, bool]] = []

    def another() -> Image.Image:
        return scenes[int(rng.integers(len(scenes)))]

    def hold(query: ImageFeatures, number: int, name: str, level: Level | None) -> None:
        others = _others(query, number, seen, cosines, rng)
        rows = ranker.features(query, [seen[number], *(seen[n] for n in others)])
        if level:
            found.append((rows[0], _ORDER[level], number, name, True))
        for n, row in zip(others, rows[1:], strict=True):
            how, known = _between(looked[number].item, looked[n].item)
            found.append((row, _ORDER[how], number, "", known))

    for number in progress(range(len(looked))):
        hold(seen[number], number, "", None)
        for edit in EDITS:
            data = edit.make(looked[number].picture(), another, rng)
            try:
                hold(_appearance(data, embedder), number, edit.name, Level(edit.level))
            except ImageError:
                continue  # an edit may leave nothing to see
    rows, level, picture, edit_names, known = zip(*found, strict=True)
    return Pairs(
        np.array(rows), np.array(level), np.array(picture), np.array(edit_names), np.array(known)
    )


def calibration_of(
    pairs: Pairs, model: str, made_from: str, known: Calibration | None = None
) -> Calibration:
    """Fitted on all pairs. Where no labels tell what is similar, that level is taken from `known`,
    or else stands for the same item.
    """
    levels: dict[str, Fitted] = {}
    for n, level in enumerate(FITTED):
        used = np.ones(len(pairs.level), bool)
        if level is Level.EDITED:
            # pasted into a scene it is the same photo still: no example for either side
            used = pairs.level != _ORDER[Level.SAME_ITEM]
        if level is Level.SIMILAR:
            used = pairs.labelled
            if not (pairs.level[used] == n).any() or (pairs.level[used] <= n).all():
                levels[level] = known.levels[level] if known else levels[Level.SAME_ITEM]
                continue
        levels[level] = fit(pairs.rows[used], pairs.level[used] <= n, _MOST_FALSE.get(level))
    return Calibration(model, levels, made_from=made_from)


def trial(pairs: Pairs, model: str, known: Calibration | None = None) -> Trial:
    """Fit on the pairs of half of the pictures, judge the others."""
    held_out = pairs.picture % 2 == 1
    calibration = calibration_of(pairs.where(~held_out), model, "", known)
    test = pairs.where(held_out)
    called = np.array([_ORDER[verdict.level] for verdict in judge(calibration, test.rows)])
    forecast = chances(calibration, test.rows)
    same, different = test.edit != "", test.level > _ORDER[Level.SAME_ITEM]

    def share(where: NDArray[np.bool_], right: NDArray[np.bool_]) -> float:
        return round(float(right[where].mean()), 5) if where.any() else float("nan")

    return Trial(
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
            level: reliability(forecast[chosen, n], test.level[chosen] <= n)
            for n, level in enumerate(FITTED)
            for chosen in [_balanced(test.level <= n)]
        },
    )


def _balanced(close: NDArray[np.bool_]) -> NDArray[np.intp]:
    """As many pairs of either side, for that is what `fit` makes probabilities of."""
    rng = np.random.default_rng(0)
    sides = np.flatnonzero(close), np.flatnonzero(~close)
    least = min(len(side) for side in sides)
    return np.concatenate([rng.choice(side, least, replace=False) for side in sides])


def write(calibration: Calibration, bundle: Path) -> Path:
    """Beside the bundle's model, whole or not at all."""
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
    pictures: int,
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
        known = None  # another model's: that is what a new one is for

    def told(numbers: Iterable[int]) -> Iterable[int]:
        return track(numbers, "editing and comparing", console=out, transient=True)

    pairs = observe(items, embedder, pictures, seed, told)
    _show(trial(pairs, model, known), len(np.unique(pairs.picture)), out)
    if dry_run:
        out.print("nothing written")
        return
    count = len(np.unique(pairs.picture))
    made_from = f"{dataset.parent.name}/{dataset.name}, {count} pictures"
    path = write(calibration_of(pairs, model, made_from, known), target)
    out.print(f"[green]written[/green]  {escape(str(path))}")


def _show(tried: Trial, pictures: int, out: Console) -> None:
    table = Table("", "called right", box=SIMPLE_HEAD)
    for level, share in tried.right.items():
        table.add_row(level, f"{share:.1%}")
    for name, share in sorted(tried.edits.items(), key=lambda item: item[1]):
        table.add_row(f"[dim]  {name}[/dim]", f"[dim]{share:.1%}[/dim]")
    out.print(table)
    out.print(f"{pictures} pictures, {tried.pairs} pairs of the half that was not learnt from")
    out.print(
        f"of different things, {tried.false_copy:.2%} are called a copy or closer, "
        f"{tried.false_edited:.2%} edited or closer"
    )
    errors = "  ".join(f"{level} {found.error:.3f}" for level, found in tried.reliability.items())
    out.print(f"expected calibration error  {errors}")


class _Looked(NamedTuple):
    item: Item
    seen: ImageFeatures

    def picture(self) -> Image.Image:
        return decode(self.item.path.read_bytes(), Limits(), START_SIDE)[0]


def _look(
    chosen: Sequence[Item], embedder: Embedder, pictures: int
) -> tuple[list[_Looked], list[Image.Image]]:
    """What is calibrated with, and scenes to paste it into that are none of it."""
    looked: list[_Looked] = []
    scenes: list[Image.Image] = []
    for item in chosen:
        try:
            data = item.path.read_bytes()
            if len(scenes) * 5 < len(looked) + 1:
                scenes.append(decode(data, Limits(), embedder.decode_size)[0])
            elif len(looked) < pictures:
                looked.append(_Looked(item, _appearance(data, embedder)))
            else:
                break
        except ImageError:
            continue
    return looked, scenes


def _appearance(data: bytes, embedder: Embedder) -> ImageFeatures:
    picture, info = decode(data, Limits(), embedder.decode_size)
    return extract_features(embedder, picture, sha256=info.sha256)


def _others(
    query: ImageFeatures,
    number: int,
    seen: Sequence[ImageFeatures],
    cosines: NDArray[np.float32],
    rng: np.random.Generator,
) -> list[int]:
    """The nearest to the query, and some at random; neither the picture itself nor its twins."""
    excluded = (cosines[number] > _TOO_NEAR) | (np.arange(len(seen)) == number)
    near = np.where(excluded, -2, np.stack([s.vector for s in seen]) @ query.vector)
    allowed = np.flatnonzero(~excluded)
    nearest = [int(n) for n in np.argsort(-near)[:_NEAREST] if not excluded[n]]
    drawn = rng.choice(allowed, min(_RANDOM, len(allowed)), replace=False)
    return list(dict.fromkeys([*nearest, *(int(n) for n in drawn)]))


def _between(one: Item, other: Item) -> tuple[Level, bool]:
    """How close two pictures of a set are, and whether anybody said so."""
    if one.instance and one.instance == other.instance:
        return Level.SAME_ITEM, True
    if one.label and other.label:
        return (Level.SIMILAR if one.label == other.label else Level.NONE), True
    return Level.NONE, False
