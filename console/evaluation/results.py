"""evaluation.json: what an evaluation found, written, read, and compared with an earlier one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from .datasets import DatasetError
from .metrics import Estimate, Reliability

RESULTS = "evaluation.json"
_COMPARED = {"r_at_1": "R@1", "mean_ap": "mAP"}
# A drop by exactly the tolerance is allowed, whatever float64 makes of the difference.
_ROUNDING = 1e-9


class Setup(Struct, frozen=True):
    """What was measured. `digest` covers the images' names, labels, instances and splits, not
    their contents: a different image under an old name is not noticed.
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


class StageGain(Struct, frozen=True):
    """`gain` in R@1, and in mAP, over the stage named `over`, query by query."""

    name: str
    r_at_1: Estimate
    over: str | None = None
    gain: Estimate | None = None
    mean_ap_gain: Estimate | None = None


class RelevanceMetrics(Struct, frozen=True):
    """Metrics for one meaning of relevance: the same original, instance or label.

    `without_answer`: queries without a right answer in the gallery; they do not count.
    """

    relevance: str
    queries: int
    without_answer: int
    profiles: Mapping[str, Metrics]
    stages: Sequence[StageGain]


class EditMetrics(Struct, frozen=True):
    """R@1 of the queries made by one edit, by profile."""

    name: str
    level: str
    queries: int
    r_at_1: Mapping[str, Estimate]


class Claims(Struct, frozen=True):
    """False claims: verdicts on pairs of a query and an image that is not its original."""

    pairs: int
    copy_or_closer: int
    edited_or_closer: int


class Verdicts(Struct, frozen=True):
    """confusion: pairs of a query and its original, by true level and verdict. right: the share of
    each level's pairs. shown: false claims on the first SHOWN results, reranked: on all.

    `reliability`: of the probability of being the same item or closer, measured on each query's
    original and one wrong result.
    """

    confusion: Mapping[str, Mapping[str, int]]
    right: Mapping[str, float]
    shown: Claims
    reranked: Claims
    reliability: Reliability


class Spread(Struct, frozen=True):
    """Percentiles of a duration in milliseconds."""

    p50: float
    p95: float


class Latency(Struct, frozen=True):
    """`usd_a_million`: Lambda alone, if its core were as fast as this machine's."""

    queries: int
    stages: Mapping[str, Spread]
    mean_ms: float
    usd_a_million: float


class Evaluation(Struct, frozen=True):
    """evaluation.json. `calibration`: the images it was fitted on, None without a calibration."""

    setup: Setup
    model: str
    model_name: str
    calibration: str | None
    found: Sequence[RelevanceMetrics]
    edits: Sequence[EditMetrics]
    verdicts: Verdicts | None
    latency: Mapping[str, Latency]
    unreadable: Sequence[str] = ()


def read(file: Path) -> Evaluation:
    """An earlier run's evaluation.json. Raises DatasetError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Evaluation)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise DatasetError(f"{file} is not an {RESULTS} of `likeness evaluate`: {error}") from error


def write(evaluation: Struct, file: Path) -> None:
    """Write atomically: a reader sees the old file or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(evaluation)) + b"\n")
    draft.replace(file)


def drops(before: Evaluation, now: Evaluation, tolerance: float) -> list[str]:
    """R@1 and mAP of every profile that dropped by more than `tolerance`, as text."""
    earlier = {found.relevance: found.profiles for found in before.found}
    dropped = []
    for found in now.found:
        for profile, metrics in found.profiles.items():
            for name, title in _COMPARED.items():
                old = getattr(earlier[found.relevance][profile], name).mean
                new = getattr(metrics, name).mean
                if old - new > tolerance + _ROUNDING:
                    change = f"{old:.3f} → {new:.3f}"
                    dropped.append(f"{title} of {profile}, by {found.relevance}: {change}")
    return dropped
