"""On a schedule: hints at what drifted, metrics, and where the next run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from likeness.drift import Audit, Difference
from likeness.errors import ConfigurationError
from likeness.feeding import HintFeeder
from likeness.ports import HintQueue, ObjectListing, VectorIndex
from likeness.settings import Settings
from likeness.sync import settings_digest

# Of the note that says where the next run goes on.
_NOTE = "drift"


class Handler:
    """Lambda's entry. The event is the schedule's, and says nothing."""

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
        """Raises Unavailable where S3, SQS or Qdrant is down; the next run begins where this did.

        Raises ConfigurationError where no bucket is named.
        """
        if not self._settings.bucket:
            raise ConfigurationError("LIKENESS_BUCKET is not set")

        def left_s() -> float:
            return float(context.get_remaining_time_in_millis()) / 1000

        feeder = HintFeeder(self._queue, self._settings.max_waiting, left_s)

        def mend(found: list[Difference]) -> None:
            feeder.send([difference.ref for difference in found])
            for difference in found[:10]:
                self._logger.info("drift", key=difference.ref.key, kind=difference.kind.value)

        audit = Audit(
            self._store,
            self._index,
            self._settings.bucket,
            self._settings.prefix,
            settings_digest(
                self._settings.schema, self._settings.limits, self._settings.tenant_prefix
            ),
            mend,
            self._settings.event_lag_s,
        )
        start = self._start()
        report = audit.run(start, left_s)
        if report.next_start != start:
            self._index.put_note(_NOTE, "next", {"start": report.next_start})
        facts = {**msgspec.to_builtins(report), "drift": report.drift}
        self._logger.info("compared", report=facts)
        for name, count in (
            ("Drift", report.drift),
            ("Swept", report.swept),
            ("DriftUnfinished", int(not report.finished)),
        ):
            self._metrics.add_metric(name, MetricUnit.Count, count)
        self._metrics.flush_metrics()
        self._metrics.clear_metrics()
        return facts

    def _start(self) -> str:
        notes, _ = self._index.list_notes(_NOTE, 1)
        return str(notes[0]["start"]) if notes else ""
