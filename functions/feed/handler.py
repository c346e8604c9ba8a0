"""A batch of a bucket's listing → hints on the queue; a step of the backfill state machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools import Logger

from likeness.errors import ConfigurationError, InvalidRequest
from likeness.feeding import HintFeeder, may_be_image
from likeness.ports import HintQueue
from likeness.records import ObjectRef
from likeness.settings import Settings


class Handler:
    """Lambda's entry point. The event comes from the Distributed Map's ItemBatcher:

    {"BatchInput": {"all": false}, "Items": [{"Key": "a.jpg", "Size": 7}]}
    """

    def __init__(self, queue: HintQueue, settings: Settings, logger: Logger) -> None:
        self._queue = queue
        self._settings = settings
        self._logger = logger

    def __call__(self, event: Mapping[str, Any], context: Any) -> dict[str, int]:
        """Raises QueueFull if enough hints wait: the state machine retries, at growing intervals.

        Raises StoreUnavailable if the queue refused a hint, InvalidRequest for other events.
        """
        bucket = self._settings.bucket
        if not bucket:
            raise ConfigurationError("LIKENESS_BUCKET is not set")
        try:
            items = [(str(item["Key"]), int(item["Size"])) for item in event["Items"]]
            include_all = bool(event.get("BatchInput", {}).get("all"))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidRequest(f"not a batch of a listing: {error!r}") from error
        refs = [ObjectRef(bucket, k) for k, size in items if include_all or may_be_image(k, size)]
        # Do not wait here: a waiting function costs money, a waiting state machine does not.
        HintFeeder(self._queue, self._settings.max_waiting, left_s=lambda: 0.0).send(refs)
        skipped = len(items) - len(refs)
        self._logger.info("hinted", sent=len(refs), skipped=skipped)
        return {"sent": len(refs), "skipped": skipped}
