"""Nearest-neighbour queries for Qdrant: search parameters, result windows, merged views."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, repeat

import numpy as np

from likeness.records import Candidate, NearestQuery, Point, State, Vector

# How far a search walks the graph: .96 of the exact ten nearest among a million images with 512,
# .976 with 1024, .98 with this (benchmarks/scale.py).
HNSW_EF = 1536
# The engine returns equal scores in any order, a different one each time. We ask for this many
# more on either side of a page and sort equals by id, so that pages have no gaps or duplicates as
# long as no more points than this have an equal score at a page's edge.
_MARGIN = 16
MIN_OVERSAMPLED = 80
# Rounding changes a cosine by less; a vector that was replaced by another image's, by more.
_SAME_SCORE = 1e-3


def oversampling(limit: int) -> float:
    """Candidates by int8 vectors for each result, before the original vectors decide.

    Two for each, but at least eighty in all: among a million images the nearest ten lie too close
    together for twenty candidates (.86 of them found).
    """
    return max(2.0, MIN_OVERSAMPLED / limit)


def view_inputs(query: NearestQuery) -> list[tuple[Vector, Vector | None]]:
    """The vector and the patches of each view."""
    return list(zip(query.views, query.patches or repeat(None), strict=False))


def window(query: NearestQuery) -> tuple[int, int]:
    """The limit and offset to ask the engine for, with a margin on either side."""
    before, after = _margins(query)
    return before + query.limit + after, query.offset - before


def merged(answers: Iterable[Iterable[tuple[str, float]]]) -> list[tuple[str, float]]:
    """Ids and best scores of the points that any view found, best first."""
    best: dict[str, float] = {}
    for point_id, score in chain.from_iterable(answers):
        if score > best.get(point_id, -math.inf):
            best[point_id] = score
    return sorted(best.items(), key=lambda hit: (-hit[1], hit[0]))


def page_of(
    query: NearestQuery,
    found: Sequence[tuple[str, float]],
    read: Callable[[Sequence[str]], Mapping[str, Point]],
) -> list[Candidate]:
    """The query's page of the points found in its window, as they are when they are read.

    A search finds ids first and reads points afterwards: a point may have been deleted in between,
    or replaced by another image. Points that are no longer live are left out, and further ones
    fill the page. A score belongs to the vector that was read with it, where one was.
    """
    before, _ = _margins(query)
    wanted, candidates = before + query.limit, list[Candidate]()
    while len(candidates) < wanted and found:
        more = wanted - len(candidates)
        part, found = found[:more], found[more:]
        points = read([point_id for point_id, _ in part])
        candidates += [
            Candidate(points[point_id], score)
            for point_id, score in part
            if point_id in points and _is_live(points[point_id], query.full)
        ]
    if query.full and not query.patches:
        candidates = _with_present_scores(query, candidates)
    return candidates[before:]


def _is_live(point: Point, full: bool) -> bool:
    return point.state is State.LIVE and (point.vector is not None or not full)


def _with_present_scores(query: NearestQuery, candidates: list[Candidate]) -> list[Candidate]:
    """With the cosines of the vectors that were read, where the engine's are of earlier ones."""
    views = np.stack(query.views)
    scored = []
    for candidate in candidates:
        assert candidate.point.vector is not None  # see _is_live
        cosine = float((views @ candidate.point.vector).max())
        is_present = abs(cosine - candidate.score) < _SAME_SCORE
        scored.append(candidate if is_present else Candidate(candidate.point, cosine))
    scored.sort(key=lambda candidate: (-candidate.score, candidate.point.id))
    least = query.score_threshold
    return scored if least is None else [c for c in scored if c.score >= least - _SAME_SCORE]


def _margins(query: NearestQuery) -> tuple[int, int]:
    return min(query.offset, _MARGIN), min(query.limit, _MARGIN)
