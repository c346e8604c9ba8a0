"""`likeness demo`: a guided tour that checks its own results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..local.data_folder import DEFAULT_DATA
from ..terminal import out
from .options import Qdrant, QdrantKey, index_server


def demo(
    images: Annotated[
        Path | None,
        typer.Argument(help="A folder of your own images.", exists=True, file_okay=False),
    ] = None,
    data: Annotated[
        Path, typer.Option(help="Data folder of the demo's own service; emptied at the start.")
    ] = DEFAULT_DATA / "demo",
    qdrant: Qdrant = None,
    qdrant_key: QdrantKey = None,
) -> None:
    """Upload images to a local S3, search them over HTTP, and check the answers.

    It takes a minute or two, and exits with 1 if an expected image is not found.

    With `--qdrant`, the index is on a server of yours, under an alias of its own, and is dropped at
    the end.

    - `likeness demo`: with images that are included
    - `likeness demo photos/`: with yours
    - `likeness demo --qdrant http://localhost:6333`: with a Qdrant server
    """
    from ..demo import walkthrough  # noqa: PLC0415 - loads scikit-image

    server = None if qdrant is None else index_server(qdrant, qdrant_key)
    raise typer.Exit(0 if walkthrough.run(images, data, out, server) else 1)
