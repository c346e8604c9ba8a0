"""Announcing duplicates on an EventBridge bus, so that whoever uploaded can react."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import boto3
import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from likeness.errors import StoreUnavailable
from likeness.records import Point

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient

SOURCE, DETAIL_TYPE = "likeness", "Duplicate Found"
_BATCH = 10  # PutEvents takes so many


class EventBus:
    def __init__(self, name: str, client: EventBridgeClient | None = None) -> None:
        """`name` is the bus's name or ARN."""
        self._name = name
        self._client: Any = client or boto3.client("events")

    def announce(self, points: Sequence[Point]) -> None:
        """One event for each point, with its partners. Raises StoreUnavailable where one was not
        taken: those before it were.
        """
        for at in range(0, len(points), _BATCH):
            entries = [self._entry(point) for point in points[at : at + _BATCH]]
            try:
                answer = self._client.put_events(Entries=entries)
            except (BotoCoreError, ClientError) as error:
                raise StoreUnavailable(f"the event bus is not answering: {error}") from error
            if answer.get("FailedEntryCount"):
                why = next(e for e in answer["Entries"] if "ErrorCode" in e)
                raise StoreUnavailable(f"the event bus refused an event: {why['ErrorCode']}")

    def _entry(self, point: Point) -> dict[str, str]:
        detail = {
            "bucket": point.ref.bucket,
            "key": point.ref.key,
            "id": point.id,
            "original": point.original or point.id,
            "duplicates": msgspec.to_builtins(point.partners),
        }
        return {
            "EventBusName": self._name,
            "Source": SOURCE,
            "DetailType": DETAIL_TYPE,
            "Detail": json.dumps(detail),
        }
