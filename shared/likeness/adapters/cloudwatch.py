"""CloudWatch: how many answers of which kind the search function gave, and what one log says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from likeness.errors import ConfigurationError, Unavailable
from likeness.health import BANDS, VERDICTS, Counts

_CONFIG = Config(connect_timeout=2, read_timeout=10, retries={"mode": "standard"})
_PERIOD_S = 3600


class AnswerCounts:
    """The search function's metrics in one namespace."""

    def __init__(self, namespace: str, client: Any = None) -> None:
        self._namespace = namespace
        self._client = client or boto3.client("cloudwatch", config=_CONFIG)

    def last(self, hours: int) -> Counts:
        """Raises Unavailable."""
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
        return Counts(
            {name: totals[f"v{n}"] for n, name in enumerate(VERDICTS)},
            {name: totals[f"b{n}"] for n, name in enumerate(BANDS)},
        )

    def _query(self, query_id: str, metric: str, dimension: str, value: str) -> dict[str, Any]:
        dimensions = [
            {"Name": "service", "Value": "search"},
            {"Name": dimension, "Value": value},
        ]
        named = {"Namespace": self._namespace, "MetricName": metric, "Dimensions": dimensions}
        return {
            "Id": query_id,
            "MetricStat": {"Metric": named, "Period": _PERIOD_S, "Stat": "Sum"},
        }


def lines_of(
    log_group: str, request_id: str, days: int, client: Any = None
) -> Iterator[Mapping[str, Any]]:
    """The JSON lines of a log group that name this request, oldest first.

    Raises ConfigurationError where there is no such group or it may not be read, Unavailable where
    CloudWatch does not answer.
    """
    since = datetime.now(UTC) - timedelta(days=days)
    try:
        logs = client or boto3.client("logs", config=_CONFIG)
        pages = logs.get_paginator("filter_log_events").paginate(
            logGroupName=log_group,
            startTime=int(since.timestamp() * 1000),
            filterPattern=f'"{request_id}"',
        )
        for page in pages:
            for event in page["events"]:
                if event["message"].startswith("{"):
                    yield json.loads(event["message"])
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("ResourceNotFoundException", "AccessDeniedException"):
            raise ConfigurationError(f"the log group {log_group}: {code}") from error
        raise Unavailable(f"CloudWatch Logs answered {code}") from error
    except BotoCoreError as error:
        raise Unavailable(f"CloudWatch Logs is not answering: {error}") from error
