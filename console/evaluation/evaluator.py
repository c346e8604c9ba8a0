"""`likeness evaluate`: search quality, what each stage gains, and how long a search takes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from likeness.embedding import Embedder
from likeness.errors import ImageError
from likeness.proof.verdicts import Level, load_calibration
from likeness.rerank.profiles import Profile

from ..cost.pricing import lambda_usd, price_list
from .datasets import DatasetError, Item, divided
from .gallery import EvaluationGallery, build_gallery, temporary_index
from .metrics import estimate, reliability
from .queries import EvaluationQuery, labelled_queries, synthetic_queries
from .query_runner import SHOWN, QueryOutcome, QueryRunner, QueryVerdicts
from .results import (
    Claims,
    EditMetrics,
    Evaluation,
    Latency,
    Metrics,
    RelevanceMetrics,
    Setup,
    Spread,
    StageGain,
    Verdicts,
)
from .stages import TableRow

QUERIES = 500  # by default
_TIMED_STEP, _MIN_TIMED = 10, 10  # every tenth query is timed, and at least ten
_MISSES = 12

# A function with this much memory has one whole vCPU.
_LAMBDA_MB = 1769

_CLOSEST_FIRST = list(Level)


class Options(NamedTuple):
    """`model`: a bundle's folder. `out`: a folder for results and cached features."""

    model: Path
    out: Path
    synthetic: bool = False
    split: str | None = None
    queries: int = QUERIES
    seed: int = 0


class Miss(NamedTuple):
    """A query, the first result of `precise`, and the first right one with its rank."""

    name: str
    query: bytes
    first: Path
    right: Path
    rank: int


def evaluate(
    dataset: Path, options: Options, progress: Progress, before: Evaluation | None = None
) -> tuple[Evaluation, list[Miss]]:
    """Measure; returns the worst misses too.

    `before`: an earlier run, for comparison. Raises DatasetError if there is nothing to measure, or
    if the earlier run measured something else.
    """
    query_items, gallery_items = divided(dataset, options.split)
    if options.synthetic:
        gallery_items = (
            query_items if gallery_items == query_items else [*query_items, *gallery_items]
        )
    setup = _setup(dataset, options, query_items, gallery_items)
    if before:
        _check_comparable(before.setup, setup)
    embedder = Embedder(options.model)
    calibration = load_calibration(options.model, embedder.fingerprint)
    gallery = build_gallery(gallery_items, embedder, options.out, progress)
    if options.synthetic:
        queries = synthetic_queries(gallery, setup.queries, setup.seed)
    else:
        queries = labelled_queries(gallery, query_items, setup.queries, setup.seed)
    unreadable = list(gallery.unreadable)
    with temporary_index(gallery, embedder) as index:
        runner = QueryRunner(gallery, index, embedder, calibration)
        outcomes = _outcomes(runner, queries, unreadable, progress)
        if not outcomes:
            raise DatasetError(
                f"no query of {dataset} has a right answer: "
                + (unreadable[0] if unreadable else "no two images share a label or instance")
            )
        latency = _latency(runner, outcomes, progress)
    has_verdicts = options.synthetic and calibration is not None
    relevances = list(dict.fromkeys(name for outcome in outcomes for name in outcome.profiles))
    evaluation = Evaluation(
        setup,
        embedder.fingerprint,
        embedder.spec.name,
        calibration.made_from if calibration else None,
        [_metrics(name, outcomes, len(queries), runner.rows) for name in relevances],
        _by_edit(outcomes) if options.synthetic else [],
        _verdicts(outcomes) if has_verdicts else None,
        latency,
        unreadable,
    )
    return evaluation, _misses(gallery, outcomes)


def _setup(
    dataset: Path, options: Options, query_items: list[Item], gallery_items: list[Item]
) -> Setup:
    if len(gallery_items) < 2:
        raise DatasetError(f"{dataset} has only one image to search among; at least two are needed")
    if not options.synthetic and not any(item.label or item.instance for item in query_items):
        raise DatasetError(
            f"{dataset} does not say which images belong together. Give a folder for each class, "
            "or a CSV with a column label or instance; or add --synthetic, which makes queries by "
            "editing the images, with each original as the right answer"
        )
    root = dataset if dataset.is_dir() else dataset.parent
    names = [
        [(Path(os.path.relpath(item.path, root)).as_posix(), *item[1:]) for item in items]
        for items in (query_items, gallery_items)
    ]
    name = root.resolve().name
    return Setup(
        name if dataset.is_dir() else f"{name}/{dataset.name}",
        hashlib.sha256(msgspec.json.encode(names)).hexdigest()[:16],
        len(gallery_items),
        options.queries if options.synthetic else min(options.queries, len(query_items)),
        options.synthetic,
        options.split,
        options.seed,
    )


def _check_comparable(before: Setup, now: Setup) -> None:
    differences = [
        f"{name} was {old}, is {new}"
        for name in Setup.__struct_fields__
        if (old := getattr(before, name)) != (new := getattr(now, name))
    ]
    if differences:
        raise DatasetError(
            f"the baseline measured something else: {'; '.join(differences)}. Compare runs over "
            "the same images with the same options, or make a new baseline"
        )


def _outcomes(
    runner: QueryRunner, queries: list[EvaluationQuery], unreadable: list[str], progress: Progress
) -> list[QueryOutcome]:
    """Run the queries; those without a right answer are left out, errors go to `unreadable`."""
    task = progress.add_task("searching", total=len(queries))
    outcomes = []
    for query in queries:
        try:
            outcome = runner.run(query)
        except ImageError as error:
            unreadable.append(f"{query.name}: {error}")
        else:
            outcomes += [outcome] if outcome else []
        progress.advance(task)
    return outcomes


def _latency(
    runner: QueryRunner, outcomes: list[QueryOutcome], progress: Progress
) -> dict[str, Latency]:
    step = max(1, min(_TIMED_STEP, len(outcomes) // _MIN_TIMED))
    task, took = progress.add_task("timing", total=len(outcomes[::step])), []
    for outcome in outcomes[::step]:
        took.append(runner.took_ms(outcome.query))
        progress.advance(task)
    return {profile.value: _times([each[profile] for each in took]) for profile in Profile}


def _times(took: list[Mapping[str, float]]) -> Latency:
    stages = {
        name: Spread(*(float(p) for p in np.percentile([each[name] for each in took], [50, 95])))
        for name in took[0]
    }
    mean_ms = float(np.mean([each["total"] for each in took]))
    usd_a_query = lambda_usd(mean_ms, _LAMBDA_MB) + price_list().usd("lambda_request")
    return Latency(len(took), stages, mean_ms, usd_a_query * 1e6)


def _metrics(
    relevance: str, outcomes: list[QueryOutcome], queries: int, rows: list[TableRow]
) -> RelevanceMetrics:
    answered = [outcome for outcome in outcomes if relevance in outcome.profiles]
    groups = _groups(answered)

    def column(stage: str, metric: str) -> NDArray[np.float64]:
        each = [getattr(outcome.stages[relevance][stage], metric) for outcome in answered]
        return np.concatenate(each)

    profiles = {
        profile.value: Metrics(
            *(
                estimate(_column(answered, relevance, profile, metric), groups)
                for metric in ("at_1", "at_5", "at_10", "average_precision")
            )
        )
        for profile in Profile
    }
    stages, measured = [], {row.name for row in rows}
    for row in rows:
        over = next((name for name in reversed(row.before) if name in measured), None)
        gains = [
            estimate(column(row.name, metric) - column(over, metric), groups)
            for metric in ("at_1", "average_precision")
            if over
        ]
        stages.append(StageGain(row.name, estimate(column(row.name, "at_1"), groups), over, *gains))
    return RelevanceMetrics(relevance, len(answered), queries - len(answered), profiles, stages)


def _column(
    outcomes: list[QueryOutcome], relevance: str, profile: Profile, metric: str
) -> NDArray[np.float64]:
    return np.concatenate([getattr(o.profiles[relevance][profile], metric) for o in outcomes])


def _groups(outcomes: list[QueryOutcome]) -> NDArray[np.str_]:
    return np.array([outcome.query.group for outcome in outcomes])


def _by_edit(outcomes: list[QueryOutcome]) -> list[EditMetrics]:
    found = []
    for name, level in dict.fromkeys((o.query.edit, o.query.level) for o in outcomes):
        of_edit = [outcome for outcome in outcomes if outcome.query.edit == name]
        groups = _groups(of_edit)
        r_at_1 = {
            profile.value: estimate(_column(of_edit, "original", profile, "at_1"), groups)
            for profile in Profile
        }
        assert level
        found.append(EditMetrics(name, level.value, len(of_edit), r_at_1))
    return found


def _verdicts(outcomes: list[QueryOutcome]) -> Verdicts:
    pairs = [(o.query.level, o.verdicts) for o in outcomes if o.query.level and o.verdicts]
    confusion = {
        level.value: dict(
            Counter(judged.verdict.value for truth, judged in pairs if truth is level)
        )
        for level in _CLOSEST_FIRST
        if any(truth is level for truth, _ in pairs)
    }
    right = {level: row.get(level, 0) / sum(row.values()) for level, row in confusion.items()}
    each = [judged for _, judged in pairs]
    # `exact` needs no probability
    claimed = [(j.probability, True) for level, j in pairs if level in (Level.COPY, Level.EDITED)]
    claimed += [(j.wrong_probability, False) for _, j in pairs if j.wrong_probability is not None]
    probabilities, true = zip(*claimed, strict=True)
    return Verdicts(
        confusion,
        right,
        _claims(each, SHOWN),
        _claims(each, None),
        reliability(np.array(probabilities), np.array(true)),
    )


def _claims(judged: list[QueryVerdicts], first: int | None) -> Claims:
    levels = [level for each in judged for level in each.wrong_verdicts[:first]]
    return Claims(
        len(levels),
        *(
            sum(_CLOSEST_FIRST.index(level) <= _CLOSEST_FIRST.index(least) for level in levels)
            for least in (Level.COPY, Level.EDITED)
        ),
    )


def _misses(gallery: EvaluationGallery, outcomes: list[QueryOutcome]) -> list[Miss]:
    worst = sorted((o for o in outcomes if o.rank > 1), key=lambda o: -o.rank)[:_MISSES]
    return [
        Miss(
            outcome.query.name,
            outcome.query.make()[0],
            gallery.items[outcome.first].path,
            gallery.items[outcome.right].path,
            outcome.rank,
        )
        for outcome in worst
    ]
