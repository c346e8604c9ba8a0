"""On schedule: ask what we know the answer to, and see whether answers still look as they did.

The queries are pictures of the index itself, cropped and encoded anew: each must find its own. They
are those with the lowest ids. An id is a hash, so they are a random sample, the same at every run,
that mends itself where one is deleted; nobody has to make it or keep it.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from PIL import Image

from likeness.answer_shift import AnswerDistribution, shift
from likeness.errors import ImageError, IndexMissing, ObjectChanged
from likeness.images import decode
from likeness.ports import ObjectStore, VectorIndex
from likeness.queries import ByImage, Query
from likeness.records import Point, State
from likeness.searchers import Searchers
from likeness.settings import Limits

NOTE, NOTE_ID = "health", "reference"
WINDOW_HOURS = 24
# With fewer answers a shift may be chance: for 18 classes and twice 500, 0.07 of it.
LEAST_ANSWERS = 500
_QUERIES, _SHOWN = 20, 10
_LIVE = {"must": [{"key": "state", "match": {"value": State.LIVE.value}}]}
_SIDE = 640  # pixels that a query is made of
_CROP, _QUALITY = 0.1, 60


class Canary:
    """Lambda's entry. An event {"reference": "renew"} takes the last day's answers for good."""

    def __init__(
        self,
        searchers: Searchers,
        index: VectorIndex,
        store: ObjectStore,
        limits: Limits,
        count: Callable[[int], AnswerDistribution],
        logger: Logger,
        metrics: Metrics,
    ) -> None:
        """`count` counts the answers of the last so many hours."""
        self._searchers = searchers
        self._index = index
        self._store = store
        self._limits = limits
        self._count = count
        self._logger = logger
        self._metrics = metrics

    def __call__(self, event: Mapping[str, Any], context: Any) -> dict[str, Any]:
        """Raises Unavailable where the index, the bucket or CloudWatch does not answer."""
        told = {**self._recall(), **self._shift(event.get("reference") == "renew")}
        self._logger.info("canary", **told)
        return told

    def _recall(self) -> dict[str, Any]:
        try:
            points = self._index.scroll(_QUERIES, filter=_LIVE).points
        except IndexMissing:  # a new stack, before its first image
            return {"asked": 0}
        found: dict[str, bool] = {}
        for point in points:
            query = self._query(point)
            if query is not None:
                found[point.id] = self._finds(point, query)
        if not found:
            return {"asked": 0}
        recall = sum(found.values()) / len(found)
        self._publish("CanaryRecall", recall)
        return {
            "asked": len(found),
            "recall": recall,
            "missed": [point_id for point_id, right in found.items() if not right],
        }

    def _query(self, point: Point) -> bytes | None:
        """None where the object is no longer there, or no picture is left when it is cropped."""
        state = self._store.head(point.ref)
        if state is None:
            return None
        try:
            body = self._store.read(point.ref, state.etag, self._limits.max_bytes)
            return _edited(decode(body.data, self._limits, _SIDE)[0])
        except (ObjectChanged, ImageError):
            return None

    def _finds(self, point: Point, query: bytes) -> bool:
        """Itself, or a file with the same bytes, is among the first results."""
        try:
            wanted = Query(ByImage(query), limit=_SHOWN)
            answer = self._searchers.run(lambda searcher: searcher.search(wanted))
        except ImageError:
            return False
        return any(
            hit.point.id == point.id or hit.point.sha256 == point.sha256 for hit in answer.results
        )

    def _shift(self, renew: bool) -> dict[str, Any]:
        """How far the last day's answers are from the reference: the first day that had enough."""
        now = self._count(WINDOW_HOURS)
        if now.answers < LEAST_ANSWERS:
            return {"answers": now.answers}
        reference = None if renew else self._reference()
        if reference is None:
            kept = {**msgspec.to_builtins(now), "at_s": round(time.time())}
            self._index.put_note(NOTE, NOTE_ID, kept)
            return {"answers": now.answers, "reference": "taken"}
        found = shift(reference, now)
        self._publish("AnswerShift", found)
        return {"answers": now.answers, "shift": round(found, 4), **msgspec.to_builtins(now)}

    def _reference(self) -> AnswerDistribution | None:
        notes, _ = self._index.list_notes(NOTE, 1)
        return msgspec.convert(notes[0], AnswerDistribution) if notes else None

    def _publish(self, name: str, value: float) -> None:
        self._metrics.add_metric(name, MetricUnit.NoUnit, value)
        self._metrics.flush_metrics()
        self._metrics.clear_metrics()


def _edited(picture: Image.Image) -> bytes:
    width, height = picture.size
    sides = (width * _CROP, height * _CROP, width * (1 - _CROP), height * (1 - _CROP))
    out = io.BytesIO()
    picture.crop(tuple(map(round, sides))).save(out, "JPEG", quality=_QUALITY)  # type: ignore[arg-type]
    return out.getvalue()
