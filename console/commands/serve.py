"""`likeness serve`: the whole service on this machine."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Annotated

import typer

from ..local.data_folder import DEFAULT_DATA
from ..terminal import out
from .options import Data


def serve(
    data: Data = DEFAULT_DATA,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the HTTP API, on loopback; 0: any free.")
    ] = 8000,
    schema: Annotated[
        str,
        typer.Option(
            envvar="LIKENESS_PAYLOAD_SCHEMA",
            help="Metadata to store and filter by, as JSON: names and types.",
        ),
    ] = "{}",
) -> None:
    """Run the whole service on this machine, until Ctrl-C.

    It has a local S3 and SQS, both functions' real handlers, the embedded Qdrant engine, and a web
    page to search with. Addresses are printed. All data is kept for the next start.

    - `likeness serve`
    - `likeness serve --schema '{"brand": "keyword", "price": "float"}'`: filter by these
    """
    from ..local import service as local_service  # noqa: PLC0415 - loads the functions' libraries

    environment = {"LIKENESS_PAYLOAD_SCHEMA": schema}
    # a shell starts background processes with SIGINT ignored
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        with out.status("starting …"):
            service = stack.enter_context(local_service.run(data, port, environment))
        out.print(f"[bold green]Likeness is running[/bold green]  data in {data}/")
        out.print(f"  page     {service.api_url}/")
        out.print(f"  search   POST {service.api_url}/v1/search")
        out.print(f"  docs     {service.api_url}/docs")
        out.print(f"  bucket   s3://{service.bucket} at {service.aws_url}")
        out.print("  try      likeness upload FOLDER, then likeness search IMAGE")
        out.print("  stop     Ctrl-C")
        threading.Event().wait()
    out.print("stopped; all data is kept")
