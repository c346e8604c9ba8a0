"""Fits the trees that judge a pixel proof: shared/likeness/proof/pixel_model.json.

`verdict_pairs.py` makes the pairs. Each level has its own trees, which say that a pair is at least
that close (Frank and Hall, ECML 2001), fitted under constraints: more agreement never lowers the
score. Every score that chooses a threshold or stands in the report comes from trees that never saw
the pair's family. Facts are computed once and kept beside the pairs.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections import defaultdict
from collections.abc import Iterable
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.ensemble import HistGradientBoostingClassifier

from likeness.proof import pixel_proof
from likeness.proof.boosted_trees import BoostedTrees, PixelModel, Tree
from likeness.proof.pixel_facts import PixelFacts
from likeness.proof.pixel_proof import (
    PROVEN_LEVELS,
    ProofImage,
    compare_pixels,
    is_another_colour,
)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

TARGET = Path(pixel_proof.__file__).with_name("pixel_model.json")
_ORDER = {"copy": 0, "edited": 1, "variant": 2, "none": 3}
# Share of the pairs that are not so close which may be claimed to be: of each family the mean.
_MAX_FALSE = {"copy": 0.0005, "edited": 0.002, "variant": 0.005}
_FOLDS = 8
_NEGATIVES, _VARIANTS = 4.0, 12.0  # weights of pairs that are not so close
# Log-odds below which nothing is claimed, however few false claims there are among these pairs.
_LEAST = {"copy": 0.0, "edited": 2.0, "variant": 2.0}
# Pictures of one webcam, seconds apart: not marked as one thing, yet nobody calls them different.
_SERIES = ("night photo",)
# Files of `varied` that show one picture, or a part of it, though nothing marks them; seen by eye.
_ONE_PICTURE = (
    *({"06784", "08092"}, {"08106", "01451"}),
    *({"08889", "02764"}, {"08889", "06613"}, {"08889", "07473"}),
)
# What can only rise, and what can only lower the score.
_RISING = (
    *("share", "agreeing", "quality", "inliers", "inlier_share", "covered_most"),
    *("low", "lower_quartile", "median", "outside"),
)
_FALLING = (
    *("by_chance", "by_chance_mean", "clearly_differing", "clearly_differing_outside"),
    *("two_sided", "colour_unexplained"),
)


class Pairs(NamedTuple):
    """N pairs: facts (N, F), NaN where nothing agreed; family, kind (N,); order (N,):
    numbers of `_ORDER`.
    """

    facts: Floats
    family: NDArray[np.str_]
    kind: NDArray[np.str_]
    order: NDArray[np.intp]
    names: list[str]


def main() -> None:
    arguments = _arguments()
    pairs = _joined(read(folder, arguments.every) for folder in arguments.pairs)
    held_out = scores_of_families_left_out(pairs)
    thresholds = _thresholds(pairs, held_out)
    report(pairs, held_out, thresholds)
    if arguments.dry_run:
        return
    levels = {level: exported(_fit(pairs, level)) for level in PROVEN_LEVELS}
    made_from = f"{len(pairs.order)} pairs of {len(set(pairs.family))} families"
    model = PixelModel(PixelFacts._fields, levels, thresholds, made_from)
    TARGET.write_bytes(msgspec.json.encode(model) + b"\n")
    print(f"written  {TARGET.name}, {TARGET.stat().st_size / 1024:.0f} KiB")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path, nargs="+", help="folders of verdict_pairs.py")
    parser.add_argument("--every", type=int, default=1, help="use every n-th edit of a kind")
    parser.add_argument("--dry-run", action="store_true", help="only print the report")
    return parser.parse_args()


def read(folder: Path, every: int = 1) -> Pairs:
    """The pairs of a folder, with their facts."""
    with (folder / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts: defaultdict[tuple[str, str], int] = defaultdict(int)
    chosen = []
    for row in rows:
        counts[row["family"], row["kind"]] += 1
        edit = row["level"] in ("copy", "edited")
        if not edit or counts[row["family"], row["kind"]] % every == 0:
            chosen.append(row)
    kept = folder / f"facts-{every}.npy"
    if kept.exists() and len(facts := np.load(kept)) == len(chosen):
        pass
    else:
        jobs = [(folder / row["a"], folder / row["b"]) for row in chosen]
        with Pool(os.cpu_count()) as pool:
            facts = np.array(pool.starmap(_facts, jobs, chunksize=32))
        np.save(kept, facts)
    family, kind = (np.array([row[name] for row in chosen]) for name in ("family", "kind"))
    order = np.array([_ORDER[row["level"]] for row in chosen])
    return Pairs(facts, family, kind, order, [f"{row['a']} {row['b']}" for row in chosen])


def _facts(one: Path, other: Path) -> list[float]:
    images = sorted((_image(path) for path in (one, other)), key=lambda image: image.order)
    found = compare_pixels(*images)
    return list(found.facts) if found else [np.nan] * len(PixelFacts._fields)


def _image(path: Path) -> ProofImage:
    with Image.open(path) as image:
        return ProofImage(image.convert("RGB"))


def _joined(parts: Iterable[Pairs]) -> Pairs:
    facts, family, kind, order, names = zip(*parts, strict=True)
    return Pairs(
        np.concatenate(facts),
        np.concatenate(family),
        np.concatenate(kind),
        np.concatenate(order),
        [name for part in names for name in part],
    )


def _usable(pairs: Pairs) -> Mask:
    return np.isfinite(pairs.facts[:, 0]) & _is_known(pairs)


def _is_known(pairs: Pairs) -> Mask:
    """Which pairs are what they are said to be."""
    series = np.isin(pairs.family, _SERIES)
    same = [{Path(path).stem for path in name.split()} in _ONE_PICTURE for name in pairs.names]
    return ~((series | np.array(same)) & (pairs.order == _ORDER["none"]))


def _fit(pairs: Pairs, level: str, rows: Mask | None = None) -> HistGradientBoostingClassifier:
    rows = _usable(pairs) if rows is None else rows & _usable(pairs)
    constraints = [(n in _RISING) - (n in _FALLING) for n in PixelFacts._fields]
    close = pairs.order[rows] <= _ORDER[level]
    trees = HistGradientBoostingClassifier(
        learning_rate=0.08,
        max_iter=120,
        max_leaf_nodes=10,
        min_samples_leaf=20,
        l2_regularization=1.0,
        monotonic_cst=constraints if level != "copy" else None,
        random_state=0,
    )
    weights = np.where(pairs.order == _ORDER["variant"], _VARIANTS, _NEGATIVES)[rows]
    return trees.fit(pairs.facts[rows], close, sample_weight=np.where(close, 1.0, weights))


def scores_of_families_left_out(pairs: Pairs) -> dict[str, Floats]:
    """Log-odds (N,) of each level, −∞ where nothing agreed."""
    families = sorted(set(pairs.family))
    usable = np.isfinite(pairs.facts[:, 0])
    scores: dict[str, Floats] = {}
    for level in PROVEN_LEVELS:
        found = np.full(len(pairs.order), -np.inf)
        for fold in range(_FOLDS):
            left_out = np.isin(pairs.family, families[fold::_FOLDS])
            test = left_out & usable
            found[test] = _fit(pairs, level, ~left_out).decision_function(pairs.facts[test])
        scores[level] = found
    return scores


def _thresholds(pairs: Pairs, scores: dict[str, Floats]) -> dict[str, float]:
    """For each level the lowest score above which few pairs of other families are claimed."""
    thresholds: dict[str, float] = {}
    for level in PROVEN_LEVELS:
        # what is not the same design; variants are few, and more alike than other pictures
        far = (pairs.order == _ORDER["none"]) & _is_known(pairs)
        false = np.sort(scores[level][far])[::-1]
        thresholds[level] = max(
            _LEAST[level], float(false[int(_MAX_FALSE[level] * len(false))]) + 1e-6
        )
    return thresholds


def levels_of(
    pairs: Pairs, scores: dict[str, Floats], thresholds: dict[str, float]
) -> NDArray[np.intp]:
    """The level that each pair is called, as a number of `_ORDER`; as `judge_pixels` does."""
    called = np.full(len(scores["copy"]), _ORDER["none"])
    reached = {level: scores[level] >= thresholds[level] for level in PROVEN_LEVELS}
    called[reached["variant"]] = _ORDER["variant"]
    called[reached["edited"]] = _ORDER["edited"]
    called[reached["edited"] & reached["copy"]] = _ORDER["copy"]
    other_colour = np.array([is_another_colour(PixelFacts(*row)) for row in pairs.facts])
    called[other_colour] = np.maximum(called[other_colour], _ORDER["variant"])
    return called


def report(pairs: Pairs, scores: dict[str, Floats], thresholds: dict[str, float]) -> None:
    """By family: false claims with their 95 % upper bound, and edits called right; by kind."""
    called = levels_of(pairs, scores, thresholds)
    print("thresholds", {level: round(value, 2) for level, value in thresholds.items()})
    print(
        f"{'family':16} {'pairs':>5} {'copy':>6} {'edited':>6} {'≤':>5} {'variant':>7}"
        f" | {'variants':>8} {'called':>6} {'edited':>6} | {'edits':>5} {'right':>6}"
    )
    for family in sorted(set(pairs.family)):
        mine = pairs.family == family
        far = mine & (pairs.order == 3) & _is_known(pairs)
        variant = mine & (pairs.order == 2)
        edit = mine & (pairs.order < 2)
        false = int((called[far] <= 1).sum())
        print(
            f"{family:16} {far.sum():5} {_share(called[far] == 0)} {_share(called[far] <= 1)}"
            f" {upper_bound(false, int(far.sum())):5.3f} {_share(called[far] <= 2):>7} |"
            f" {variant.sum():8} {_share(called[variant] == 2)} {_share(called[variant] <= 1)} |"
            f" {edit.sum():5} {_share(called[edit] <= 1)}"
        )
    for kind in sorted(set(pairs.kind)):
        mine = pairs.kind == kind
        if (pairs.order[mine] < 2).all():
            photos = mine & np.isin(pairs.family, PHOTOS)
            exact = _share((called == pairs.order)[mine])
            print(
                f"{kind:18} right {_share(called[mine] <= 1)} photos"
                f" {_share(called[photos] <= 1)} at its level {exact}"
            )


PHOTOS = ("photo", "caltech photo", "web photo", "place", "clothing", "dark photo", "night photo")


def _share(mask: Mask) -> str:
    return f"{mask.mean():6.3f}" if len(mask) else "     –"


def upper_bound(count: int, of: int) -> float:
    """The upper end of Wilson's 95 % interval of a share (Wilson, 1927)."""
    if not of:
        return 1.0
    share, z = count / of, 1.96
    spread = z * np.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return float((share + z * z / (2 * of) + spread) / (1 + z * z / of))


def exported(model: HistGradientBoostingClassifier) -> BoostedTrees:
    """The model's trees, which sum to its log-odds."""
    trees = []
    for [predictor] in model._predictors:  # scikit-learn has no public export
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        trees.append(
            Tree(
                tuple(np.where(leaf, -1, nodes["feature_idx"]).tolist()),
                tuple(float(f"{value:.6g}") for value in np.where(leaf, 0, nodes["num_threshold"])),
                tuple(np.where(leaf, 0, nodes["left"]).tolist()),
                tuple(np.where(leaf, 0, nodes["right"]).tolist()),
                tuple(np.where(leaf, nodes["value"], 0).round(6).tolist()),
            )
        )
    return BoostedTrees(float(np.ravel(model._baseline_prediction)[0]), tuple(trees))


if __name__ == "__main__":
    main()
