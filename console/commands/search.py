"""`likeness search`: the images most similar to one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..client import Client
from ..local.data_folder import DEFAULT_DATA, LocalService
from ..terminal import out
from .connection import connect
from .options import UUID, ApiKey, Data, Json, Url


def search(
    query: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE", help="An image file, an indexed image's id, or with --key its key."
        ),
    ],
    by_key: Annotated[bool, typer.Option("--key", help="IMAGE is an object's key.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Number of results.")] = 10,
    filter: Annotated[
        str | None, typer.Option(metavar="JSON", help="A Qdrant filter on the metadata.")
    ] = None,
    as_json: Json = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Find the images most similar to one, with a verdict: copy, edited, variant, same item …

    The pixels of the first three suspected copies and edits are compared; behind their verdict is
    what was done to them, such as cropped or mirrored. `likeness compare` says more about one.

    - `likeness search photo.jpg`
    - `likeness search products/mug.jpg --key --limit 3`
    - `likeness search photo.jpg --filter '{"must": [{"key": "brand", "match": {"value":
      "acme"}}]}'`
    """
    client = connect(LocalService.running(data), url, api_key)
    answer = _search(client, query, by_key, _options(limit, filter))
    if as_json:
        out.print_json(data=answer)
    else:
        _print_answer(answer)


def _options(limit: int, filter_json: str | None) -> dict[str, Any]:
    if not filter_json:
        return {"limit": limit}
    try:
        return {"limit": limit, "filter": json.loads(filter_json)}
    except ValueError as error:
        raise typer.BadParameter(f"--filter is not JSON: {error}") from error


def _search(client: Client, query: str, by_key: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    if by_key:
        return client.search(key=query, **options)
    if UUID.fullmatch(query):
        return client.search(id=query, **options)
    if Path(query).is_file():
        return client.search_image(Path(query).read_bytes(), **options)
    raise typer.BadParameter(f"{query} is neither a file nor an id; for a key, add --key")


def _print_answer(answer: Mapping[str, Any]) -> None:
    from .. import html_report  # noqa: PLC0415 - loads the decoder

    table = Table("", "score", "verdict", "key", "payload")
    for rank, result in enumerate(answer["results"], 1):
        payload = "  ".join(f"{k}={v}" for k, v in result["payload"].items())
        verdict = html_report.verdict_and_edits(result)
        row = (f"{result['score']:.3f}", verdict, result["key"], payload)
        table.add_row(str(rank), *map(escape, row))
    out.print(table if answer["results"] else "nothing found")
    if answer["skipped"]:
        skipped = " and ".join(answer["skipped"])
        out.print(f"[yellow]skipped because of the deadline: {skipped}[/yellow]")
    took = "  ".join(f"{k} {v:.1f}" for k, v in answer["took_ms"].items() if k != "cold_start")
    out.print(f"[dim]model {answer['model']}   milliseconds: {took}[/dim]")
