"""What a rerank stage is: its name, its function, its time budget, and what it needs.

`profiles.STAGES` lists those of the service, `console.evaluation.stages` those that were measured
and are in no profile. Ranker, evaluation, benchmarks and tests read these lists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from likeness.features import ImageFeatures
from likeness.model import ModelSpec
from likeness.proof.verdicts import Calibration


class Need(StrEnum):
    """What a stage cannot do without."""

    CALIBRATION = "a calibration"
    SEVERAL_CANDIDATES = "several candidates"
    LOCAL_DESCRIPTORS = "local descriptors"
    PATCHES = "patches"


class RankingTask(NamedTuple):
    """V views of a query and K candidates: what all stages are given.

    vectors float32 (K, D), cosines (V, K). `shown`: how many rows the caller shows.
    """

    views: Sequence[ImageFeatures]
    candidates: Sequence[ImageFeatures]
    vectors: NDArray[np.float32]
    cosines: NDArray[np.float32]
    shown: int
    spec: ModelSpec
    calibration: Calibration | None

    @classmethod
    def of(
        cls,
        views: Sequence[ImageFeatures],
        candidates: Sequence[ImageFeatures],
        shown: int,
        spec: ModelSpec,
        calibration: Calibration | None,
    ) -> RankingTask:
        count, dim = len(candidates), len(views[0].vector)
        vectors = np.array([c.vector for c in candidates], np.float32).reshape(count, dim)
        cosines = np.stack([view.vector for view in views]) @ vectors.T
        return cls(views, candidates, vectors, cosines, shown, spec, calibration)

    def has(self, need: Need) -> bool:
        match need:
            case Need.CALIBRATION:
                return self.calibration is not None
            case Need.SEVERAL_CANDIDATES:
                return len(self.candidates) > 1
            case Need.LOCAL_DESCRIPTORS:
                return self.spec.local is not None
            case Need.PATCHES:
                images = (self.views[0], *self.candidates)
                return all(image.patches is not None for image in images)


class Order(NamedTuple):
    """An order of K candidates. score (K,): what they are ordered by; view (K,): number of the
    query's view with which each candidate scores best.
    """

    score: NDArray[np.float32]
    view: NDArray[np.intp]

    @classmethod
    def by_best_view(cls, scores: NDArray[np.float32]) -> Order:
        """From the scores of every view, (V, K)."""
        return cls(scores.max(axis=0), scores.argmax(axis=0))

    def rows(self) -> NDArray[np.intp]:
        """The candidates' numbers, best first; ties keep the candidates' order."""
        return np.argsort(-self.score, kind="stable")


class StageResult(NamedTuple):
    """The new order, and the stage's own scores (K,), NaN for candidates that it did not score.

    verified: rows of the candidates that were verified, if any. Those that are shown get proofs, so
    a stage that verifies what is shown comes last in its profile.
    """

    order: Order
    scores: NDArray[np.float32]
    verified: NDArray[np.intp] | None = None


class Stage(NamedTuple):
    """One step of a ranking.

    name: what answers, logs and reports call it; label: what the page calls it. run: a pure
    function of the task and the order so far; None if the query has nothing that it could compare.
    budget_s: more than it takes for 100 candidates on a slow core; with less time left it is
    skipped, and reported as skipped. needs: without these it does not run, which is not reported.
    instant_without: without this it takes no time, and is never skipped. reorders: False for a
    stage that only scores and proves what is shown.
    """

    name: str
    label: str
    run: Callable[[RankingTask, Order], StageResult | None]
    budget_s: float
    needs: frozenset[Need] = frozenset()
    instant_without: Need | None = None
    reorders: bool = True

    def is_possible(self, task: RankingTask) -> bool:
        return all(task.has(need) for need in self.needs)

    def takes_time(self, task: RankingTask) -> bool:
        return self.instant_without is None or task.has(self.instant_without)
