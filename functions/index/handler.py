"""A batch of messages → one reconciliation → which messages the queue must keep."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from likeness.errors import InvalidRequest, Unavailable
from likeness.indexers import Indexers
from likeness.indexing import Indexer, Outcome, Result
from likeness.records import Hint
from likeness.stopwatch import Stopwatch

from .events import is_queue_event, parse_event, parse_message

Event = Mapping[str, Any]
_NAMES = {Result.UNCHANGED: "Skipped"}
_STAGES_MS = {"embed": "EmbedMs", "qdrant": "QdrantMs"}


class Handler:
    """Lambda's entry: an SQS batch is answered in part, a direct event as a whole."""

    def __init__(
        self, indexer: Indexer | Indexers, logger: Logger, metrics: Metrics, watch: Stopwatch
    ) -> None:
        """`watch` is the one that the indexer's stages are timed with."""
        self._indexer = indexer
        self._logger = logger
        self._metrics = metrics
        self._watch = watch
        self._cold = True

    def __call__(self, event: Event, context: Any) -> dict[str, Any]:
        """Raises Unavailable for a direct event that must be tried again: its sender repeats it."""
        if is_queue_event(event):
            return self._queue(event["Records"])
        outcomes = self._reconcile(parse_event(event))
        failed = [outcome for outcome in outcomes.values() if outcome.error]
        if failed:
            raise Unavailable(f"{len(failed)} objects must be tried again: {failed[0].error}")
        return {"indexed": sum(o.result is Result.INDEXED for o in outcomes.values())}

    def _queue(self, records: list[Event]) -> dict[str, Any]:
        hints: dict[str, list[Hint]] = {}
        failures = []
        for record in records:
            try:
                hints[record["messageId"]] = parse_message(record["body"])
            except InvalidRequest as error:
                # No object to record it at: after its retries it waits in the dead-letter queue.
                self._logger.error(
                    "unreadable message", message_id=record["messageId"], why=str(error)
                )
                failures.append(record["messageId"])
        outcomes = self._reconcile([hint for listed in hints.values() for hint in listed])
        failures += [
            message
            for message, listed in hints.items()
            if any(outcomes[hint.ref].error for hint in listed)
        ]
        return {"batchItemFailures": [{"itemIdentifier": message} for message in failures]}

    def _reconcile(self, hints: list[Hint]) -> Mapping[Any, Outcome]:
        self._watch.took_ms.clear()
        outcomes = self._indexer.reconcile(hints)
        for outcome in outcomes.values():
            self._report(outcome)
        if outcomes:
            self._measure(hints)
        return outcomes

    def _measure(self, hints: list[Hint]) -> None:
        self._metrics.add_metric("ColdStart", MetricUnit.Count, int(self._cold))
        self._cold = False
        for stage, took_ms in self._watch.took_ms.items():
            self._metrics.add_metric(_STAGES_MS[stage], MetricUnit.Milliseconds, took_ms)
        now_s = time.time()
        for hint in hints:
            if hint.event_time_s is not None:
                lag_s = max(0.0, now_s - hint.event_time_s)
                self._metrics.add_metric("EventLagSeconds", MetricUnit.Seconds, lag_s)
        self._metrics.flush_metrics()
        self._metrics.clear_metrics()  # flushing leaves them where metrics are switched off

    def _count(self, outcome: Outcome) -> None:
        name = _NAMES.get(outcome.result, outcome.result.value.capitalize())
        self._metrics.add_metric(name, MetricUnit.Count, 1)
        self._metrics.add_metric("ReconcileLoops", MetricUnit.Count, outcome.loops)
        if outcome.result is Result.REJECTED:
            # a line of its own: powertools gives a dimension to all metrics of a line
            by_reason = EphemeralMetrics(
                namespace=self._metrics.namespace, service=self._metrics.service
            )
            by_reason.add_dimension("reason", str(outcome.reason))
            by_reason.add_metric(name, MetricUnit.Count, 1)
            by_reason.flush_metrics()

    def _report(self, outcome: Outcome) -> None:
        self._count(outcome)
        facts: dict[str, Any] = {
            "key": outcome.ref.key,
            "result": outcome.result.value,
            "reason": outcome.reason,
            "loops": outcome.loops,
        }
        if outcome.error:
            self._logger.warning("to be tried again", why=str(outcome.error), **facts)
        else:
            self._logger.info("reconciled", **facts)
        if outcome.unannounced:
            self._metrics.add_metric("Unannounced", MetricUnit.Count, 1)
            self._logger.warning(
                "duplicates not announced", key=outcome.ref.key, why=outcome.unannounced
            )
