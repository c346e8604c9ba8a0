"""`likeness serve`: the whole service on this machine."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Annotated

import typer
from rich.markup import escape

from ..local.data_folder import DEFAULT_DATA
from ..terminal import out
from .options import Data, Qdrant, QdrantKey, index_server


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
    qdrant: Qdrant = None,
    qdrant_key: QdrantKey = None,
) -> None:
    """Run the whole service on this machine, until Ctrl-C.

    It has a local S3 and SQS, both functions' real handlers, the embedded Qdrant engine, and a web
    page to search with. Addresses are printed. All data is kept for the next start.

    With `--qdrant`, the index is on a server of yours instead, under an alias that only this data
    folder uses; `likeness drop` deletes it. QDRANT_URL and QDRANT_API_KEY are ignored: they may
    name your production.

    - `likeness serve`
    - `likeness serve --schema '{"brand": "keyword", "price": "float"}'`: filter by these
    - `likeness serve --qdrant http://localhost:6333`: with a Qdrant server
    """
    from ..local import service as local_service  # noqa: PLC0415 - loads the functions' libraries

    server = None if qdrant is None else index_server(qdrant, qdrant_key)
    environment = {"LIKENESS_PAYLOAD_SCHEMA": schema}
    # a shell starts background processes with SIGINT ignored
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        with out.status("starting …"):
            service = stack.enter_context(local_service.run(data, port, environment, server))
        out.print(f"[bold green]Likeness is running[/bold green]  data in {data}/")
        out.print(f"  page     {service.api_url}/")
        out.print(f"  search   POST {service.api_url}/v1/search")
        out.print(f"  docs     {service.api_url}/docs")
        out.print(f"  bucket   s3://{service.bucket} at {service.aws_url}")
        out.print(f"  index    {escape(service.index_place)}", soft_wrap=True)
        out.print("  try      likeness upload FOLDER, then likeness search IMAGE")
        out.print("  stop     Ctrl-C")
        threading.Event().wait()
    out.print("stopped; all data is kept")
    if server:
        out.print(f"`{escape(server.drop_command(data))}` deletes the index", soft_wrap=True)
