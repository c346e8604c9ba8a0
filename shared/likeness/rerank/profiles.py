"""Profiles: which stages put a list of neighbours into its final order, and what they find.

none: the cosine alone. fast: global refinement; geometry for what is shown, as proof. precise:
geometry decides too. What each stage gains is measured by `likeness evaluate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from likeness.descriptor_packing import unpack
from likeness.features import ImageFeatures, packed_descriptors
from likeness.model import ModelSpec
from likeness.preprocessing import COLOURS
from likeness.proof.geometry import Verification, verify
from likeness.proof.verdicts import (
    Calibration,
    Evidence,
    Level,
    Verdict,
    evidence,
    features,
    judge,
)
from likeness.records import WHOLE, Box
from likeness.rerank.refinement import refine

# Of the refined list, those that geometry puts into order: more gain nothing (decision 0032).
VERIFIED = 50
# A best answer so near and so far ahead is right: only what is shown is verified then.
_CLEAR, _AHEAD = 0.95, 0.1
# More than either stage takes of 100 candidates on a slow core, in seconds.
_REFINEMENT_S, _GEOMETRY_S = 0.02, 0.1
_LAYOUT = (COLOURS, COLOURS, 3)
# What is taken for true of colours that were not kept: as unlike as can be.
_UNKNOWN = {"colour": 1, "worst": 1, "likeness": 0, "plain_colour": 1, "plain_worst": 1}


class Profile(StrEnum):
    NONE = "none"
    FAST = "fast"
    PRECISE = "precise"


class Proof(NamedTuple):
    """What two pictures were found to have in common.

    geometry: the soft inlier score. overlaps: shares of either picture that the other shows, and
    boxes: where the matches are, in the query's picture and in the candidate's. Only from the same
    item up: some matches agree by chance in any two pictures, and prove nothing.
    """

    verdict: Verdict
    geometry: float
    inliers: int
    overlap_query: float
    overlap_target: float
    boxes: tuple[Box, Box] | None


class Ranked(NamedTuple):
    """K candidates: `order` (K,) puts them best first, all else is in their own order.

    score (K,): what they are ordered by. cosine (K,): the best of any view. view (K,): number of
    the view with the best score. stages: each stage's own scores (K,), NaN where it did not look.
    proofs: of the rows that will be looked at. skipped: stages that the time did not suffice for.
    """

    order: NDArray[np.intp]
    score: NDArray[np.float32]
    cosine: NDArray[np.float32]
    view: NDArray[np.intp]
    stages: dict[str, NDArray[np.float32]]
    proofs: dict[int, Proof]
    skipped: list[str]


class Ranker:
    """Puts neighbours into order with one model's descriptors and calibration."""

    def __init__(self, spec: ModelSpec, calibration: Calibration | None) -> None:
        """Without a calibration there is no order but the cosine's, and no verdict."""
        self._spec = spec
        self._calibration = calibration

    def rank(
        self,
        views: Sequence[ImageFeatures],
        candidates: Sequence[ImageFeatures],
        profile: Profile,
        shown: int,
        time_left_s: Callable[[], float] = lambda: math.inf,
    ) -> Ranked:
        """Order candidates by the one of the query's views that each is nearest to.

        `shown`: how many rows the caller will look at. Ties keep the candidates' order.
        """
        count, dim = len(candidates), len(views[0].vector)
        vectors = np.array([c.vector for c in candidates], np.float32).reshape(count, dim)
        queries = np.stack([view.vector for view in views])
        scores = cosines = queries @ vectors.T
        stages, skipped = {"cosine": cosines.max(axis=0)}, list[str]()
        calibration = self._calibration if profile is not Profile.NONE else None
        if calibration and count > 1:
            if time_left_s() < _REFINEMENT_S:
                skipped.append("refinement")
            else:
                refined = refine(queries, vectors)
                share = np.float32(calibration.refinement)
                scores = (1 - share) * cosines + share * refined
                stages["refinement"] = refined.max(axis=0)
        view = scores.argmax(axis=0)
        score, cosine = scores.max(axis=0), cosines.max(axis=0)
        of_view = cosines[view, np.arange(count)]
        order = np.argsort(-score, kind="stable")
        proofs: dict[int, Proof] = {}
        if calibration and count and self._spec.local and time_left_s() < _GEOMETRY_S:
            skipped.append("geometry")
        elif calibration and count and not _is_bare(views[0]):
            # where the order would hang on how many are shown, geometry is proof alone
            decides = profile is Profile.PRECISE and not _clear(cosine[order])
            judged = order[: VERIFIED if decides else 0]
            rows = order[: max(len(judged), shown)]
            geometry = np.full(count, np.nan, np.float32)
            held = []
            for number, seen in enumerate(views):
                its = rows[view[rows] == number]
                if len(its):
                    found = self._verify(seen, [candidates[row] for row in its])
                    geometry[its] = found.verification.score
                    held.append((its, found))
            stages["geometry"] = geometry
            score[judged] += np.float32(calibration.geometry) * geometry[judged]
            order = np.argsort(-score, kind="stable")
            for its, found in held:
                wanted = np.flatnonzero(np.isin(its, order[:shown]))
                if len(wanted):
                    proven = self._prove(found.of(wanted), of_view[its[wanted]])
                    proofs |= dict(zip(its[wanted].tolist(), proven, strict=True))
        return Ranked(order, score, cosine, view, stages, proofs, skipped)

    def prove(self, query: ImageFeatures, candidates: Sequence[ImageFeatures]) -> list[Proof]:
        """What the query has in common with each; nothing is known without a calibration."""
        if not candidates:
            return []
        vectors = np.array([c.vector for c in candidates], np.float32)
        return self._prove(self._verify(query, candidates), vectors @ query.vector)

    def features(
        self, query: ImageFeatures, candidates: Sequence[ImageFeatures]
    ) -> NDArray[np.float64]:
        """What verdicts on the query and each candidate, at least one, rest on: (K, FEATURES)."""
        vectors = np.array([c.vector for c in candidates], np.float32)
        return features(self._verify(query, candidates).evidence(vectors @ query.vector))

    def _prove(self, held: _Verified, cosines: NDArray[np.float32]) -> list[Proof]:
        if not self._calibration:
            return []
        query, found = held.query, held.verification
        facts = held.evidence(cosines)
        mine, theirs = held.boxes()
        proofs = []
        for row, verdict in enumerate(judge(self._calibration, features(facts))):
            candidate = held.candidates[row]
            same = query.sha256 is not None and query.sha256 == candidate.sha256
            whole = query.box == candidate.box == WHOLE
            told = Verdict(Level.EXACT, 1.0) if same and whole else verdict
            agree = bool(found.inliers[row]) and told.level not in (Level.SIMILAR, Level.NONE)
            proofs.append(
                Proof(
                    told,
                    float(found.score[row]),
                    int(found.inliers[row]),
                    float(facts.overlap_query[row]) if agree else 0.0,
                    float(facts.overlap_target[row]) if agree else 0.0,
                    (mine[row], theirs[row]) if agree else None,
                )
            )
        return proofs

    def _verify(self, query: ImageFeatures, candidates: Sequence[ImageFeatures]) -> _Verified:
        """The query beside each candidate, at least one."""
        side, dim = (self._spec.local.side, self._spec.local.dim) if self._spec.local else (1, 2)
        local, at = unpack([c.packed or b"" for c in candidates], side, dim)
        if not local.shape[1]:  # nothing is kept: one row of zeros each, which matches nothing
            local, at = _nothing(len(candidates), dim)
        mine, mine_at = _of_query(query, side, dim)
        found = verify(mine, mine_at, local, at)
        return _Verified(query, list(candidates), side, mine_at, at, found)


class _Verified(NamedTuple):
    """A query beside K candidates. query_at (n, 2), candidates_at (K, m, 2): where descriptors are,
    in cells of a map with `side` a side.
    """

    query: ImageFeatures
    candidates: list[ImageFeatures]
    side: int
    query_at: NDArray[np.float32]
    candidates_at: NDArray[np.float32]
    verification: Verification

    def of(self, rows: NDArray[np.intp]) -> _Verified:
        """Some of the candidates."""
        return self._replace(
            candidates=[self.candidates[row] for row in rows],
            candidates_at=self.candidates_at[rows],
            verification=self.verification.of(rows),
        )

    def evidence(self, cosines: NDArray[np.float32]) -> Evidence:
        colours = np.stack([_layout(c) for c in self.candidates])
        facts = evidence(cosines, self.verification, self.side, _layout(self.query), colours)
        known = np.array([_has_layout(self.query) and _has_layout(c) for c in self.candidates])
        return facts._replace(
            **{
                name: np.where(known, getattr(facts, name), np.float32(value))
                for name, value in _UNKNOWN.items()
            }
        )

    def boxes(self) -> tuple[list[Box], list[Box]]:
        """Around the matches that agree, in the query's picture and in each candidate's."""
        of_query, of_candidate = np.moveaxis(self.verification.matches, 2, 0)
        theirs_at = self.candidates_at[np.arange(len(self.candidates))[:, None], of_candidate]
        agree = self.verification.inlier
        queries = [self.query] * len(self.candidates)
        return (
            _around(self.query_at[of_query], agree, self.side, queries),
            _around(theirs_at, agree, self.side, self.candidates),
        )


def _of_query(
    query: ImageFeatures, side: int, dim: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    local, at = unpack([packed_descriptors(query)], side, dim)
    if not local.shape[1]:
        local, at = _nothing(1, dim)
    return local[0], at[0]


def _nothing(count: int, dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.zeros((count, 1, dim), np.float32), np.zeros((count, 1, 2), np.float32)


def _is_bare(view: ImageFeatures) -> bool:
    """A vector alone: of words, of examples. It is like some pictures, but never the same."""
    return view.local is None and view.packed is None and view.colours is None


def _clear(cosines: NDArray[np.float32]) -> bool:
    second = cosines[1:].max(initial=-1.0)  # any of them: refinement may have moved it down
    return bool(cosines[0] >= _CLEAR and cosines[0] - second >= _AHEAD)


def _has_layout(of: ImageFeatures) -> bool:
    return of.colours is not None and len(of.colours) == math.prod(_LAYOUT)


def _layout(of: ImageFeatures) -> NDArray[np.uint8]:
    """Black where it is not known."""
    known = of.colours if _has_layout(of) else None
    return np.frombuffer(known or bytes(math.prod(_LAYOUT)), np.uint8).reshape(_LAYOUT)


def _around(
    at: NDArray[np.float32], where: NDArray[np.bool_], side: int, of: Sequence[ImageFeatures]
) -> list[Box]:
    """The box of some of each picture's cells in the whole picture: at (K, M, 2), where (K, M)."""
    across = np.ascontiguousarray(at.transpose(0, 2, 1))
    least = np.where(where[:, None], across, side).min(axis=2)
    most = np.where(where[:, None], across, -1).max(axis=2) + 1
    ends = np.stack([least, most], axis=1) / side
    for parts in ([one.seen for one in of], [one.box for one in of]):
        first, last = np.split(np.array(parts).reshape(-1, 2, 2), 2, axis=1)
        ends = np.clip(first + ends * (last - first), 0, 1)
    return [Box(*row) for row in ends.reshape(-1, 4).tolist()]
