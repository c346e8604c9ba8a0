"""Checks an installation, its model and its AWS resources, and says how to fix what is wrong."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from likeness.errors import LikenessError, ModelBundleError

from ..bundles.registry import BUNDLED_MODEL
from ..client import Client, ServiceError
from ..local.data_folder import LocalService
from .findings import Finding
from .index_check import check_index

# The first Pillow without CVE-2026-112403, a heap overflow in its JPEG decoder.
_SAFE_PILLOW = (13, 0, 0)


def diagnose(
    env: Mapping[str, str], service: LocalService | None, client: Client | None
) -> list[Finding]:
    """One finding for each part; a check that raises is a finding too."""
    folder = Path(env.get("LIKENESS_MODEL_DIR", BUNDLED_MODEL))
    bucket = service.bucket if service else env.get("LIKENESS_BUCKET")
    queue_url = service.queue_url if service else env.get("LIKENESS_QUEUE_URL")
    return [
        _versions(),
        *_guarded("model", lambda: _model(folder, client)),
        *_guarded("service", lambda: _service(client)),
        *check_index(env, service),
        *_guarded("bucket", lambda: _bucket(bucket, queue_url)),
        *_guarded("queue", lambda: _queue(queue_url)),
    ]


def _guarded(subject: str, check: Callable[[], Finding]) -> Iterator[Finding]:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield check()
    except ModelBundleError as error:
        yield Finding(
            subject, False, str(error), "Fetch the bundle again, or correct its model.json."
        )
    except (LikenessError, ServiceError) as error:
        yield Finding(subject, False, str(error))
    except (BotoCoreError, ClientError) as error:
        yield Finding(subject, False, str(error), "Check the AWS credentials, region and names.")


def _versions() -> Finding:
    names = ("pillow", "onnxruntime", "numpy", "qdrant-edge-py")
    found = f"Python {platform.python_version()}, " + ", ".join(f"{n} {version(n)}" for n in names)
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("versions", False, found, "Use Python 3.11, 3.12 or 3.13.")
    if tuple(int(part) for part in version("pillow").split(".")[:3]) < _SAFE_PILLOW:
        return Finding("versions", False, found, "Install Pillow 13.0.0 or newer: `make setup`.")
    return Finding("versions", True, found)


def _model(folder: Path, client: Client | None) -> Finding:
    from likeness.embedding import Embedder  # noqa: PLC0415

    embedder = Embedder(folder)
    found = f"{embedder.spec.name} {embedder.fingerprint}, {embedder.dim} dimensions, in {folder}"
    try:
        # the service has two models during a migration
        loaded = client.ready()["models"] if client else [embedder.fingerprint]
    except ServiceError:  # _service reports it
        return Finding("model", True, found)
    if embedder.fingerprint not in loaded:
        fix = "Set LIKENESS_MODEL_DIR to the bundle that the service was deployed with."
        found += f"; the service searches with {' and '.join(loaded)}"
        return Finding("model", False, found, fix)
    return Finding("model", True, found)


def _service(client: Client | None) -> Finding:
    if client is None:
        fix = "Start one with `likeness serve`, or name yours with --url or LIKENESS_URL."
        return Finding("service", False, "no local service is running", fix)
    try:
        ready = client.ready()
    except ServiceError as error:
        fix = "If it is running: index a first image, or check its QDRANT_URL, API key and log."
        if "LIKENESS_MODEL_DIR" in str(error):  # another model's index: the error says what to do
            fix = ""
        return Finding("service", False, str(error), fix)
    points = ready.get("points", "an undisclosed number of")  # absent with tenants
    return Finding("service", True, f"{points} points in {ready['collection']}")


def _bucket(bucket: str | None, queue_url: str | None) -> Finding:
    import boto3  # noqa: PLC0415

    if not bucket:
        return Finding("bucket", False, "no bucket is set", "Set LIKENESS_BUCKET.")
    s3 = boto3.client("s3")
    s3.head_bucket(Bucket=bucket)
    notified = s3.get_bucket_notification_configuration(Bucket=bucket)
    queue_name = (queue_url or "").rpartition("/")[2]
    arns = [q["QueueArn"] for q in notified.get("QueueConfigurations", [])]
    if not any(arn.endswith(f":{queue_name}") for arn in arns):
        fix = (
            "Uploads are not indexed: point the bucket's notification at the queue, as "
            "docs/runbook/drift.md describes. Deploying again does not fix it."
        )
        return Finding("bucket", False, f"{bucket} notifies {arns or 'no queue'}", fix)
    return Finding("bucket", True, f"{bucket} notifies {queue_name}")


def _queue(queue_url: str | None) -> Finding:
    import boto3  # noqa: PLC0415

    if not queue_url:
        return Finding("queue", False, "no queue is set", "Set LIKENESS_QUEUE_URL.")
    answer = boto3.client("sqs").get_queue_attributes(
        QueueUrl=queue_url,
        AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
    )
    found = answer["Attributes"]
    waiting = found["ApproximateNumberOfMessages"]
    in_flight = found["ApproximateNumberOfMessagesNotVisible"]
    return Finding("queue", True, f"{waiting} waiting, {in_flight} in flight")
