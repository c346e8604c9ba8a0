"""`likeness drop`: what the local service made on a Qdrant server."""

from __future__ import annotations

from typing import Annotated

import typer

from ..client import ServiceError
from ..local.data_folder import DEFAULT_DATA
from ..terminal import out
from .options import Data, QdrantKey, index_server


def drop(
    qdrant: Annotated[str, typer.Option(metavar="URL", help="The Qdrant server.")],
    qdrant_key: QdrantKey = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Drop what `likeness serve --qdrant` made on a Qdrant server.

    It is the data folder's own alias with its collections; nothing else on the server is touched.
    The images stay in the data folder: `likeness serve --qdrant` indexes them again.

    - `likeness drop --qdrant http://localhost:6333`
    """
    from ..local.data_folder import locked  # noqa: PLC0415
    from ..local.index_server import opened, remembered_alias  # noqa: PLC0415 - loads the adapters

    server, alias = index_server(qdrant, qdrant_key), remembered_alias(data)
    if alias is None:
        raise ServiceError(f"{data} has never had its index on a Qdrant server")
    with locked(data), opened(server, alias) as index:
        points = sum(index.for_model(model).info().points or 0 for model in index.models())
        if not yes:
            typer.confirm(f"Drop alias {alias} at {server.url} (points: {points})?", abort=True)
        dropped = index.clear()
    for name in dropped:
        out.print(f"[green]dropped[/green]  {name}", soft_wrap=True)
    if not dropped:
        out.print(f"nothing of {data} is at {server.url}", soft_wrap=True)
