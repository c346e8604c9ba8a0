"""Where a bundle goes to be deployed: into the model layer, or, too large for Lambda, into S3."""

from __future__ import annotations

import io
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from likeness.embedding import Embedder
from likeness.errors import ConfigurationError
from likeness.images import decode
from likeness.model import GOLDEN, MANIFEST, Golden, ModelSpec
from likeness.proof.verdicts import CALIBRATION
from likeness.settings import Limits

from ..demo import sample_images
from .builder import put_in_place
from .bundle_reader import load_bundle

MIB = 1024 * 1024
# AWS Lambda's quota for a deployment package with its layers, unzipped: 262,144,000 bytes.
LAMBDA_BYTES = 250 * MIB
# What `make build` prints without a model, rounded up.
RUNTIME_BYTES = 130 * MIB
# The build's own, lower limit: MAX_UNZIPPED_MB in the Makefile.
BUILD_BYTES = 200 * MIB
# Of a layer that is published in one request (AWS Lambda's quota: 50 MB, zipped).
REQUEST_BYTES = 50 * MIB
# Where template.yaml's functions find the bundle of a migration, under /opt.
NEXT_MODEL = "next-model"
_MAKEFILE = "Makefile"


class Room(Struct, frozen=True):
    """What a bundle takes on Lambda, beside the runtime."""

    bundle_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.bundle_bytes + RUNTIME_BYTES

    @property
    def fits(self) -> bool:
        return self.total_bytes <= LAMBDA_BYTES

    @property
    def over_build(self) -> bool:
        """Whether it fits only with the build's own limit raised."""
        return self.total_bytes > BUILD_BYTES

    def __str__(self) -> str:
        return (
            f"{self.bundle_bytes / MIB:.0f} MB beside {RUNTIME_BYTES / MIB:.0f} of runtime are "
            f"{self.total_bytes / MIB:.0f} of the {LAMBDA_BYTES / MIB:.0f} MB that Lambda takes"
        )


def room_for(folder: Path) -> tuple[ModelSpec, Room]:
    """A checked bundle's spec, and its size. Raises ModelBundleError."""
    spec, files = load_bundle(folder)
    manifest_bytes = (folder / MANIFEST).stat().st_size
    return spec, Room(manifest_bytes + sum(len(data) for data in files.values()))


def shipped(folder: Path, spec: ModelSpec) -> list[str]:
    """The files of a bundle that the functions read, model.json first."""
    calibration = [CALIBRATION] if (folder / CALIBRATION).exists() else []
    return [MANIFEST, *spec.files, *calibration]


def as_next_layer(
    folder: Path, spec: ModelSpec, name: str, staging: tuple[str, str] | None = None
) -> str:
    """Publish a bundle and its golden pair as a Lambda layer, /opt/next-model; returns the layer
    version's ARN.

    Lambda takes 50 MB in the request; `staging`, a bucket and a prefix, is where more goes first.
    Raises ConfigurationError where AWS refuses.
    """
    import boto3  # noqa: PLC0415 - takes a moment
    from boto3.exceptions import Boto3Error  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in shipped(folder, spec):
            packed.write(folder / file, f"{NEXT_MODEL}/{file}")
        packed.writestr(f"{NEXT_MODEL}/{GOLDEN}", _golden(folder))
    try:
        content: dict[str, Any] = {"ZipFile": archive.getvalue()}
        if staging:
            bucket, prefix = staging
            key = "/".join(filter(None, [prefix.strip("/"), f"{spec.name}-{spec.fingerprint}.zip"]))
            archive.seek(0)
            boto3.client("s3").upload_fileobj(archive, bucket, key)
            content = {"S3Bucket": bucket, "S3Key": key}
        elif len(archive.getbuffer()) > REQUEST_BYTES:
            raise ConfigurationError(
                f"{spec.name} is {len(archive.getbuffer()) / MIB:.0f} MB zipped, Lambda takes "
                f"{REQUEST_BYTES / MIB:.0f} at once: name a bucket to go through with "
                "--s3 s3://bucket/prefix"
            )
        told = f"{spec.name} {spec.fingerprint}"[:256]
        client = boto3.client("lambda")
        layer = client.publish_layer_version(LayerName=name, Description=told, Content=content)
        arn: str = layer["LayerVersionArn"]
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise ConfigurationError(f"cannot publish the layer: {error}") from error
    return arn


def into_layer(folder: Path, spec: ModelSpec, layer: Path) -> None:
    """Make the layer hold this bundle and its golden pair, beside its Makefile; or leave it as it
    is.
    """
    makefile = layer / _MAKEFILE
    if not makefile.is_file():
        raise ConfigurationError(
            f"{layer} is no model layer (it has no Makefile): run this in the repository, "
            "or name the layer with --layer"
        )
    if folder.resolve() == layer.resolve():
        return
    new = Path(tempfile.mkdtemp(prefix=f".{layer.name}-", dir=layer.parent))
    try:
        for name in shipped(folder, spec):
            shutil.copyfile(folder / name, new / name)
        shutil.copy(makefile, new / _MAKEFILE)
        write_golden(new)
        put_in_place(new, layer, layer.stat().st_mode)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_golden(folder: Path) -> None:
    """Write what the bundle's network makes of a picture, for the check of each deployment."""
    (folder / GOLDEN).write_bytes(_golden(folder))


def _golden(folder: Path) -> bytes:
    embedder, picture = Embedder(folder), next(sample_images.products()).data
    image, _ = decode(picture, Limits(), embedder.decode_size)
    [vector] = embedder.embed([embedder.to_tensor(image)])
    golden = Golden(embedder.fingerprint, picture, tuple(vector.round(6).tolist()))
    return msgspec.json.encode(golden) + b"\n"


def into_s3(
    folder: Path, spec: ModelSpec, bucket: str, prefix: str, progress: Callable[[int], None]
) -> str:
    """Upload a bundle's files, model.json last; returns the URL of the folder.

    Its name holds the fingerprint, so that no bundle ever changes another's files.
    """
    import boto3  # noqa: PLC0415 - takes a moment
    from boto3.exceptions import Boto3Error  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    base = "/".join(filter(None, [prefix.strip("/"), f"{spec.name}-{spec.fingerprint}"]))
    url = f"s3://{bucket}/{base}/"
    try:
        s3 = boto3.client("s3")
        for name in reversed(shipped(folder, spec)):
            s3.upload_file(str(folder / name), bucket, f"{base}/{name}", Callback=progress)
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise ConfigurationError(f"cannot upload to {url}: {error}") from error
    return url
