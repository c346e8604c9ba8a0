"""Searches with known answers, over vectors alone: what a map gains or loses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from likeness.records import Vector

from ..bundles.adapter import LinearMap
from ..evaluation.metrics import Estimate, estimate

_CHUNK = 200  # queries that are scored at a time


class Searches(NamedTuple):
    """Q queries float32 (Q, D) in a gallery float32 (G, D), unit rows.

    wanted (Q,) and classes (G,): the class of the right answers, and of each image. own (Q,): the
    query's own row of the gallery, which does not count; −1 if it has none. group (Q,): queries of
    one group are resampled together.
    """

    name: str
    queries: Vector
    gallery: Vector
    wanted: NDArray[np.intp]
    classes: NDArray[np.intp]
    own: NDArray[np.intp]
    group: NDArray[np.intp]

    def of(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Searches:
        """The same with some of the queries."""
        return self._replace(
            queries=self.queries[chosen],
            wanted=self.wanted[chosen],
            own=self.own[chosen],
            group=self.group[chosen],
        )


class Hits(NamedTuple):
    """For each query (Q,): whether the first result is right, and its average precision."""

    at_1: NDArray[np.float64]
    average_precision: NDArray[np.float64]


class Change(Struct, frozen=True):
    """What the map changes: R@1 and mAP before and after, and the gains with their intervals."""

    name: str
    queries: int
    r_at_1: tuple[float, float]
    mean_ap: tuple[float, float]
    r_at_1_gain: Estimate
    mean_ap_gain: Estimate

    @property
    def gains(self) -> bool:
        """More right first results, beyond the interval."""
        return self.r_at_1_gain.low > 0

    @property
    def loses(self) -> bool:
        """Fewer right first results, or a lower mAP, beyond the interval."""
        return self.r_at_1_gain.high < 0 or self.mean_ap_gain.high < 0


def first_right(searches: Searches, mapped: LinearMap | None) -> NDArray[np.float64]:
    """Whether each query's first result is right (Q,); ties count against the method."""
    queries, gallery = _mapped(searches, mapped)
    found = np.empty(len(queries))
    for rows in _chunks(len(queries)):
        scores, right = _scored(searches, queries[rows] @ gallery.T, rows)
        best = np.where(right, scores, -np.inf).max(axis=1)
        found[rows] = best > np.where(right, -np.inf, scores).max(axis=1)
    return found


def search(searches: Searches, mapped: LinearMap | None) -> Hits:
    """The same values as `metrics.rank` gives, a tenth of its time: only scores are sorted."""
    queries, gallery = _mapped(searches, mapped)
    found = Hits(np.zeros(len(queries)), np.zeros(len(queries)))
    for rows in _chunks(len(queries)):
        scores, right = _scored(searches, queries[rows] @ gallery.T, rows)
        for row, (of_query, is_right) in enumerate(zip(scores, right, strict=True), rows.start):
            good, bad = np.sort(of_query[is_right])[::-1], np.sort(of_query[~is_right])
            if len(good):
                number = np.arange(1, len(good) + 1)
                places = len(bad) - np.searchsorted(bad, good) + number
                found.at_1[row] = places[0] == 1
                found.average_precision[row] = (number / places).mean()
    return found


def change(name: str, before: Hits, after: Hits, group: NDArray[np.intp]) -> Change:
    """Raises ValueError without queries."""
    return Change(
        name,
        len(group),
        (float(before.at_1.mean()), float(after.at_1.mean())),
        (float(before.average_precision.mean()), float(after.average_precision.mean())),
        estimate(after.at_1 - before.at_1, group),
        estimate(after.average_precision - before.average_precision, group),
    )


def changed_by(searches: Searches, mapped: LinearMap) -> Change:
    before, after = search(searches, None), search(searches, mapped)
    return change(searches.name, before, after, searches.group)


def _mapped(searches: Searches, mapped: LinearMap | None) -> tuple[Vector, Vector]:
    if mapped is None:
        return searches.queries, searches.gallery
    return mapped.apply(searches.queries), mapped.apply(searches.gallery)


def _scored(
    searches: Searches, scores: NDArray[np.float32], rows: slice
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Scores without the queries' own images, and which are right."""
    right = searches.wanted[rows, None] == searches.classes[None]
    own = searches.own[rows]
    known = np.flatnonzero(own >= 0)
    scores[known, own[known]] = -np.inf
    right[known, own[known]] = False
    return scores, right


def _chunks(count: int) -> list[slice]:
    return [slice(at, at + _CHUNK) for at in range(0, count, _CHUNK)]
