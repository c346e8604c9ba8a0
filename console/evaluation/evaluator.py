"""`likeness evaluate`: how well pictures are found, what each stage gains, how long it takes."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from rich.progress import Progress

from likeness.embedding import Embedder
from likeness.errors import ImageError
from likeness.proof.verdicts import Level, load_calibration
from likeness.rerank.profiles import Profile

from ..cost.pricing import lambda_usd, price_list
from .bench import (
    OVER,
    SHOWN,
    STAGE_OF,
    Asked,
    Bench,
    Gallery,
    Judged,
    Outcome,
    gallery,
    index_of,
    labelled,
    synthetic,
)
from .datasets import DatasetError, Item, divided
from .metrics import Estimate, Reliability, estimate, reliability

RESULTS = "evaluation.json"
QUERIES = 500  # asked, unless another number is
_TIMED, _LEAST_TIMED = 10, 10  # of so many queries one is timed, but at least so many
_MISSES = 12

# Functions of so many MB have one whole vCPU.
_LAMBDA_MB = 1769

_CLOSEST_FIRST = list(Level)
# Without a calibration there is no order but the cosine's: these stages do not run.
_CALIBRATED = ("refinement", "geometry")
_COMPARED = {"r_at_1": "R@1", "mean_ap": "mAP"}
# A fall by just the tolerance is none, whatever float64 makes of the difference.
_ROUNDING = 1e-9


class Options(NamedTuple):
    """`model`: a bundle's folder. `out`: a folder for results, and vectors to be used again."""

    model: Path
    out: Path
    synthetic: bool = False
    split: str | None = None
    queries: int = QUERIES
    seed: int = 0


class Setup(Struct, frozen=True):
    """What was asked of what. `digest` is over the pictures' names, labels, instances and splits,
    not over their contents: another picture under an old name is not noticed.
    """

    dataset: str
    digest: str
    gallery: int
    queries: int
    synthetic: bool
    split: str | None
    seed: int


class Metrics(Struct, frozen=True):
    r_at_1: Estimate
    r_at_5: Estimate
    r_at_10: Estimate
    mean_ap: Estimate


class Stage(Struct, frozen=True):
    """`gain` in R@1, and in mAP, over the stage named `over`, query by query."""

    name: str
    r_at_1: Estimate
    over: str | None = None
    gain: Estimate | None = None
    mean_ap_gain: Estimate | None = None


class Found(Struct, frozen=True):
    """What was found where right means: of the same original, instance or label.

    `without_answer`: queries that nothing in the gallery answers; they do not count.
    """

    relevance: str
    queries: int
    without_answer: int
    profiles: Mapping[str, Metrics]
    stages: Sequence[Stage]


class EditFound(Struct, frozen=True):
    """R@1 of the queries that one edit made, by profile."""

    name: str
    level: str
    queries: int
    r_at_1: Mapping[str, Estimate]


class Claims(Struct, frozen=True):
    """False ones: pairs of a query with a picture that is not its original, called the same."""

    pairs: int
    copy_or_closer: int
    edited_or_closer: int


class Verdicts(Struct, frozen=True):
    """confusion: pairs of a query and its original, by their level and the verdict. right: shares
    of each level's pairs. shown: false claims on the first SHOWN results, reranked: on all.

    `reliability`: of the probability to be edited or closer, held against each query's original and
    one wrong result.
    """

    confusion: Mapping[str, Mapping[str, int]]
    right: Mapping[str, float]
    shown: Claims
    reranked: Claims
    reliability: Reliability


class Spread(Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p95: float


class Latency(Struct, frozen=True):
    """`usd_a_million`: of Lambda alone, as if its core were this machine's."""

    queries: int
    stages: Mapping[str, Spread]
    mean_ms: float
    usd_a_million: float


class Evaluation(Struct, frozen=True):
    """evaluation.json. `calibration`: the pictures that it was made from, None without one."""

    setup: Setup
    model: str
    model_name: str
    calibration: str | None
    found: Sequence[Found]
    edits: Sequence[EditFound]
    verdicts: Verdicts | None
    latency: Mapping[str, Latency]
    unreadable: Sequence[str] = ()


class Miss(NamedTuple):
    """A query, what came first, and its first right answer with its rank, in `precise`."""

    name: str
    query: bytes
    first: Path
    right: Path
    rank: int


def evaluate(
    dataset: Path, options: Options, progress: Progress, before: Evaluation | None = None
) -> tuple[Evaluation, list[Miss]]:
    """Measure; returns the worst misses too.

    `before`: an earlier run, for comparison. Raises DatasetError where there is nothing to measure,
    or where that was another measurement.
    """
    asked, searched = divided(dataset, options.split)
    if options.synthetic:
        searched = asked if searched == asked else [*asked, *searched]
    setup = _setup(dataset, options, asked, searched)
    if before:
        _check_comparable(before.setup, setup)
    embedder = Embedder(options.model)
    calibration = load_calibration(options.model, embedder.fingerprint)
    held = gallery(searched, embedder, options.out, progress)
    if options.synthetic:
        queries = synthetic(held, setup.queries, setup.seed)
    else:
        queries = labelled(held, asked, setup.queries, setup.seed)
    unreadable = list(held.unreadable)
    with index_of(held, embedder) as index:
        bench = Bench(held, index, embedder, calibration)
        outcomes = _outcomes(bench, queries, unreadable, progress)
        if not outcomes:
            raise DatasetError(
                f"no query of {dataset} has a right answer: "
                + (unreadable[0] if unreadable else "no two pictures share a label or instance")
            )
        latency = _latency(bench, outcomes, progress)
    has_verdicts = options.synthetic and calibration is not None
    evaluation = Evaluation(
        setup,
        embedder.fingerprint,
        embedder.spec.name,
        calibration.made_from if calibration else None,
        [_found(name, outcomes, len(queries), calibration is not None) for name in _told(outcomes)],
        _by_edit(outcomes) if options.synthetic else [],
        _verdicts(outcomes) if has_verdicts else None,
        latency,
        unreadable,
    )
    return evaluation, _misses(held, outcomes)


def read(file: Path) -> Evaluation:
    """An earlier run's evaluation.json. Raises DatasetError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Evaluation)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise DatasetError(f"{file} is no {RESULTS} of `likeness evaluate`: {error}") from error


def write(evaluation: Struct, file: Path) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(evaluation)) + b"\n")
    draft.replace(file)


def falls(before: Evaluation, now: Evaluation, tolerance: float) -> list[str]:
    """What fell by more than `tolerance`, in words: R@1 and mAP of every profile."""
    earlier = {found.relevance: found.profiles for found in before.found}
    fallen = []
    for found in now.found:
        for profile, metrics in found.profiles.items():
            for name, title in _COMPARED.items():
                old = getattr(earlier[found.relevance][profile], name).mean
                new = getattr(metrics, name).mean
                if old - new > tolerance + _ROUNDING:
                    told = f"{old:.3f} → {new:.3f}"
                    fallen.append(f"{title} of {profile}, by {found.relevance}: {told}")
    return fallen


def _setup(dataset: Path, options: Options, asked: list[Item], searched: list[Item]) -> Setup:
    if len(searched) < 2:
        raise DatasetError(f"{dataset} has one picture to search among: it takes two or more")
    if not options.synthetic and not any(item.label or item.instance for item in asked):
        raise DatasetError(
            f"{dataset} does not say which pictures belong together. Give a folder for each class, "
            "or a CSV with a column label or instance; or add --synthetic: it makes queries by "
            "editing the pictures, and each one's original is the right answer"
        )
    root = dataset if dataset.is_dir() else dataset.parent
    told = [
        [(Path(os.path.relpath(item.path, root)).as_posix(), *item[1:]) for item in items]
        for items in (asked, searched)
    ]
    name = root.resolve().name
    return Setup(
        name if dataset.is_dir() else f"{name}/{dataset.name}",
        hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16],
        len(searched),
        options.queries if options.synthetic else min(options.queries, len(asked)),
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
            f"the baseline is of another measurement: {'; '.join(differences)}. Compare runs over "
            "the same pictures with the same options, or make a new baseline"
        )


def _outcomes(
    bench: Bench, queries: list[Asked], unreadable: list[str], progress: Progress
) -> list[Outcome]:
    """Of the queries that something answers; what cannot be read is told of."""
    task = progress.add_task("searching", total=len(queries))
    outcomes = []
    for query in queries:
        try:
            outcome = bench.ask(query)
        except ImageError as error:
            unreadable.append(f"{query.name}: {error}")
        else:
            outcomes += [outcome] if outcome else []
        progress.advance(task)
    return outcomes


def _latency(bench: Bench, outcomes: list[Outcome], progress: Progress) -> dict[str, Latency]:
    step = max(1, min(_TIMED, len(outcomes) // _LEAST_TIMED))
    task, took = progress.add_task("timing", total=len(outcomes[::step])), []
    for outcome in outcomes[::step]:
        took.append(bench.took_ms(outcome.query))
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


def _told(outcomes: list[Outcome]) -> list[str]:
    """The ways to be right that any query has, in their order."""
    return list(dict.fromkeys(name for outcome in outcomes for name in outcome.values))


def _found(relevance: str, outcomes: list[Outcome], asked: int, calibrated: bool) -> Found:
    having = [outcome for outcome in outcomes if relevance in outcome.values]

    def column(stage: str, metric: str) -> NDArray[np.float64]:
        each = [getattr(outcome.values[relevance][stage], metric) for outcome in having]
        return np.concatenate(each)

    groups = _groups(having)
    profiles = {
        profile.value: Metrics(
            *(
                estimate(column(stage, metric), groups)
                for metric in ("at_1", "at_5", "at_10", "average_precision")
            )
        )
        for profile, stage in STAGE_OF.items()
    }
    stages = []
    for stage, before in OVER.items():
        if stage not in having[0].values[relevance] or (stage in _CALIBRATED and not calibrated):
            continue
        over = "subject crop" if before in _CALIBRATED and not calibrated else before
        gains = [
            estimate(column(stage, metric) - column(over, metric), groups)
            for metric in ("at_1", "average_precision")
            if over
        ]
        stages.append(Stage(stage, estimate(column(stage, "at_1"), groups), over, *gains))
    return Found(relevance, len(having), asked - len(having), profiles, stages)


def _groups(outcomes: list[Outcome]) -> NDArray[np.str_]:
    return np.array([outcome.query.group for outcome in outcomes])


def _by_edit(outcomes: list[Outcome]) -> list[EditFound]:
    found = []
    for name, level in dict.fromkeys((o.query.edit, o.query.level) for o in outcomes):
        of_edit = [outcome for outcome in outcomes if outcome.query.edit == name]
        groups = _groups(of_edit)
        r_at_1 = {
            profile.value: estimate(
                np.concatenate([o.values["original"][stage].at_1 for o in of_edit]), groups
            )
            for profile, stage in STAGE_OF.items()
        }
        assert level
        found.append(EditFound(name, level.value, len(of_edit), r_at_1))
    return found


def _verdicts(outcomes: list[Outcome]) -> Verdicts:
    pairs = [(o.query.level, o.judged) for o in outcomes if o.query.level and o.judged]
    confusion = {
        level.value: dict(
            Counter(judged.verdict.value for truth, judged in pairs if truth is level)
        )
        for level in _CLOSEST_FIRST
        if any(truth is level for truth, _ in pairs)
    }
    right = {level: row.get(level, 0) / sum(row.values()) for level, row in confusion.items()}
    each = [judged for _, judged in pairs]
    # exact is read off the bytes; pasted into a scene, a picture is neither edited nor another
    claimed = [(j.chance, True) for level, j in pairs if level in (Level.COPY, Level.EDITED)]
    claimed += [(j.wrong_chance, False) for _, j in pairs if j.wrong_chance is not None]
    chances, held = zip(*claimed, strict=True)
    return Verdicts(
        confusion,
        right,
        _claims(each, SHOWN),
        _claims(each, None),
        reliability(np.array(chances), np.array(held)),
    )


def _claims(judged: list[Judged], first: int | None) -> Claims:
    levels = [level for each in judged for level in each.others[:first]]
    return Claims(
        len(levels),
        *(
            sum(_CLOSEST_FIRST.index(level) <= _CLOSEST_FIRST.index(least) for level in levels)
            for least in (Level.COPY, Level.EDITED)
        ),
    )


def _misses(held: Gallery, outcomes: list[Outcome]) -> list[Miss]:
    worst = sorted((o for o in outcomes if o.rank > 1), key=lambda o: -o.rank)[:_MISSES]
    return [
        Miss(
            outcome.query.name,
            outcome.query.make()[0],
            held.items[outcome.first].path,
            held.items[outcome.right].path,
            outcome.rank,
        )
        for outcome in worst
    ]
