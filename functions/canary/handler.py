"""On a schedule: search with known answers, and compare all answers with a reference period.

The queries are indexed images, cropped and encoded again: each must find its original. They are the
images with the lowest ids. An id is a hash, so they are a random sample that is the same in every
run, replaces deleted images by itself and needs no upkeep.
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
# With fewer answers a shift may be chance: for 18 classes and twice 500 answers, 0.07 is.
MIN_ANSWERS = 500
_QUERIES, _RESULTS = 20, 10
_LIVE = {"must": [{"key": "state", "match": {"value": State.LIVE.value}}]}
_QUERY_SIDE = 640  # pixels
_CROP, _QUALITY = 0.1, 60


class Canary:
    """Lambda's entry point. {"reference": "renew"} makes the last day's answers the reference."""

    def __init__(
        self,
        searchers: Searchers,
        index: VectorIndex,
        store: ObjectStore,
        limits: Limits,
        count_answers: Callable[[int], AnswerDistribution],
        logger: Logger,
        metrics: Metrics,
    ) -> None:
        """`count_answers` takes a number of hours and returns the answers in them."""
        self._searchers = searchers
        self._index = index
        self._store = store
        self._limits = limits
        self._count_answers = count_answers
        self._logger = logger
        self._metrics = metrics

    def __call__(self, event: Mapping[str, Any], context: Any) -> dict[str, Any]:
        """Raises Unavailable if the index, the bucket or CloudWatch does not answer, and
        ConfigurationError if the Qdrant server is too old to be written to.
        """
        self._index.reconnect()  # another server may answer by now
        qdrant = {"qdrant": self._index.check_server()}
        facts = {**qdrant, **self._recall(), **self._shift(event.get("reference") == "renew")}
        self._logger.info("canary", **facts)
        return facts

    def _recall(self) -> dict[str, Any]:
        try:
            points = self._index.scroll(_QUERIES, filter=_LIVE).points
        except IndexMissing:  # a new stack, before its first image
            return {"asked": 0}
        hits: dict[str, bool] = {}
        for point in points:
            query = self._make_query(point)
            if query is not None:
                hits[point.id] = self._finds(point, query)
        if not hits:
            return {"asked": 0}
        recall = sum(hits.values()) / len(hits)
        self._publish("CanaryRecall", recall)
        return {
            "asked": len(hits),
            "recall": recall,
            "missed": [point_id for point_id, hit in hits.items() if not hit],
        }

    def _make_query(self, point: Point) -> bytes | None:
        """A JPEG; None if the object was deleted or replaced, or is not a valid image."""
        state = self._store.head(point.ref)
        if state is None:
            return None
        try:
            body = self._store.read(point.ref, state.etag, self._limits.max_bytes)
            return _crop(decode(body.data, self._limits, _QUERY_SIDE)[0])
        except (ObjectChanged, ImageError):
            return None

    def _finds(self, point: Point, query: bytes) -> bool:
        """Whether the image, or a file with the same bytes, is among the first results."""
        try:
            search = Query(ByImage(query), limit=_RESULTS)
            answer = self._searchers.run(lambda searcher: searcher.search(search))
        except ImageError:
            return False
        return any(
            hit.point.id == point.id or hit.point.sha256 == point.sha256 for hit in answer.results
        )

    def _shift(self, renew: bool) -> dict[str, Any]:
        """The shift of the last day's answers against the reference: the first day with enough."""
        now = self._count_answers(WINDOW_HOURS)
        if now.answers < MIN_ANSWERS:
            return {"answers": now.answers}
        reference = None if renew else self._reference()
        if reference is None:
            note = {**msgspec.to_builtins(now), "at_s": round(time.time())}
            self._index.put_note(NOTE, NOTE_ID, note)
            return {"answers": now.answers, "reference": "taken"}
        distance = shift(reference, now)
        self._publish("AnswerShift", distance)
        return {"answers": now.answers, "shift": round(distance, 4), **msgspec.to_builtins(now)}

    def _reference(self) -> AnswerDistribution | None:
        notes, _ = self._index.list_notes(NOTE, 1)
        return msgspec.convert(notes[0], AnswerDistribution) if notes else None

    def _publish(self, name: str, value: float) -> None:
        self._metrics.add_metric(name, MetricUnit.NoUnit, value)
        self._metrics.flush_metrics()
        self._metrics.clear_metrics()


def _crop(image: Image.Image) -> bytes:
    """The image without its margins, as a JPEG."""
    width, height = image.size
    box = (width * _CROP, height * _CROP, width * (1 - _CROP), height * (1 - _CROP))
    out = io.BytesIO()
    image.crop(tuple(map(round, box))).save(out, "JPEG", quality=_QUALITY)  # type: ignore[arg-type]
    return out.getvalue()
