"""`likeness evaluate --feedback`: is what callers thought right found, when they ask again now?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from rich.progress import Progress

from likeness.embedding import Embedder
from likeness.errors import InvalidRequest, ModelMismatch
from likeness.feedback import Feedback, FeedbackEvent
from likeness.gallery import Gallery
from likeness.ports import VectorIndex
from likeness.proof.verdicts import load_calibration
from likeness.queries import ByToken, Query
from likeness.query_tokens import decode_query_token
from likeness.records import State
from likeness.rerank.profiles import Profile
from likeness.search import DEPTH, Searcher

from .bench import no_store
from .datasets import DatasetError
from .judgements import Judgements, by_query
from .metrics import Estimate, estimate

RESULTS = "feedback.json"
FIRST = 10  # results in which wrong ones are counted
CLICKS_WEIGH = 0.5  # a query with clicks and no relevant result, beside one that has any
_PAGE = 500
_NONE_YET = (
    "the index that QDRANT_URL names holds no feedback yet: send POST /v1/feedback with a result's "
    "id, the kind (click, relevant, not_relevant), and the answer's request_id and query_id"
)


class Wrong(Struct, frozen=True):
    """Results judged not relevant, a query."""

    queries: int
    mean: Estimate


class FoundAgain(Struct, frozen=True):
    """None where no query tells it. wrong_before: those that stand before the first right result,
    of queries that have both; wrong_in_first: those among the first FIRST.
    """

    r_at_1: Estimate | None
    r_at_5: Estimate | None
    r_at_10: Estimate | None
    wrong_before: Wrong | None
    wrong_in_first: Wrong | None


class FeedbackEvaluation(Struct, frozen=True):
    """feedback.json. `left_out`: opinions, by the reason. Of the queries asked again: `judged` have
    a relevant result, `clicked` have clicks alone, the others have only what is not relevant.

    requests: those that have any feedback; clicked_requests: those of them with a click.
    """

    model: str
    model_name: str
    calibration: str | None
    opinions: int
    left_out: Mapping[str, int]
    requests: int
    clicked_requests: int
    queries: int
    judged: int
    clicked: int
    profiles: Mapping[str, FoundAgain]


class _Places(NamedTuple):
    """Of one query, from 0: its first right result, infinite where there is none; wrong ones."""

    said: Judgements
    right: float
    wrong: Sequence[int]


def evaluate(
    index: VectorIndex, model: Path, queries: int, seed: int, progress: Progress
) -> FeedbackEvaluation:
    """Ask the live index again, by the query_id of each query that anything was said of.

    At most `queries` of them, drawn by chance. Raises DatasetError where there is nothing to
    measure, Unavailable where the index is down or of another model.
    """
    opinions = list(Feedback(index).all())
    if not opinions:
        raise DatasetError(_NONE_YET)
    embedder = Embedder(model)
    calibration = load_calibration(model, embedder.fingerprint)
    searcher = Searcher(Gallery(index, no_store), embedder, calibration)
    searcher.ready()
    said, left_out = _askable(opinions, index, embedder)
    if not said:
        told = "; ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise DatasetError(f"none of {len(opinions)} opinions can be measured by: {told}")
    drawn = np.sort(np.random.default_rng(seed).permutation(len(said))[:queries])
    asked = [said[row] for row in drawn.tolist()]
    task = progress.add_task("asking again", total=len(asked) * len(Profile))
    profiles = {}
    for profile in Profile:
        places = []
        for judgements in asked:
            places.append(_places(searcher, embedder, judgements, profile))
            progress.advance(task)
        profiles[profile.value] = _found(places)
    return FeedbackEvaluation(
        embedder.fingerprint,
        embedder.spec.name,
        calibration.made_from if calibration else None,
        len(opinions),
        left_out,
        len({opinion.request_id for opinion in opinions}),
        len({opinion.request_id for opinion in opinions if opinion.kind == "click"}),
        len(asked),
        sum(bool(each.relevant) for each in asked),
        sum(bool(each.clicked and not each.relevant) for each in asked),
        profiles,
    )


def _askable(
    opinions: list[FeedbackEvent], index: VectorIndex, embedder: Embedder
) -> tuple[list[Judgements], dict[str, int]]:
    """What can be asked again, with the results that are still there; and opinions left out."""
    queries, without = by_query(opinions)
    left_out = Counter({"no query_id": without})
    left_out["another on the same result of the same query holds"] = (
        len(opinions) - without - sum(len(each.ids) for each in queries)
    )
    live = _live(index, embedder.fingerprint, sorted({i for each in queries for i in each.ids}))
    kept = []
    for each in queries:
        try:
            decode_query_token(each.query_id, embedder.spec)
        except ModelMismatch:
            left_out["query_id is of another model"] += len(each.ids)
        except InvalidRequest:
            left_out["query_id is none that an answer gave"] += len(each.ids)
        else:
            left_out["the result is not indexed any more"] += len(each.ids - live)
            kept += [each.among(live)] if each.ids & live else []
    return kept, {reason: count for reason, count in left_out.items() if count}


def _live(index: VectorIndex, model: str, ids: list[str]) -> set[str]:
    pages = (index.retrieve_payloads(model, ids[n : n + _PAGE]) for n in range(0, len(ids), _PAGE))
    return {i for page in pages for i, point in page.items() if point.state is State.LIVE}


def _places(searcher: Searcher, embedder: Embedder, said: Judgements, profile: Profile) -> _Places:
    """The query's own picture does not count where nobody said anything of it: a search by the id
    of an indexed one never shows it.
    """
    own = decode_query_token(said.query_id, embedder.spec)[0].sha256
    answer = searcher.search(Query(ByToken(said.query_id), DEPTH, rerank=profile))
    ids = [
        hit.point.id
        for hit in answer.results
        if hit.point.id in said.ids
        or not (own and hit.point.image and hit.point.image.sha256 == own)
    ]
    right = next((place for place, each in enumerate(ids) if each in said.right), math.inf)
    return _Places(said, right, [n for n, each in enumerate(ids) if each in said.not_relevant])


def _found(places: list[_Places]) -> FoundAgain:
    answered = [each for each in places if each.said.right]
    first = np.array([each.right for each in answered])
    weights = np.array([1.0 if each.said.relevant else CLICKS_WEIGH for each in answered])
    r_at_1, r_at_5, r_at_10 = (
        estimate((first < k).astype(np.float64), np.arange(len(first)), weights=weights)
        if answered
        else None
        for k in (1, 5, 10)
    )
    return FoundAgain(
        r_at_1,
        r_at_5,
        r_at_10,
        _wrong([sum(n < p.right for n in p.wrong) for p in answered if p.said.not_relevant]),
        _wrong([sum(n < FIRST for n in p.wrong) for p in places if p.said.not_relevant]),
    )


def _wrong(counts: list[int]) -> Wrong | None:
    if not counts:
        return None
    return Wrong(len(counts), estimate(np.array(counts, np.float64), np.arange(len(counts))))
