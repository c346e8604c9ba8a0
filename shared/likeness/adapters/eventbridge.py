"""Announces duplicates and variants on an EventBridge bus, so that the uploader can react."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import boto3
import msgspec
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from likeness.errors import Unavailable
from likeness.records import Point, Relation

if TYPE_CHECKING:
    from mypy_boto3_events import EventBridgeClient

SOURCE = "likeness"
# Whoever deletes what the first type names must never get an image that only has variants.
DETAIL_TYPES = {Relation.DUPLICATE: "Duplicate Found", Relation.VARIANT: "Variant Found"}
# PutEvents takes ten, but these may have 21 keys of 1,024 bytes each, and it took 256 KB in all.
_BATCH = 5
# Points store the duplicates too, so indexing waits for at most ten seconds of its minute.
_CONFIG = Config(
    connect_timeout=2, read_timeout=3, retries={"mode": "standard", "total_max_attempts": 2}
)


class EventBus:
    def __init__(self, name: str, client: EventBridgeClient | None = None) -> None:
        """`name` is the bus's name or ARN."""
        self._name = name
        self._client: Any = client or boto3.client("events", config=_CONFIG)

    def announce(self, points: Sequence[Point]) -> None:
        """Send one event for each point, with its duplicates and variants.

        Raises Unavailable where the bus did not accept all of them.
        """
        for at in range(0, len(points), _BATCH):
            entries = [self._entry(point) for point in points[at : at + _BATCH]]
            try:
                answer = self._client.put_events(Entries=entries)
            except (BotoCoreError, ClientError) as error:
                raise Unavailable(f"the event bus is not answering: {error}") from error
            refused = [entry["ErrorCode"] for entry in answer["Entries"] if "ErrorCode" in entry]
            if refused:
                raise Unavailable(f"the event bus refused {len(refused)} events: {refused[0]}")

    def _entry(self, point: Point) -> dict[str, str]:
        relation = Relation.DUPLICATE if point.partners else Relation.VARIANT
        of_relation = point.membership(relation)
        detail = {
            "bucket": point.ref.bucket,
            "key": point.ref.key,
            "id": point.id,
            "group": of_relation.group,
            "original": of_relation.original or point.id,
            "duplicates": point.partners,
            "variants": point.variants,
            **({"tenant": point.tenant} if point.tenant else {}),
        }
        return {
            "EventBusName": self._name,
            "Source": SOURCE,
            "DetailType": DETAIL_TYPES[relation],
            "Detail": msgspec.json.encode(detail).decode(),
        }
