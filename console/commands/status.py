"""`likeness status`: whether an object was indexed."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from ..local.data_folder import DEFAULT_DATA, LocalService
from ..terminal import out
from .connection import connect
from .options import ApiKey, Data, Json, Url


def status(
    key: Annotated[str, typer.Argument(help="The object's key in the bucket.")],
    as_json: Json = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Show whether an object was indexed, when, with which model, or why not.

    Exits with 1 unless the object is live.

    - `likeness status products/mug.jpg`
    """
    answer = connect(LocalService.running(data), url, api_key).status(key)
    if as_json:
        out.print_json(data=answer)
    else:
        for name, value in answer.items():
            out.print(f"{name:>11}  {escape(str(value))}")
    raise typer.Exit(0 if answer["state"] == "live" else 1)
