"""Geometry as a rerank stage: the best candidates are verified, and matches raise their scores.

`proof.geometry` does the matching. The rows that are shown are proven apart from it, each pair the
same way whichever of the two is the query.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from likeness.features import ImageFeatures
from likeness.proof.proofs import geometry_scores
from likeness.rerank.stage import Order, RankingTask, StageResult

# So many of the best candidates are reordered: with more nothing is gained (decision 0032).
DEPTH = 50
# A best candidate this close and this far ahead is right: then only what is shown is verified.
_CLEAR_COSINE, _CLEAR_LEAD = 0.95, 0.1


def add_geometry_scores(task: RankingTask, order: Order) -> StageResult | None:
    """The stage: verify the best, and add their weighted geometry scores."""
    assert task.calibration
    if _is_vector_only(task.views[0]):
        return None
    ranked = order.rows()
    if _has_clear_winner(task, ranked):
        return verify_shown(task, order)
    reordered = ranked[:DEPTH]
    geometry = _scores(task, order, reordered)
    score = order.score.copy()
    score[reordered] += np.float32(task.calibration.geometry) * geometry[reordered]
    return StageResult(Order(score, order.view), geometry, ranked[: max(DEPTH, task.shown)])


def verify_shown(task: RankingTask, order: Order) -> StageResult | None:
    """Verify what is shown, as proof alone: the order then does not depend on how much is shown."""
    if _is_vector_only(task.views[0]):
        return None
    unscored = np.full(len(task.candidates), np.nan, np.float32)
    return StageResult(order, unscored, order.rows()[: task.shown])


def _scores(task: RankingTask, order: Order, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Geometry scores (K,) of these rows, NaN for the others."""
    geometry = np.full(len(task.candidates), np.nan, np.float32)
    for number, view in enumerate(task.views):
        of_view = rows[order.view[rows] == number]
        if len(of_view):
            candidates = [task.candidates[row] for row in of_view]
            geometry[of_view] = geometry_scores(view, candidates, task.spec)
    return geometry


def _is_vector_only(view: ImageFeatures) -> bool:
    """A query of text or of examples: it resembles images, but is never the same as one."""
    return view.local is None and view.packed is None and view.colours is None


def _has_clear_winner(task: RankingTask, ranked: NDArray[np.intp]) -> bool:
    cosines = task.cosines.max(axis=0)[ranked]
    second = cosines[1:].max(initial=-1.0)  # any other: refinement may have moved it down
    return bool(cosines[0] >= _CLEAR_COSINE and cosines[0] - second >= _CLEAR_LEAD)
