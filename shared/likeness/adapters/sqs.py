"""HintQueue over SQS."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from likeness.errors import StoreUnavailable
from likeness.feeding import batches
from likeness.records import ObjectRef

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

_BATCH = 10


class SqsQueue:
    def __init__(self, url: str, client: SQSClient | None = None) -> None:
        self._url = url
        self._client: SQSClient = client or boto3.client("sqs")

    def send(self, refs: Iterable[ObjectRef]) -> int:
        """Raises StoreUnavailable where a hint was not accepted; sending all again is harmless."""
        sent = 0
        for batch in batches(refs, _BATCH):
            entries = [{"Id": str(i), "MessageBody": hint_message(r)} for i, r in enumerate(batch)]
            try:
                answer = self._client.send_message_batch(QueueUrl=self._url, Entries=entries)  # type: ignore[arg-type]
            except (BotoCoreError, ClientError) as error:
                raise StoreUnavailable(f"the queue is not answering: {error}") from error
            if answer.get("Failed"):
                raise StoreUnavailable(f"the queue refused a hint: {answer['Failed'][0]}")
            sent += len(batch)
        return sent

    def depth(self) -> int:
        name: Literal["ApproximateNumberOfMessages"] = "ApproximateNumberOfMessages"
        try:
            answer = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=[name])
        except (BotoCoreError, ClientError) as error:
            raise StoreUnavailable(f"the queue is not answering: {error}") from error
        return int(answer["Attributes"][name])


def hint_message(ref: ObjectRef) -> str:
    """A hint in the format of EventBridge's “Object Created”, so that one parser reads both."""
    return json.dumps(
        {
            "source": "likeness",
            "detail-type": "Hint",
            "detail": {"bucket": {"name": ref.bucket}, "object": {"key": ref.key}},
        }
    )
