"""Options that several commands have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from ..local.data_folder import DEFAULT_DATA

if TYPE_CHECKING:
    from ..local.index_server import IndexServer

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
Qdrant = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Keep the index on this Qdrant server, 1.19 or newer, under an alias of its own.",
    ),
]
QdrantKey = Annotated[
    str | None,
    typer.Option(
        envvar="LIKENESS_QDRANT_API_KEY", help="API key of the Qdrant server, if it needs one."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Models = Annotated[
    Path,
    typer.Option("--models", envvar="LIKENESS_MODELS", help="Folder of your model bundles."),
]
Bundle = Annotated[str, typer.Argument(help="A bundle's folder, or its name under --models.")]
DEFAULT_MODELS = DEFAULT_DATA / "models"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BUNDLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def s3_location(option: str, url: str) -> tuple[str, str]:
    """Bucket and prefix of s3://bucket/prefix. Raises BadParameter for anything else."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not url.startswith("s3://") or not bucket:
        raise typer.BadParameter(f"{option} {url}: write s3://bucket/prefix".lstrip())
    return bucket, prefix


def index_server(url: str, key: str | None) -> IndexServer:
    """The server that --qdrant names. Raises BadParameter for anything but http(s)://host."""
    from ..local.index_server import IndexServer  # noqa: PLC0415 - loads the adapters

    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # not a port, or half an IPv6 address
        valid = False
    if not valid:
        raise typer.BadParameter(f"--qdrant {url}: write http://host:port or https://host:port")
    if "@" in parts.netloc or parts.query or parts.fragment:  # a password must not be printed
        raise typer.BadParameter(
            "--qdrant: only host, port and path; the key belongs into LIKENESS_QDRANT_API_KEY"
        )
    return IndexServer(url.rstrip("/"), key)


def bundle_folder(bundle: str, models: Path) -> Path:
    """The folder of a bundle that is named by its folder, or by its name under `models`."""
    named = models / bundle
    if not Path(bundle).exists() and BUNDLE_NAME.fullmatch(bundle) and named.is_dir():
        return named
    return Path(bundle)
