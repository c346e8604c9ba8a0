"""`likeness compare`: what two images have in common."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ..local.data_folder import DEFAULT_DATA, LocalService
from ..terminal import out
from .connection import connect
from .options import UUID, ApiKey, Data, Json, Url

# Two of these, as base64, fit into one request.
_MAX_BYTES = 2 * 1024 * 1024
_REDUCED_SIDE = 1600

_KINDS = {"image": "file", "id": "id", "key": "key"}
_RESTS_ON = {
    "bytes": "equal files",
    "pixels": "the pixels of both",
    "index": "what the index stores",
}


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="An image file, or an image's id.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The other one.")],
    by_key: Annotated[
        bool, typer.Option("--key", help="What is not a file here is an object's key.")
    ] = False,
    as_json: Json = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Compare two images: verdict, what was done to one to make the other, and differences.

    The verdict is symmetric. It rests on the pixels, unless an object was deleted or replaced after
    it was indexed. Places are fractions of width and height: left, top, right, bottom.

    - `likeness compare photo.jpg scan.png`
    - `likeness compare photo.jpg 6f1d3a0e-2c58-5b8e-9a44-0c4e5ad1b7c3`
    - `likeness compare photo.jpg products/mug.jpg --key --json`
    """
    client = connect(LocalService.running(data), url, api_key)
    named = {name: _source(text, by_key) for name, text in (("A", first), ("B", second))}
    answer = client.compare(named["A"], named["B"])
    if as_json:
        out.print_json(data=answer)
    else:
        kinds = {name: _KINDS[next(iter(source))] for name, source in named.items()}
        _print(answer, {"A": f"{first} ({kinds['A']})", "B": f"{second} ({kinds['B']})"})


def _source(text: str, by_key: bool) -> dict[str, str]:
    """One image, as POST /v1/compare takes it."""
    if Path(text).is_file():
        return {"image": base64.b64encode(_small_enough(Path(text).read_bytes())).decode()}
    if UUID.fullmatch(text):
        return {"id": text}
    if by_key:
        return {"key": text}
    raise typer.BadParameter(f"{text} is neither a file nor an id; for a key, add --key")


def _small_enough(data: bytes) -> bytes:
    """The file, or an image of it that a request can carry; more than proofs look at."""
    if len(data) <= _MAX_BYTES:
        return data
    from likeness.images import thumbnail  # noqa: PLC0415 - loads the decoder
    from likeness.settings import Limits  # noqa: PLC0415

    return thumbnail(data, Limits(), _REDUCED_SIDE)


def _print(answer: Mapping[str, Any], names: Mapping[str, str]) -> None:
    from ..html_report import edits, verdict  # noqa: PLC0415 - loads the decoder

    explain = answer.get("explain", {})
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in (
        *names.items(),
        ("verdict", verdict(answer) or "none: the model has no calibration"),
        ("rests on", _RESTS_ON.get(answer.get("rests_on", ""), "")),
        ("edits", edits(answer) or "none found"),
        ("agreeing", f"{explain['agreeing']:.1f} %" if "agreeing" in explain else "nothing found"),
        ("score", f"{answer['score']:.3f}"),
        *(("differs", _places(each)) for each in explain.get("differences", [])),
    ):
        table.add_row(name, escape(value))
    out.print(table)
    for note in answer.get("notes", []):
        out.print(f"[yellow]{escape(_with_names(note))}[/yellow]", soft_wrap=True)


def _places(difference: Mapping[str, Any]) -> str:
    """“A .10 .10 .40 .20  B …”."""
    named = (("A", difference["query"]), ("B", difference["target"]))
    return "  ".join(f"{name} {' '.join(f'{side:.2f}' for side in box)}" for name, box in named)


def _with_names(note: str) -> str:
    return note.replace("first:", "A:", 1).replace("second:", "B:", 1)
