"""The ranker: runs a profile's stages within the time left, and proves what is shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from likeness.features import ImageFeatures
from likeness.model import ModelSpec
from likeness.proof.proofs import Proof, verify_pairs
from likeness.proof.verdicts import Calibration
from likeness.rerank.profiles import PROFILES, Profile
from likeness.rerank.stage import Order, RankingTask, Stage

_NONE = np.array([], np.intp)


class RankedCandidates(NamedTuple):
    """K candidates: `order` (K,) has their rows, best first; all else is in the given order.

    score (K,): what they are ordered by. cosine (K,): the best of any view. view (K,): number of
    the view with the best score. stages: each stage's own scores (K,), NaN where it gave none.
    proofs: of the shown rows that were verified. skipped: stages skipped for lack of time.
    """

    order: NDArray[np.intp]
    score: NDArray[np.float32]
    cosine: NDArray[np.float32]
    view: NDArray[np.intp]
    stages: dict[str, NDArray[np.float32]]
    proofs: dict[int, Proof]
    skipped: list[str]


class Ranker:
    """Orders neighbours with one model's descriptors and calibration."""

    def __init__(self, spec: ModelSpec, calibration: Calibration | None) -> None:
        """Without a calibration, order is by cosine alone, and there are no verdicts."""
        self._spec = spec
        self._calibration = calibration

    def rank(
        self,
        views: Sequence[ImageFeatures],
        candidates: Sequence[ImageFeatures],
        profile: Profile,
        shown: int,
        time_left_s: Callable[[], float] = lambda: math.inf,
    ) -> RankedCandidates:
        """Order candidates by the one of the query's views that each is nearest to.

        `shown`: how many rows the caller shows. Equal scores keep the candidates' order; the scores
        of equal candidates may differ by rounding, which depends on their place.
        """
        return self.run(PROFILES[profile], views, candidates, shown, time_left_s)

    def run(
        self,
        stages: Sequence[Stage],
        views: Sequence[ImageFeatures],
        candidates: Sequence[ImageFeatures],
        shown: int,
        time_left_s: Callable[[], float] = lambda: math.inf,
    ) -> RankedCandidates:
        """As `rank`, through these stages."""
        task = RankingTask.of(views, candidates, shown, self._spec, self._calibration)
        order, cosine = Order.by_best_view(task.cosines), task.cosines.max(axis=0)
        scores, skipped = {"cosine": cosine}, list[str]()
        verified = [_NONE]
        for stage in stages if candidates else ():
            if not stage.is_possible(task):
                continue
            if stage.takes_time(task) and time_left_s() < stage.budget_s:
                skipped.append(stage.name)
            elif result := stage.run(task, order):
                order, scores[stage.name] = result.order, result.scores
                verified.append(_NONE if result.verified is None else result.verified)
        rows = order.rows()
        proven = np.intersect1d(np.concatenate(verified), rows[:shown])
        proofs = self._proofs(task, order, proven)
        _fill(scores.get("geometry"), proofs)
        return RankedCandidates(rows, order.score, cosine, order.view, scores, proofs, skipped)

    def _proofs(self, task: RankingTask, order: Order, shown: NDArray[np.intp]) -> dict[int, Proof]:
        """The proofs of these rows, each with the view it is nearest to, by row."""
        proofs: dict[int, Proof] = {}
        for number in np.unique(order.view[shown]):
            of_view = shown[order.view[shown] == number].tolist()
            found = self.prove(task.views[number], [task.candidates[row] for row in of_view])
            proofs |= dict(zip(of_view, found, strict=bool(self._calibration)))
        return proofs

    def prove(self, query: ImageFeatures, candidates: Sequence[ImageFeatures]) -> list[Proof]:
        """What the query and each candidate have in common; empty without a calibration."""
        if not candidates or not self._calibration:
            return []
        return verify_pairs(query, candidates, self._spec).proofs(self._calibration)

    def pair_features(
        self, query: ImageFeatures, candidates: Sequence[ImageFeatures]
    ) -> NDArray[np.float64]:
        """The features that verdicts rest on, for at least one candidate: (K, PAIR_FEATURES)."""
        return verify_pairs(query, candidates, self._spec).pair_features()


def _fill(geometry: NDArray[np.float32] | None, proofs: dict[int, Proof]) -> None:
    """What was proven without having been reordered has the geometry score of its proof."""
    for row, proof in proofs.items():
        if geometry is not None and np.isnan(geometry[row]):
            geometry[row] = proof.geometry
