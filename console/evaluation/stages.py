"""The table of gains: what each stage of a search adds to those before it.

A rerank stage of a profile (`likeness.rerank.profiles`) has its row without being named here. TRIED
are those that were measured and are in no profile: they gained too little, or cost too much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from msgspec import structs
from numpy.typing import ArrayLike, NDArray

from likeness.features import ImageFeatures, features_of_point
from likeness.model import ModelSpec
from likeness.queries import Answer
from likeness.records import Vector
from likeness.rerank.profiles import PROFILES, REFINEMENT, Profile
from likeness.rerank.ranker import Ranker
from likeness.rerank.stage import Need, Stage
from likeness.search import DEPTH

from .gallery import EvaluationGallery
from .k_reciprocal import score_by_k_reciprocal
from .late_interaction import add_late_interaction
from .query_expansion import NEIGHBOURS, expand

DIVERSITY = 0.3  # the option's value in the row of that name
_RERANKED = 10.0  # above any cosine: what was reranked comes before what was not

Scores = NDArray[np.float32]


class AnsweredQuery(NamedTuple):
    """One query with the service's answers, and what else the table's rows are computed from.

    frame: features of the whole frame; views: those of frame and subject, as they were searched
    with. answers: by profile; diversified: that of the last profile with diversity. nearest: asks
    the index again with another vector.
    """

    gallery: EvaluationGallery
    spec: ModelSpec
    ranker: Ranker
    frame: ImageFeatures
    views: Sequence[ImageFeatures]
    answers: Mapping[Profile, Answer]
    diversified: Answer
    nearest: Callable[[Vector], Answer]

    def rows(self, answer: Answer) -> list[int]:
        """Numbers of an answer's results in the gallery."""
        return [self.gallery.row_of[hit.point.id] for hit in answer.results]

    def scores(self, rows: Sequence[int], values: ArrayLike) -> Scores:
        """Scores of the whole gallery (G,): reranked rows first, the rest by the frame's cosine."""
        scores = self.gallery.vectors @ self.frame.vector
        scores[rows] = _RERANKED + np.asarray(values)
        return np.asarray(scores, np.float32)


class TableRow(NamedTuple):
    """before: rows that it may be compared with; the last of them that was measured counts.

    scores: of the whole gallery (G,), higher is nearer. needs: without these there is no such row.
    """

    name: str
    before: tuple[str, ...]
    scores: Callable[[AnsweredQuery], Scores]
    needs: frozenset[Need] = frozenset()


class TriedStage(NamedTuple):
    """Measured after the stages `after` of a profile. `stage` is None for a method that searches
    again, which no stage can do.
    """

    name: str
    scores: Callable[[AnsweredQuery], Scores]
    after: tuple[Stage, ...] = ()
    stage: Stage | None = None

    @property
    def needs(self) -> frozenset[Need]:
        return self.stage.needs if self.stage else frozenset()


def tried(stage: Stage, after: tuple[Stage, ...] = ()) -> TriedStage:
    return TriedStage(stage.name, partial(scores_after, (*after, stage)), after, stage)


def scores_of_profile(profile: Profile, searched: AnsweredQuery) -> Scores:
    answer = searched.answers[profile]
    return searched.scores(searched.rows(answer), [hit.order for hit in answer.results])


def scores_after(stages: tuple[Stage, ...], searched: AnsweredQuery) -> Scores:
    """Scores after these stages: from the profile that has exactly them, or ranked here."""
    for profile in PROFILES:
        if reordering_stages(profile) == stages:
            return scores_of_profile(profile, searched)
    answer = searched.answers[Profile.FAST]
    rows = searched.rows(answer)
    candidates = [features_of_point(hit.point, searched.spec) for hit in answer.results]
    patches = searched.gallery.patches
    if patches is not None and any(Need.PATCHES in stage.needs for stage in stages):
        candidates = [
            structs.replace(candidate, patches=patches[row].astype(np.float32))
            for candidate, row in zip(candidates, rows, strict=True)
        ]
    ranked = searched.ranker.run(stages, searched.views, candidates, DEPTH)
    return searched.scores(rows, ranked.score)


def reordering_stages(profile: Profile) -> tuple[Stage, ...]:
    return tuple(stage for stage in PROFILES[profile] if stage.reorders)


def table_rows() -> list[TableRow]:
    """In the order of a search; a stage that two profiles have is measured in the first of them."""
    rows = [
        TableRow("none", (), partial(scores_of_profile, Profile.NONE)),
        TableRow("subject crop", ("none",), _subject_crop),
    ]
    before: tuple[str, ...] = ("subject crop",)
    measured = set[tuple[str, ...]]()
    for profile in PROFILES:
        stages = reordering_stages(profile)
        for number in range(len(stages) + 1):
            before = ("subject crop", *(stage.name for stage in stages[:number]))
            if before in measured:
                continue
            measured.add(before)
            if number and before[-1] not in {row.name for row in rows}:
                scores = partial(scores_after, stages[:number])
                rows.append(TableRow(before[-1], before[:-1], scores, stages[number - 1].needs))
            rows += [
                TableRow(each.name, before, each.scores, each.needs)
                for each in TRIED
                if each.after == stages[:number]
            ]
    return [*rows, TableRow("diversity", before, _diversified)]


def _subject_crop(searched: AnsweredQuery) -> Scores:
    answer = searched.answers[Profile.FAST]
    return searched.scores(searched.rows(answer), [hit.stages["cosine"] for hit in answer.results])


def _diversified(searched: AnsweredQuery) -> Scores:
    ranks = np.arange(len(searched.diversified.results))
    return searched.scores(searched.rows(searched.diversified), -ranks / DEPTH)


def _query_expansion(searched: AnsweredQuery) -> Scores:
    """The index is searched again with each view expanded; the best of their scores counts."""
    answer = searched.answers[Profile.FAST]
    cosines = [hit.stages["cosine"] for hit in answer.results]
    nearest = searched.gallery.vectors[searched.rows(answer)]
    best = nearest[np.argsort(cosines)[: -NEIGHBOURS - 1 : -1]]
    scores = dict[int, float]()
    for view in searched.views:
        again = searched.nearest(expand(view.vector, best))
        for row, hit in zip(searched.rows(again), again.results, strict=True):
            scores[row] = max(hit.score, scores.get(row, -1.0))
    return searched.scores(list(scores), list(scores.values()))


K_RECIPROCAL = Stage(
    "k-reciprocal",
    label="Mutual neighbours",
    run=score_by_k_reciprocal,
    budget_s=0.02,
)
LATE_INTERACTION = Stage(
    "late interaction",
    label="Parts that match",
    run=add_late_interaction,
    budget_s=0.1,
    needs=frozenset({Need.PATCHES}),
)
TRIED = (
    TriedStage("query expansion", _query_expansion),
    tried(K_RECIPROCAL),
    tried(LATE_INTERACTION, after=(REFINEMENT,)),
)
