"""CloudWatch metrics: the search function's answers, counted by verdict and by score."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from likeness.answer_shift import BANDS, VERDICTS, AnswerDistribution
from likeness.errors import Unavailable

_CONFIG = Config(connect_timeout=2, read_timeout=10, retries={"mode": "standard"})
_PERIOD_S = 3600


class AnswerMetrics:
    """The search function's answer metrics in one namespace."""

    def __init__(self, namespace: str, client: Any = None) -> None:
        self._namespace = namespace
        self._client = client or boto3.client("cloudwatch", config=_CONFIG)

    def last(self, hours: int) -> AnswerDistribution:
        """Counts of the last hours, by verdict and by score band. Raises Unavailable."""
        queries = [
            *(self._query(f"v{n}", "VerdictCount", "verdict", v) for n, v in enumerate(VERDICTS)),
            *(self._query(f"b{n}", "ScoreCount", "band", b) for n, b in enumerate(BANDS)),
        ]
        now = datetime.now(UTC)
        pages = self._client.get_paginator("get_metric_data").paginate(
            MetricDataQueries=queries, StartTime=now - timedelta(hours=hours), EndTime=now
        )
        totals = dict.fromkeys((query["Id"] for query in queries), 0.0)
        try:
            for page in pages:
                for result in page["MetricDataResults"]:
                    totals[result["Id"]] += sum(result["Values"])
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(f"CloudWatch is not answering: {error}") from error
        return AnswerDistribution(
            {name: totals[f"v{n}"] for n, name in enumerate(VERDICTS)},
            {name: totals[f"b{n}"] for n, name in enumerate(BANDS)},
        )

    def _query(self, query_id: str, metric: str, dimension: str, value: str) -> dict[str, Any]:
        dimensions = [
            {"Name": "service", "Value": "search"},
            {"Name": dimension, "Value": value},
        ]
        metric_id = {"Namespace": self._namespace, "MetricName": metric, "Dimensions": dimensions}
        return {
            "Id": query_id,
            "MetricStat": {"Metric": metric_id, "Period": _PERIOD_S, "Stat": "Sum"},
        }
