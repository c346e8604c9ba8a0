"""Event → hints: the objects to reconcile. Nothing else in an event is trusted.

Accepted events: SQS messages that carry S3 notifications (plain, or wrapped by SNS), EventBridge
events or our own hints, and each of these passed to the function directly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus

from likeness.errors import InvalidRequest
from likeness.records import Hint, ObjectRef

# The index holds two halves of 52 bits exactly; S3's sequencers have up to 72 bits.
_MAX_SEQUENCER = 1 << 104


def parse_message(body: str) -> list[Hint]:
    """The hints in one SQS message body. Raises InvalidRequest for an unknown format."""
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the message is not JSON") from error
    return parse_event(message)


def parse_event(event: Any) -> list[Hint]:
    """The hints in an S3 notification, an SNS envelope, an EventBridge event or our own hint.

    An s3:TestEvent has none. Raises InvalidRequest for anything else.
    """
    try:
        if event.get("Event") == "s3:TestEvent":
            return []
        if event.get("Type") == "Notification":
            return parse_message(event["Message"])
        if "detail" in event:
            return [_eventbridge_hint(event)]
        return [_s3_hint(record) for record in event["Records"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(f"not an event about an object: {error!r}") from error


def is_queue_event(event: Mapping[str, Any]) -> bool:
    records = event.get("Records")
    return isinstance(records, list) and bool(records) and "messageId" in records[0]


def _s3_hint(record: Mapping[str, Any]) -> Hint:
    s3 = record["s3"]
    # Keys in S3's notifications are form-encoded once (S3 user guide, "Event message structure").
    key = unquote_plus(s3["object"]["key"], errors="strict")
    return Hint(
        ObjectRef(_text(s3["bucket"]["name"]), _text(key)),
        _sequencer(s3["object"]),
        _time_s(record.get("eventTime")),
    )


def _eventbridge_hint(event: Mapping[str, Any]) -> Hint:
    detail = event["detail"]
    # EventBridge does not encode keys.
    ref = ObjectRef(_text(detail["bucket"]["name"]), _text(detail["object"]["key"]))
    return Hint(ref, _sequencer(detail["object"]), _time_s(event.get("time")))


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a name or key is missing")
    value.encode()  # raises ValueError for half a surrogate pair, which no S3 key contains
    return value


def _sequencer(s3_object: Mapping[str, Any]) -> int:
    sequencer = int(s3_object.get("sequencer") or "0", 16)
    if not 0 <= sequencer < _MAX_SEQUENCER:
        raise ValueError("a sequencer out of range")
    return sequencer


def _time_s(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None
