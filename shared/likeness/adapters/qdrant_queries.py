"""Nearest-neighbour queries for Qdrant: search parameters, result windows, merged views."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain, repeat

from likeness.records import NearestQuery, Vector

# How far a search walks the graph: .96 of the exact ten nearest among a million images with 512,
# .976 with 1024, .98 with this (benchmarks/scale.py).
HNSW_EF = 1536
# The engine returns equal scores in any order, a different one each time. We ask for this many
# more on either side of a page and sort equals by id, so that pages have no gaps or duplicates as
# long as no more points than this have an equal score at a page's edge.
_MARGIN = 16


def oversampling(limit: int) -> float:
    """Candidates by int8 vectors for each result, before the original vectors decide.

    Two for each, but at least eighty in all: among a million images the nearest ten lie too close
    together for twenty candidates (.86 of them found).
    """
    return max(2.0, 80 / limit)


def view_inputs(query: NearestQuery) -> list[tuple[Vector, Vector | None]]:
    """The vector and the patches of each view."""
    return list(zip(query.views, query.patches or repeat(None), strict=False))


def window(query: NearestQuery) -> tuple[int, int]:
    """The limit and offset to ask the engine for, with a margin on either side."""
    before, after = _margins(query)
    return before + query.limit + after, query.offset - before


def merged(
    query: NearestQuery, answers: Iterable[Iterable[tuple[str, float]]]
) -> list[tuple[str, float]]:
    """Ids and best scores of the points that any view found in its window, best first."""
    best: dict[str, float] = {}
    for point_id, score in chain.from_iterable(answers):
        if score > best.get(point_id, -math.inf):
            best[point_id] = score
    before, _ = _margins(query)
    by_score = sorted(best.items(), key=lambda hit: (-hit[1], hit[0]))
    return by_score[before : before + query.limit]


def _margins(query: NearestQuery) -> tuple[int, int]:
    return min(query.offset, _MARGIN), min(query.limit, _MARGIN)
