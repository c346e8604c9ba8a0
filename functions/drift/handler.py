"""On a schedule: finds drift, sends hints for it, publishes metrics, notes the next start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from likeness.drift import Difference, DriftConfig, DriftDetector
from likeness.errors import ConfigurationError
from likeness.feeding import HintFeeder
from likeness.ports import HintQueue, ObjectListing, VectorIndex
from likeness.settings import Settings
from likeness.sync import settings_digest

# The kind of the note that holds where the next run starts.
_NOTE = "drift"


class Handler:
    """Lambda's entry point. The event is the schedule's, and is not read."""

    def __init__(
        self,
        store: ObjectListing,
        index: VectorIndex,
        queue: HintQueue,
        settings: Settings,
        logger: Logger,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._index = index
        self._queue = queue
        self._settings = settings
        self._logger = logger
        self._metrics = metrics

    def __call__(self, event: Any, context: Any) -> Mapping[str, Any]:
        """Raises Unavailable if S3, SQS or Qdrant is down; the next run starts where this one did.

        Raises ConfigurationError if no bucket is set.
        """
        settings = self._settings
        if not settings.bucket:
            raise ConfigurationError("LIKENESS_BUCKET is not set")

        def left_s() -> float:
            return float(context.get_remaining_time_in_millis()) / 1000

        feeder = HintFeeder(self._queue, settings.max_waiting, left_s)

        def repair(found: list[Difference]) -> None:
            feeder.send([difference.ref for difference in found])
            for difference in found[:10]:
                self._logger.info("drift", key=difference.ref.key, kind=difference.kind.value)

        digest = settings_digest(settings.schema, settings.limits, settings.tenant_prefix)
        config = DriftConfig(settings.bucket, settings.prefix, digest, settings.event_lag_s)
        detector = DriftDetector(self._store, self._index, config, repair)
        start = self._start()
        report = detector.run(start, left_s)
        if report.next_start != start:
            self._index.put_note(_NOTE, "next", {"start": report.next_start})
        facts = {**msgspec.to_builtins(report), "drift": report.drift}
        self._logger.info("compared", report=facts)
        for name, count in (
            ("Drift", report.drift),
            ("Swept", report.swept),
            ("ReplicasDiffer", report.differing),
            ("DriftUnfinished", int(not report.finished)),
        ):
            self._metrics.add_metric(name, MetricUnit.Count, count)
        self._metrics.flush_metrics()
        self._metrics.clear_metrics()
        return facts

    def _start(self) -> str:
        notes, _ = self._index.list_notes(_NOTE, 1)
        return str(notes[0]["start"]) if notes else ""
