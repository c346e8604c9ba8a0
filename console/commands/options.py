"""Options that several commands have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ..local.data_folder import DEFAULT_DATA

Data = Annotated[
    Path,
    typer.Option("--data", envvar="LIKENESS_DATA", help="Data folder of the local service."),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="LIKENESS_URL", help="URL of the service; by default the local one."
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", envvar="LIKENESS_API_KEY", help="API key, if the service needs one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Models = Annotated[
    Path,
    typer.Option("--models", envvar="LIKENESS_MODELS", help="Folder of your model bundles."),
]
Bundle = Annotated[str, typer.Argument(help="A bundle's folder, or its name under --models.")]
DEFAULT_MODELS = DEFAULT_DATA / "models"
BUNDLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def s3_location(option: str, url: str) -> tuple[str, str]:
    """Bucket and prefix of s3://bucket/prefix. Raises BadParameter for anything else."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket:
        raise typer.BadParameter(f"{option} {url}: write s3://bucket/prefix".lstrip())
    return bucket, prefix


def bundle_folder(bundle: str, models: Path) -> Path:
    """The folder of a bundle that is named by its folder, or by its name under `models`."""
    named = models / bundle
    if not Path(bundle).exists() and BUNDLE_NAME.fullmatch(bundle) and named.is_dir():
        return named
    return Path(bundle)
