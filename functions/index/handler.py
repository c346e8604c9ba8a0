"""A batch of messages → one reconciliation → the messages that SQS must deliver again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from likeness.errors import IndexFull, InvalidRequest, Unavailable
from likeness.indexers import Indexers
from likeness.indexing import Indexer, Outcome, Result
from likeness.records import Hint
from likeness.stopwatch import Stopwatch

from .events import is_queue_event, parse_event, parse_message

Event = Mapping[str, Any]
_METRIC_NAMES = {Result.UNCHANGED: "Skipped"}
_STAGES_MS = {"embed": "EmbedMs", "qdrant": "QdrantMs", "proof": "ProofMs"}


class Handler:
    """Lambda's entry point: an SQS batch may fail in part, a direct event only as a whole."""

    def __init__(
        self, indexer: Indexer | Indexers, logger: Logger, metrics: Metrics, watch: Stopwatch
    ) -> None:
        """`watch` times the stages of this indexer."""
        self._indexer = indexer
        self._logger = logger
        self._metrics = metrics
        self._watch = watch
        self._cold = True

    def __call__(self, event: Event, context: Any) -> dict[str, Any]:
        """Raises Unavailable for a direct event that failed, so that its sender retries it."""
        if is_queue_event(event):
            return self._process_queue(event["Records"])
        outcomes = self._reconcile(parse_event(event))
        failed = [outcome for outcome in outcomes.values() if outcome.error]
        if failed:
            raise Unavailable(f"{len(failed)} objects must be retried: {failed[0].error}")
        return {"indexed": sum(o.result is Result.INDEXED for o in outcomes.values())}

    def _process_queue(self, records: list[Event]) -> dict[str, Any]:
        hints: dict[str, list[Hint]] = {}
        failures = []
        for record in records:
            try:
                hints[record["messageId"]] = parse_message(record["body"])
            except InvalidRequest as error:
                # It names no object to reject: after its retries it goes to the dead-letter queue.
                self._logger.error(
                    "unreadable message", message_id=record["messageId"], why=str(error)
                )
                failures.append(record["messageId"])
        outcomes = self._reconcile([hint for of_message in hints.values() for hint in of_message])
        failures += [
            message
            for message, of_message in hints.items()
            if any(outcomes[hint.ref].error for hint in of_message)
        ]
        return {"batchItemFailures": [{"itemIdentifier": message} for message in failures]}

    def _reconcile(self, hints: list[Hint]) -> Mapping[Any, Outcome]:
        self._watch.took_ms.clear()
        outcomes = self._indexer.reconcile(hints)
        for outcome in outcomes.values():
            self._report(outcome)
        if outcomes:
            self._publish_metrics(hints)
        return outcomes

    def _publish_metrics(self, hints: list[Hint]) -> None:
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
        self._metrics.clear_metrics()  # with metrics disabled, flushing keeps them

    def _count(self, outcome: Outcome) -> None:
        name = _METRIC_NAMES.get(outcome.result, outcome.result.value.capitalize())
        self._metrics.add_metric(name, MetricUnit.Count, 1)
        self._metrics.add_metric("ReconcileLoops", MetricUnit.Count, outcome.loops)
        if isinstance(outcome.error, IndexFull):
            self._metrics.add_metric("IndexFull", MetricUnit.Count, 1)
        if outcome.result is Result.REJECTED:
            # logged separately: powertools adds a dimension to every metric of its log line
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
