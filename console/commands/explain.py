"""`likeness explain`: how an answer came about."""

from __future__ import annotations

from typing import Annotated

import typer

from ..local.data_folder import DEFAULT_DATA
from ..terminal import out
from .options import Data, Json


def explain(
    request_id: Annotated[str, typer.Argument(help="The request_id of the answer.")],
    image: Annotated[
        str | None, typer.Option(metavar="ID", help="Say what became of the image with this id.")
    ] = None,
    log_group: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Log group of a deployed service's search function."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="How many days of the log to search.")] = 7,
    as_json: Json = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Explain one answer: every stage's scores, what was left out, and why.

    Each answer has a request_id. The local service logs its answers in the data folder, a deployed
    one in CloudWatch.

    - `likeness explain 6f1d3a0e2c585b8e9a440c4e5ad1b7c3 --image ID`
    - `likeness explain REQUEST_ID --log-group /aws/lambda/STACK-search`
    """
    from ..diagnostics import answer_log  # noqa: PLC0415

    found = answer_log.lines(data, log_group, request_id, days)
    if as_json:
        out.print_json(data=found)
    else:
        answer_log.show(found, image, out)
