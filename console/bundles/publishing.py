"""Bundles on AWS: published as a Lambda layer, or stored in S3 if they are too large for one."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from likeness.errors import ConfigurationError
from likeness.model import GOLDEN, ModelSpec
from likeness.settings import MIB

from .bundle_folder import deployed_files
from .golden import golden_json

# AWS Lambda's quota for a layer that is published in one request, zipped: 50 MB.
REQUEST_BYTES = 50 * MIB
# Where template.yaml's functions look for the bundle of a migration, under /opt.
NEXT_MODEL = "next-model"


def publish_next_layer(
    folder: Path, spec: ModelSpec, name: str, staging: tuple[str, str] | None = None
) -> str:
    """Publish a bundle and its golden pair as a Lambda layer, /opt/next-model; returns its ARN.

    Above 50 MB the layer is uploaded through `staging`, a bucket and a prefix. Raises
    ConfigurationError if AWS refuses.
    """
    import boto3  # noqa: PLC0415 - takes a moment

    archive = _zipped(folder, spec)
    size = len(archive.getbuffer())
    if staging is None and size > REQUEST_BYTES:
        raise ConfigurationError(
            f"{spec.name} is {size / MIB:.0f} MB zipped, and Lambda accepts "
            f"{REQUEST_BYTES / MIB:.0f} MB in a request: name a bucket to upload it through with "
            "--s3 s3://bucket/prefix"
        )
    with _aws_errors("cannot publish the layer"):
        content: dict[str, Any] = {"ZipFile": archive.getvalue()}
        if staging:
            bucket, prefix = staging
            key = "/".join(filter(None, [prefix.strip("/"), f"{spec.name}-{spec.fingerprint}.zip"]))
            boto3.client("s3").upload_fileobj(archive, bucket, key)
            content = {"S3Bucket": bucket, "S3Key": key}
        layer = boto3.client("lambda").publish_layer_version(
            LayerName=name, Description=f"{spec.name} {spec.fingerprint}"[:256], Content=content
        )
    arn: str = layer["LayerVersionArn"]
    return arn


def upload(
    folder: Path, spec: ModelSpec, bucket: str, prefix: str, progress: Callable[[int], None]
) -> str:
    """Upload a bundle's files to S3, model.json last; returns the URL of their folder.

    The folder's name contains the fingerprint, so no bundle overwrites another's files. Raises
    ConfigurationError if AWS refuses.
    """
    import boto3  # noqa: PLC0415 - takes a moment

    base = "/".join(filter(None, [prefix.strip("/"), f"{spec.name}-{spec.fingerprint}"]))
    url = f"s3://{bucket}/{base}/"
    with _aws_errors(f"cannot upload to {url}"):
        s3 = boto3.client("s3")
        for name in reversed(deployed_files(folder, spec)):
            s3.upload_file(str(folder / name), bucket, f"{base}/{name}", Callback=progress)
    return url


def _zipped(folder: Path, spec: ModelSpec) -> io.BytesIO:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in deployed_files(folder, spec):
            packed.write(folder / file, f"{NEXT_MODEL}/{file}")
        packed.writestr(f"{NEXT_MODEL}/{GOLDEN}", golden_json(folder))
    archive.seek(0)
    return archive


@contextlib.contextmanager
def _aws_errors(what: str) -> Iterator[None]:
    """Turn AWS's errors into ConfigurationError."""
    from boto3.exceptions import Boto3Error  # noqa: PLC0415 - takes a moment
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise ConfigurationError(f"{what}: {error}") from error
