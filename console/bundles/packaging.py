"""Puts a bundle into the model layer of a deployment, or into S3 if it is too large."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from likeness.errors import ConfigurationError
from likeness.model import ModelSpec

from ..terminal import byte_progress
from . import layer as model_layer
from . import publishing
from .layer import DeployedSize


def package_bundle(
    folder: Path, layer: Path, storage: tuple[str, str] | None, out: Console
) -> None:
    """Replace the model layer's bundle, or store one that is too large in S3: bucket and prefix.

    Raises ConfigurationError if it fits neither, ModelBundleError if the bundle is damaged.
    """
    spec, size = model_layer.measure(folder)
    if size.fits:
        model_layer.install(folder, spec, layer)
        _print_packaged(spec, size, layer, storage is not None, out)
        return
    if storage is None:
        raise ConfigurationError(
            f"{spec.name} does not fit: {size}. Quantise it (`likeness model import --int8`), "
            "leave out its text encoder, or store it with --s3 s3://bucket/prefix"
        )
    with byte_progress(out) as progress:
        task = progress.add_task("uploading", total=size.bundle_bytes)
        url = publishing.upload(folder, spec, *storage, lambda n: progress.advance(task, n))
    out.print(f"[yellow]stored, not deployed[/yellow]  {url}")
    out.print(f"  {spec.name} is too large for a layer: {size}.")
    out.print("  The functions do not load it from S3 yet: they read LIKENESS_MODEL_DIR only.")


def _print_packaged(
    spec: ModelSpec, size: DeployedSize, layer: Path, had_storage: bool, out: Console
) -> None:
    out.print(f"[green]packaged[/green]  {spec.name} {spec.fingerprint} is in {layer}")
    out.print(f"  It fits: {size}." + (" So nothing was uploaded to S3." if had_storage else ""))
    if spec.text:
        out.print("  Its text encoder is not used there: the runtime layer has no `tokenizers`.")
    limit = " MAX_UNZIPPED_MB=250" if size.exceeds_build_limit else ""
    out.print(f"  Next: make deploy{limit}. If images are indexed already, run `likeness migrate`")
    out.print("  first: it changes their model.")
