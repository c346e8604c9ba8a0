"""`likeness doctor`: what is wrong, and how to mend it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from likeness.errors import LikenessError, ModelBundleError

from ..client import Client, ServiceError
from ..local.runner import BUNDLED_MODEL, LocalService

# The first Pillow without CVE-2026-112403, a heap overflow in its JPEG decoder.
_SAFE_PILLOW = (13, 0, 0)


@dataclass(frozen=True)
class Finding:
    subject: str
    ok: bool
    found: str
    mend: str = ""


def show(findings: Sequence[Finding], out: Console) -> bool:
    """Print findings; returns whether all is well."""
    for finding in findings:
        mark = "[green]ok   [/green]" if finding.ok else "[red]wrong[/red]"
        out.print(f"{mark} [bold]{finding.subject}[/bold]  {escape(finding.found)}")
        if finding.mend:
            out.print(f"      {escape(finding.mend)}")
    return all(finding.ok for finding in findings)


def examine(
    env: Mapping[str, str], service: LocalService | None, client: Client | None
) -> list[Finding]:
    """One finding for each part; a part that raises is a finding, never the end."""
    folder = Path(env.get("LIKENESS_MODEL_DIR", BUNDLED_MODEL))
    bucket = service.bucket if service else env.get("LIKENESS_BUCKET")
    queue_url = service.queue_url if service else env.get("LIKENESS_QUEUE_URL")
    return [
        _versions(),
        *_guarded("model", lambda: _model(folder, client)),
        *_guarded("service", lambda: _service(client)),
        *_guarded("bucket", lambda: _bucket(bucket, queue_url)),
        *_guarded("queue", lambda: _queue(queue_url)),
    ]


def _guarded(subject: str, check: Callable[[], Finding]) -> Iterator[Finding]:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield check()
    except ModelBundleError as error:
        yield Finding(subject, False, str(error), "Fetch the bundle anew, or mend its model.json.")
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
        # during a migration the service has two
        loaded = client.ready()["models"] if client else [embedder.fingerprint]
    except ServiceError:
        return Finding("model", True, found)
    if embedder.fingerprint not in loaded:
        mend = "Set LIKENESS_MODEL_DIR to the bundle that the service was deployed with."
        told = f"{found}; the service searches with {' and '.join(loaded)}"
        return Finding("model", False, told, mend)
    return Finding("model", True, found)


def _service(client: Client | None) -> Finding:
    if client is None:
        mend = "Start one with `likeness serve`, or name yours with --url or LIKENESS_URL."
        return Finding("service", False, "none is running here", mend)
    try:
        ready = client.ready()
    except ServiceError as error:
        mend = "If it is up: index a first image, or check its QDRANT_URL, its key and its log."
        if "LIKENESS_MODEL_DIR" in str(error):  # another model's index: it says itself what to do
            mend = ""
        return Finding("service", False, str(error), mend)
    points = ready.get("points", "untold")  # where there are tenants
    return Finding("service", True, f"{points} points in {ready['collection']}")


def _bucket(bucket: str | None, queue_url: str | None) -> Finding:
    import boto3  # noqa: PLC0415

    if not bucket:
        return Finding("bucket", False, "none is named", "Set LIKENESS_BUCKET.")
    s3 = boto3.client("s3")
    s3.head_bucket(Bucket=bucket)
    notified = s3.get_bucket_notification_configuration(Bucket=bucket)
    queue_name = (queue_url or "").rpartition("/")[2]
    arns = [q["QueueArn"] for q in notified.get("QueueConfigurations", [])]
    if not any(arn.endswith(f":{queue_name}") for arn in arns):
        mend = (
            "Uploads are not indexed: point the bucket's notification at the queue, as "
            "docs/runbook/drift.md says; to deploy anew does not mend it."
        )
        return Finding("bucket", False, f"{bucket} notifies {arns or 'nobody'}", mend)
    return Finding("bucket", True, f"{bucket} notifies {queue_name}")


def _queue(queue_url: str | None) -> Finding:
    import boto3  # noqa: PLC0415

    if not queue_url:
        return Finding("queue", False, "none is named", "Set LIKENESS_QUEUE_URL.")
    answer = boto3.client("sqs").get_queue_attributes(
        QueueUrl=queue_url,
        AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
    )
    found = answer["Attributes"]
    waiting = found["ApproximateNumberOfMessages"]
    in_flight = found["ApproximateNumberOfMessagesNotVisible"]
    return Finding("queue", True, f"{waiting} waiting, {in_flight} in flight")
