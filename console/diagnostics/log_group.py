"""Reads the lines of a CloudWatch log group that contain a request's id."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from likeness.errors import ConfigurationError, Unavailable

_CONFIG = Config(connect_timeout=2, read_timeout=10, retries={"mode": "standard"})


def lines_of(
    log_group: str, request_id: str, days: int, client: Any = None
) -> Iterator[Mapping[str, Any]]:
    """The JSON lines of a log group with this request's id, oldest first.

    Raises ConfigurationError if the group does not exist or access is denied, Unavailable if
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
