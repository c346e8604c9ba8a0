"""`likeness cost`: what queries, images and an idle month cost on AWS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..client import Client, ServiceError
from ..local.data_folder import DEFAULT_DATA, LocalService
from ..terminal import count_progress, out
from .connection import connect
from .options import ApiKey, Data, Json, Url

if TYPE_CHECKING:
    from ..cost.pricing import Measurements

Photo = Annotated[
    Path | None,
    typer.Argument(
        metavar="PHOTO",
        help="An image to search with, to measure the service.",
        exists=True,
        dir_okay=False,
    ),
]
Sweep = Annotated[
    Path,
    typer.Option("--measured", help="Measurements of each memory size, by benchmarks/memory.py."),
]
SearchMs = Annotated[
    float | None, typer.Option(min=0.1, help="Billed milliseconds of a query, if you know them.")
]
IndexMs = Annotated[
    float | None, typer.Option(min=0.1, help="Billed milliseconds of an indexed image.")
]
MemoryMb = Annotated[
    int,
    typer.Option(min=128, max=10240, help="Memory (MB) at which these times were measured."),
]


def cost(
    photo: Photo = None,
    sweep: Sweep = DEFAULT_DATA / "memory.json",
    search_ms: SearchMs = None,
    index_ms: IndexMs = None,
    memory_mb: MemoryMb = 1769,
    as_json: Json = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Estimate what a million queries, a million images and an idle month cost on AWS.

    Milliseconds come from an image that is searched thirty times, from what you pass, or from a
    measurement of each memory size. Prices come from a list with its date and sources.

    - `likeness cost photo.jpg --url https://…`: measure the deployed service
    - `likeness cost --search-ms 60 --index-ms 45 --memory-mb 1769`
    - `python benchmarks/memory.py`, then `likeness cost`
    """
    from ..cost import cost_report  # noqa: PLC0415
    from ..cost.pricing import Measurements, Run, read  # noqa: PLC0415

    if photo:
        measured = _measure(photo, memory_mb, connect(LocalService.running(data), url, api_key))
    elif search_ms or index_ms:
        measured = Measurements(
            "as given",
            search=[Run(memory_mb, 1, search_ms)] if search_ms else [],
            index=[Run(memory_mb, 1, index_ms)] if index_ms else [],
        )
    elif sweep.exists():
        measured = read(sweep)
    else:
        raise ServiceError(
            "milliseconds are missing: name a PHOTO to measure the service with, pass --search-ms "
            "and --index-ms, or run `python benchmarks/memory.py`"
        )
    if as_json:
        out.print_json(data=cost_report.as_json(measured))
    else:
        cost_report.print_report(measured, out)


def _measure(photo: Path, memory_mb: int, client: Client) -> Measurements:
    from ..cost import cost_report  # noqa: PLC0415
    from ..cost.pricing import Measurements  # noqa: PLC0415

    with count_progress() as progress:
        run = cost_report.measure(client, photo.read_bytes(), memory_mb, progress)
    return Measurements(f"reported by the service for {photo.name}", search=[run])
