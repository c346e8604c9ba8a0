"""The whole service on this machine: a local AWS, both functions' real handlers, embedded Qdrant.

MiniStack gives S3, S3's events and SQS over their real APIs, on loopback. A thread feeds the index
handler as Lambda's poller would; the search function's app answers on a local port. All data stands
in one folder and is still there after a restart.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3

from likeness.adapters.index import open_index
from likeness.adapters.s3 import S3Store
from likeness.adapters.sqs import SqsQueue
from likeness.errors import IndexMissing
from likeness.ports import VectorIndex
from likeness.settings import Settings
from likeness.sync import settings_digest

from . import index_sharing

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

log = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel the model stands inside the package, in the repository beside it.
BUNDLED_MODEL = next(
    folder
    for folder in (_PACKAGE / "model", _PACKAGE.parent / "layers" / "model")
    if folder.is_dir()
)
DEFAULT_DATA = Path(".likeness")
# Held while a service runs; its presence tells that a folder is a service's.
LOCK = "lock"
STATE = "service.json"
# A line about each answer of the local service, for `likeness explain`.
ANSWERS = "answers.jsonl"
BUCKET, QUEUE = "likeness-local", "likeness-index"
_REGION = "us-east-1"
_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
}
_USERS_OWN = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN")
_START_TIMEOUT_S = 60
_BATCH = 10
_VISIBILITY_S = 60


@dataclass(frozen=True)
class LocalService:
    """Where a running local service can be reached; DATA/service.json tells the command."""

    api_url: str
    aws_url: str
    bucket: str
    queue_url: str
    pid: int
    index_port: int
    index_key: str  # of index_sharing.shared
    settings: str  # what points are indexed under, agreement.settings_digest

    @classmethod
    def running(cls, data: Path) -> LocalService | None:
        """The service that keeps its data in this folder, if it is up."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            service = cls(**json.loads((data / STATE).read_text()))
            os.kill(service.pid, 0)
            return service
        return None


def use_aws(aws_url: str) -> None:
    """Point every AWS call of this process at a local AWS, whatever the user's own settings are."""
    for name in _USERS_OWN:
        os.environ.pop(name, None)
    os.environ |= {
        **_CREDENTIALS,
        "AWS_ENDPOINT_URL": aws_url,
        "AWS_DEFAULT_REGION": _REGION,
        "AWS_REGION": _REGION,
    }


@contextlib.contextmanager
def run(
    data: Path,
    port: int,
    environment: Mapping[str, str],
) -> Iterator[LocalService]:
    """Start everything, yield once it answers, stop everything.

    `environment` holds further settings (see Settings.from_env). Raises RuntimeError where another
    service keeps its data in the folder, or the port is taken.
    """
    data.mkdir(parents=True, exist_ok=True)
    with _locked(data), ministack(data / "aws") as aws_url:
        use_aws(aws_url)
        queue_url = _create_bucket_and_queue()
        os.environ |= {
            "QDRANT_URL": (data / "index").resolve().as_uri(),
            "LIKENESS_MODEL_DIR": os.environ.get("LIKENESS_MODEL_DIR", str(BUNDLED_MODEL)),
            "LIKENESS_BUCKET": BUCKET,
            "LIKENESS_QUEUE_URL": queue_url,
            "LIKENESS_UPLOAD_PREFIX": "uploads/",
            "LIKENESS_ANSWER_LOG": str(data / ANSWERS),
            "POWERTOOLS_METRICS_DISABLED": "true",
            "POWERTOOLS_LOG_LEVEL": os.environ.get("POWERTOOLS_LOG_LEVEL", "CRITICAL"),
            **environment,
        }
        _load_both_models()
        # the functions' composition roots read the environment when they are imported
        from . import functions  # noqa: PLC0415

        index = functions.index

        _hint_at_everything(queue_url, index)
        key = secrets.token_hex(32)
        with (
            _poller(queue_url, functions.index_handler),
            index_sharing.shared(index, key.encode()) as index_port,
            http_server(functions.search_app, port) as api_url,
        ):
            settings = Settings.from_env(os.environ)
            digest = settings_digest(settings.schema, settings.limits, settings.tenant_prefix)
            service = LocalService(
                api_url, aws_url, BUCKET, queue_url, os.getpid(), index_port, key, digest
            )
            state = data / STATE
            state.unlink(missing_ok=True)
            state.touch(0o600)  # it holds a key
            state.write_text(json.dumps(asdict(service)))
            try:
                yield service
            finally:
                state.unlink(missing_ok=True)
        index.close()


def _load_both_models() -> None:
    """Where a migration is under way: the index knows of it, and outlives this process."""
    from ..migration import lifecycle  # noqa: PLC0415 - loads onnxruntime, as the functions will

    migration = lifecycle.underway(open_index(Settings.from_env(os.environ)))
    if migration:
        os.environ.setdefault("LIKENESS_NEXT_MODEL_DIR", migration.bundle)


@contextlib.contextmanager
def _locked(data: Path) -> Iterator[None]:
    """One service for each folder, or the second would stop the first one's MiniStack."""
    with (data / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            running = LocalService.running(data)
            who = f"process {running.pid}, {running.api_url}" if running else "just starting"
            raise RuntimeError(
                f"a service ({who}) keeps its data in {data}: stop it with Ctrl-C there, "
                "or take another folder with --data"
            ) from None
        yield


def _hint_at_everything(queue_url: str, index: VectorIndex) -> None:
    """Events were lost if the local AWS was killed; looking at every object mends what they did."""
    refs = set(S3Store().list(BUCKET, ""))
    with contextlib.suppress(IndexMissing):
        cursor = None
        while True:
            page = index.scroll(1000, cursor)
            refs |= {point.ref for point in page.points}
            cursor = page.next_cursor
            if cursor is None:
                break
    SqsQueue(queue_url).send(sorted(refs))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def ministack(state: Path, services: str = "s3,sqs") -> Iterator[str]:
    """A local AWS on loopback that keeps its data in a folder; yields its URL."""
    state = state.resolve()
    state.mkdir(exist_ok=True)
    _stop_leftover(state)
    port = _free_port()
    environment = {
        **os.environ,
        **_CREDENTIALS,  # presigned URLs are checked against them
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
    with (state / "ministack.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a Ctrl-C is for us: we stop it once nothing calls it any more
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


def _stop_leftover(state: Path) -> None:
    """A service that was killed leaves its MiniStack behind, which would keep the same folder."""
    for pid_file in state.glob("ministack-*.pid"):
        pid = pid_file.read_text().strip()
        listed = subprocess.run(["ps", "-o", "args=", "-p", pid], capture_output=True, check=False)
        if b"ministack" in listed.stdout:
            os.kill(int(pid), signal.SIGKILL)
        pid_file.unlink(missing_ok=True)


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1):  # noqa: S310
            return
        time.sleep(0.05)
    raise RuntimeError(f"the local AWS did not start; its log is {log}")


def _create_bucket_and_queue() -> str:
    """The parts of template.yaml that events flow through; harmless to repeat."""
    s3, sqs = boto3.client("s3"), boto3.client("sqs")
    queue_url = sqs.create_queue(
        QueueName=QUEUE, Attributes={"VisibilityTimeout": str(_VISIBILITY_S)}
    )["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    with contextlib.suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=BUCKET)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    # the page, at another port, sends its uploads straight to the bucket
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
def _poller(
    queue_url: str,
    handler: Callable[[Mapping[str, Any], Any], Mapping[str, Any]],
) -> Iterator[None]:
    stop = threading.Event()
    sqs = boto3.client("sqs")

    def poll() -> None:
        while not stop.is_set():
            try:
                feed(sqs, queue_url, handler)
            # Lambda goes on after any error of a function, and so must this: the message comes back
            except Exception:
                log.exception("a batch failed; it is tried again")
                stop.wait(1)

    thread = threading.Thread(target=poll, name="poller")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def feed(
    sqs: SQSClient,
    queue_url: str,
    handler: Callable[[Mapping[str, Any], Any], Mapping[str, Any]],
    wait_s: int = 1,
) -> int:
    """One turn of Lambda's poller: receive, invoke, delete all that did not fail.

    Returns how many messages were worked off.
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


@contextlib.contextmanager
def http_server(app: Any, port: int) -> Iterator[str]:
    import uvicorn  # noqa: PLC0415 - only the commands that serve need it

    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="http")
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError(f"port {port} is taken; choose another with --port")
            time.sleep(0.02)
        [listening] = server.servers[0].sockets
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
