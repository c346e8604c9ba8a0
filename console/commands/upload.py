"""`likeness upload`: a folder's images into the bucket, until they are searchable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..local.data_folder import DEFAULT_DATA
from ..terminal import count_progress, out
from .connection import connect, require_setting, use_local
from .options import ApiKey, Data, Url


def upload(
    source: Annotated[
        str, typer.Argument(metavar="FOLDER|FILE", help="A folder of images, or one image.")
    ],
    prefix: Annotated[str, typer.Option(help="Prefix of the objects' keys.")] = "",
    meta: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Metadata of all these images; may be repeated."),
    ] = None,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Upload images to the bucket, and wait until they are searchable.

    Images that are in the bucket already are not sent again, so an interrupted upload can be
    repeated. Without a local service, LIKENESS_BUCKET names the bucket of yours. Exits with 1 if
    images are still waiting, or none is searchable.

    - `likeness upload photos/`
    - `likeness upload photos/ --prefix 2024/ --meta brand=acme --meta price=9.90`
    """
    if source.startswith("s3://"):
        raise typer.BadParameter(f"{source} is in a bucket already: use `likeness backfill`")
    folder, metadata = Path(source), _metadata(meta or [])
    if not folder.exists():
        raise typer.BadParameter(f"there is no file or folder {folder}")

    from likeness.adapters.s3 import S3Store  # noqa: PLC0415 - boto3 takes a moment

    from ..indexing import uploads  # noqa: PLC0415

    service = use_local(data) if url is None else None
    client = connect(service, url, api_key)
    bucket = require_setting("LIKENESS_BUCKET", service.bucket if service else None)
    with count_progress() as progress:

        def on_start(total: int) -> uploads.Advance:
            task = progress.add_task("uploading", total=total)
            return lambda n: progress.advance(task, n)

        etags = uploads.upload_folder(S3Store(), bucket, folder, prefix, metadata, on_start)
        task = progress.add_task("searchable", total=len(etags))
        summary = uploads.wait_until_indexed(client, etags, lambda n: progress.advance(task, n))
    summary.print(out)
    raise typer.Exit(0 if summary.complete else 1)


def _metadata(pairs: list[str]) -> dict[str, str]:
    try:
        metadata = dict(pair.split("=", 1) for pair in pairs)
    except ValueError:
        raise typer.BadParameter("--meta must be name=value") from None
    if bad := [name for name in metadata if not name.isascii() or not name]:
        raise typer.BadParameter(f"--meta {bad[0]}: S3 allows only ASCII names")
    return metadata
