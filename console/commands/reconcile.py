"""`likeness reconcile`: the bucket compared with the index."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from likeness.settings import EVENT_LAG_S

from ..local.data_folder import DEFAULT_DATA
from ..terminal import err, out
from .connection import use_local
from .options import Data


def reconcile(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report; exit with 1 if anything differs.")
    ] = False,
    bucket: Annotated[
        str | None, typer.Option(help="The bucket; else the local one, or LIKENESS_BUCKET.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Compare only keys with this prefix.")] = "",
    lag_minutes: Annotated[
        float,
        typer.Option("--lag", min=0, help="Skip objects that changed within this many minutes."),
    ] = EVENT_LAG_S / 60,
    force: Annotated[
        bool,
        typer.Option("--force", help="Go on although the index has none of the bucket's images."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Compare the bucket with the index, and have what differs indexed.

    The drift function does the same every day. Three kinds of difference are reported. Missing:
    images without a point. Changed: images that were indexed in another version or under other
    settings. Extra: points whose object is gone. A hint for each goes to the queue, and tombstones
    older than 30 days are deleted. It may be stopped at any time.

    Without a local service, it reads QDRANT_URL, QDRANT_API_KEY, LIKENESS_BUCKET and
    LIKENESS_QUEUE_URL. LIKENESS_PAYLOAD_SCHEMA, LIKENESS_PREFIX, LIKENESS_TENANT_CLAIM,
    LIKENESS_ALIAS and the limits must be the stack's. It says which index that is, and stops where
    the index holds only other buckets' images.

    - `likeness reconcile --dry-run`: only the report
    - `likeness reconcile --prefix 2024/`: send hints, for a part of the bucket
    """
    from ..indexing import reconciliation  # noqa: PLC0415 - loads the adapters

    options = reconciliation.Options(bucket, prefix, lag_minutes * 60, dry_run, force)
    local = use_local(data)
    if local and bucket in (None, local.bucket):
        service = reconciliation.local(local)
    else:
        service = reconciliation.deployed(os.environ)
    report = reconciliation.run(options, service, err if as_json else out)
    if as_json:
        out.print_json(data=report)
    else:
        reconciliation.print_report(report, out)
    raise typer.Exit(1 if dry_run and report["drift"] else 0)
