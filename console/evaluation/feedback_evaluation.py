"""`likeness evaluate --feedback`: are the results that callers chose found by today's search?"""

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
from likeness.feedback import FeedbackEvent, FeedbackStore
from likeness.gallery import Gallery
from likeness.ports import VectorIndex
from likeness.proof.verdicts import load_calibration
from likeness.queries import ByToken, Query
from likeness.query_tokens import decode_query_token
from likeness.records import State
from likeness.rerank.profiles import Profile
from likeness.search import DEPTH, Searcher

from .datasets import DatasetError
from .judgements import Judgements, by_query
from .metrics import Estimate, estimate
from .query_runner import no_store

RESULTS = "feedback.json"
FIRST = 10  # results among which wrong ones are counted
CLICK_WEIGHT = 0.5  # of a query with clicks alone, relative to one with a relevant result
_PAGE = 500
_NONE_YET = (
    "the index at QDRANT_URL has no feedback yet: send POST /v1/feedback with a result's id, the "
    "kind (click, relevant, not_relevant), and the answer's request_id and query_id"
)


class WrongResults(Struct, frozen=True):
    """Results judged not relevant, per query."""

    queries: int
    mean: Estimate


class ProfileFeedback(Struct, frozen=True):
    """None without queries to measure it on. wrong_before: those before the first right result, for
    queries with both; wrong_in_first: those among the first FIRST.
    """

    r_at_1: Estimate | None
    r_at_5: Estimate | None
    r_at_10: Estimate | None
    wrong_before: WrongResults | None
    wrong_in_first: WrongResults | None


class FeedbackEvaluation(Struct, frozen=True):
    """feedback.json. opinions: the number of events; left_out: events that were skipped, by reason.
    Of the queries that were repeated `judged` have a relevant result and `clicked` only clicks; the
    others have only results that are not relevant.

    requests: those with any feedback; clicked_requests: those with a click.
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
    profiles: Mapping[str, ProfileFeedback]


class _Ranks(NamedTuple):
    """Ranks from 0 of one query's first right result, infinite without one, and wrong results."""

    judgements: Judgements
    right: float
    wrong: Sequence[int]


def evaluate(
    index: VectorIndex, model: Path, queries: int, seed: int, progress: Progress
) -> FeedbackEvaluation:
    """Search the live index again, by the query_id of each query that has feedback.

    At most `queries` of them, drawn at random. Raises DatasetError if there is nothing to measure,
    Unavailable if the index is down or belongs to another model.
    """
    events = list(FeedbackStore(index).all())
    if not events:
        raise DatasetError(_NONE_YET)
    embedder = Embedder(model)
    calibration = load_calibration(model, embedder.fingerprint)
    searcher = Searcher(Gallery(index, no_store), embedder, calibration)
    searcher.ready()
    usable, left_out = _usable(events, index, embedder)
    if not usable:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in left_out.items())
        raise DatasetError(f"none of {len(events)} feedback events can be used: {reasons}")
    drawn = np.sort(np.random.default_rng(seed).permutation(len(usable))[:queries])
    repeated = [usable[row] for row in drawn.tolist()]
    task = progress.add_task("searching again", total=len(repeated) * len(Profile))
    profiles = {}
    for profile in Profile:
        ranks = []
        for judgements in repeated:
            ranks.append(_ranks(searcher, embedder, judgements, profile))
            progress.advance(task)
        profiles[profile.value] = _measured(ranks)
    return FeedbackEvaluation(
        embedder.fingerprint,
        embedder.spec.name,
        calibration.made_from if calibration else None,
        len(events),
        left_out,
        len({event.request_id for event in events}),
        len({event.request_id for event in events if event.kind == "click"}),
        len(repeated),
        sum(bool(each.relevant) for each in repeated),
        sum(bool(each.clicked and not each.relevant) for each in repeated),
        profiles,
    )


def _usable(
    events: list[FeedbackEvent], index: VectorIndex, embedder: Embedder
) -> tuple[list[Judgements], dict[str, int]]:
    """Queries that can be repeated, with results still indexed; and skipped events, by reason."""
    queries, without = by_query(events)
    left_out = Counter({"no query_id": without})
    left_out["replaced by another on the same result of the same query"] = (
        len(events) - without - sum(len(each.ids) for each in queries)
    )
    live = _live(index, embedder.fingerprint, sorted({i for each in queries for i in each.ids}))
    kept = []
    for each in queries:
        try:
            decode_query_token(each.query_id, embedder.spec)
        except ModelMismatch:
            left_out["query_id belongs to another model"] += len(each.ids)
        except InvalidRequest:
            left_out["query_id is invalid"] += len(each.ids)
        else:
            left_out["the result is no longer indexed"] += len(each.ids - live)
            kept += [each.restricted_to(live)] if each.ids & live else []
    return kept, {reason: count for reason, count in left_out.items() if count}


def _live(index: VectorIndex, model: str, ids: list[str]) -> set[str]:
    pages = (index.retrieve_payloads(model, ids[n : n + _PAGE]) for n in range(0, len(ids), _PAGE))
    return {i for page in pages for i, point in page.points.items() if point.state is State.LIVE}


def _ranks(
    searcher: Searcher, embedder: Embedder, judgements: Judgements, profile: Profile
) -> _Ranks:
    """Without feedback on it, the query's own image does not count: a search by the id of an
    indexed image never shows it.
    """
    own = decode_query_token(judgements.query_id, embedder.spec)[0].sha256
    answer = searcher.search(Query(ByToken(judgements.query_id), DEPTH, rerank=profile))
    ids = [
        hit.point.id
        for hit in answer.results
        if hit.point.id in judgements.ids
        or not (own and hit.point.image and hit.point.image.sha256 == own)
    ]
    right = next((rank for rank, each in enumerate(ids) if each in judgements.right), math.inf)
    wrong = [rank for rank, each in enumerate(ids) if each in judgements.not_relevant]
    return _Ranks(judgements, right, wrong)


def _measured(ranks: list[_Ranks]) -> ProfileFeedback:
    answered = [each for each in ranks if each.judgements.right]
    first = np.array([each.right for each in answered])
    weights = np.array([1.0 if each.judgements.relevant else CLICK_WEIGHT for each in answered])
    r_at_1, r_at_5, r_at_10 = (
        estimate((first < k).astype(np.float64), np.arange(len(first)), weights=weights)
        if answered
        else None
        for k in (1, 5, 10)
    )
    return ProfileFeedback(
        r_at_1,
        r_at_5,
        r_at_10,
        _wrong_results(
            [sum(n < p.right for n in p.wrong) for p in answered if p.judgements.not_relevant]
        ),
        _wrong_results(
            [sum(n < FIRST for n in p.wrong) for p in ranks if p.judgements.not_relevant]
        ),
    )


def _wrong_results(counts: list[int]) -> WrongResults | None:
    if not counts:
        return None
    return WrongResults(len(counts), estimate(np.array(counts, np.float64), np.arange(len(counts))))
