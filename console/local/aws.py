"""The local AWS: a MiniStack process with S3 and SQS, and the poller that Lambda would run."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

log = logging.getLogger(__name__)

BUCKET, QUEUE = "likeness-local", "likeness-index"
Handler = Callable[[Mapping[str, Any], Any], Mapping[str, Any]]
_REGION = "us-east-1"
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
}
# These settings of the user would take precedence over the local credentials.
_OVERRIDING = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN")
_START_TIMEOUT_S = 60
_BATCH = 10
_VISIBILITY_S = 60


def use_aws(aws_url: str) -> None:
    """Send every AWS call of this process to a local AWS, whatever the user has configured."""
    for name in _OVERRIDING:
        os.environ.pop(name, None)
    os.environ |= {
        **_CREDENTIALS,
        "AWS_ENDPOINT_URL": aws_url,
        "AWS_DEFAULT_REGION": _REGION,
        "AWS_REGION": _REGION,
    }


# --- the MiniStack process ---


@contextlib.contextmanager
def ministack(state: Path, services: str = "s3,sqs") -> Iterator[str]:
    """Run a local AWS on loopback that keeps its data in a folder; yields its URL."""
    state = state.resolve()
    state.mkdir(exist_ok=True)
    _stop_leftover(state)
    port = _free_port()
    environment = {
        **os.environ,
        **_CREDENTIALS,  # presigned URLs are checked with them
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "MINISTACK_HOST": "127.0.0.1",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(state / "state"),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(state / "s3"),
        "TMPDIR": str(state),
        "SERVICES": services,
        "LOG_LEVEL": "WARNING",
    }
    with (state / "ministack.log").open("wb") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"],
            env=environment,
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,  # Ctrl-C is for this process, which stops MiniStack last
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(f"{url}/_ministack/health", process, state / "ministack.log")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _stop_leftover(state: Path) -> None:
    """Stop the MiniStack of a service that was killed: it still writes to the same folder."""
    for pid_file in state.glob("ministack-*.pid"):
        pid = pid_file.read_text().strip()
        listed = subprocess.run(["ps", "-o", "args=", "-p", pid], capture_output=True, check=False)
        if b"ministack" in listed.stdout:
            os.kill(int(pid), signal.SIGKILL)
        pid_file.unlink(missing_ok=True)


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log_file: Path) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1):  # noqa: S310
            return
        time.sleep(0.05)
    raise RuntimeError(f"the local AWS did not start; see its log, {log_file}")


# --- what template.yaml would create, and Lambda would run ---


def create_bucket_and_queue() -> str:
    """Create the bucket that notifies the queue, unless they exist; returns the queue's URL."""
    import boto3  # noqa: PLC0415 - takes a moment

    s3, sqs = boto3.client("s3"), boto3.client("sqs")
    queue_url = sqs.create_queue(
        QueueName=QUEUE, Attributes={"VisibilityTimeout": str(_VISIBILITY_S)}
    )["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=BUCKET)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    # the web page is served from another port, and uploads straight to the bucket
    s3.put_bucket_cors(
        Bucket=BUCKET,
        CORSConfiguration={"CORSRules": [{"AllowedMethods": ["POST"], "AllowedOrigins": ["*"]}]},
    )
    s3.put_bucket_notification_configuration(
        Bucket=BUCKET,
        NotificationConfiguration={
            "QueueConfigurations": [
                {
                    "QueueArn": queue_arn["Attributes"]["QueueArn"],
                    "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
                }
            ]
        },
    )
    return queue_url


@contextlib.contextmanager
def poller(queue_url: str, handler: Handler) -> Iterator[None]:
    """Invoke the handler with the queue's messages, in a thread, as Lambda's poller does."""
    import boto3  # noqa: PLC0415 - takes a moment

    stop = threading.Event()
    sqs = boto3.client("sqs")

    def poll() -> None:
        while not stop.is_set():
            try:
                poll_once(sqs, queue_url, handler)
            # like Lambda, go on after any error of the function: the queue redelivers the messages
            except Exception:
                log.exception("a batch failed and will be retried")
                stop.wait(1)

    thread = threading.Thread(target=poll, name="poller")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def poll_once(sqs: SQSClient, queue_url: str, handler: Handler, wait_s: int = 1) -> int:
    """Receive one batch, invoke the handler, delete the messages that did not fail.

    Returns the number of messages deleted.
    """
    messages = sqs.receive_message(
        QueueUrl=queue_url,
        MaxNumberOfMessages=_BATCH,
        WaitTimeSeconds=wait_s,
        AttributeNames=["All"],
    ).get("Messages", [])
    if not messages:
        return 0
    records = [
        {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message.get("Attributes", {}),
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "awsRegion": _REGION,
        }
        for message in messages
    ]
    context = SimpleNamespace(function_name="index", aws_request_id="local")
    failed = {
        failure["itemIdentifier"]
        for failure in handler({"Records": records}, context)["batchItemFailures"]
    }
    done = [m for m in messages if m["MessageId"] not in failed]
    if done:
        sqs.delete_message_batch(
            QueueUrl=queue_url,
            Entries=[
                {"Id": str(i), "ReceiptHandle": m["ReceiptHandle"]} for i, m in enumerate(done)
            ],
        )
    return len(done)
