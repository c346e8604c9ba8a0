"""`likeness demo`: a guided tour that checks its own results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..local.data_folder import DEFAULT_DATA
from ..terminal import out


def demo(
    images: Annotated[
        Path | None,
        typer.Argument(help="A folder of your own images.", exists=True, file_okay=False),
    ] = None,
    data: Annotated[
        Path, typer.Option(help="Data folder of the demo's own service; emptied at the start.")
    ] = DEFAULT_DATA / "demo",
) -> None:
    """Upload images to a local S3, search them over HTTP, and check the answers.

    It takes a minute or two, and exits with 1 if an expected image is not found.

    - `likeness demo`: with images that are included
    - `likeness demo photos/`: with yours
    """
    from ..demo import walkthrough  # noqa: PLC0415 - loads scikit-image

    raise typer.Exit(0 if walkthrough.run(images, data, out) else 1)
