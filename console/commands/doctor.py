"""`likeness doctor`: what is wrong, and how to fix it."""

from __future__ import annotations

import os

import typer

from ..local.data_folder import DEFAULT_DATA
from ..terminal import out
from .connection import connect, use_local
from .options import ApiKey, Data, Url


def doctor(data: Data = DEFAULT_DATA, url: Url = None, api_key: ApiKey = None) -> None:
    """Check versions, model, service, index, bucket and queue, and say how to fix what is wrong.

    Exits with 1 if anything is wrong.

    - `likeness doctor`: the local service
    - `likeness doctor --url https://…`: a deployed one, with LIKENESS_BUCKET and
      LIKENESS_QUEUE_URL, and with QDRANT_URL and QDRANT_API_KEY its Qdrant server too
    """
    from ..diagnostics.doctor import diagnose  # noqa: PLC0415
    from ..diagnostics.findings import print_findings  # noqa: PLC0415

    service = use_local(data) if url is None else None
    client = connect(service, url, api_key) if url or service else None
    findings = diagnose(os.environ, service, client)
    raise typer.Exit(0 if print_findings(findings, out) else 1)
