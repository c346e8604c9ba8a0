"""`likeness backfill`: objects that are in a bucket already are indexed."""

from __future__ import annotations

from typing import Annotated

import typer

from likeness.settings import MAX_WAITING

from ..client import Client
from ..local.data_folder import DEFAULT_DATA
from ..terminal import count_progress, out
from .connection import connect, require_setting, use_local
from .options import ApiKey, Data, Url, s3_location

_ESTIMATE = "Options of --dry-run"
# With more objects than this, the command does not wait until each is searchable.
_MAX_WATCHED = 10_000

DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Estimate count, time and cost without sending anything."),
]
IncludeAll = Annotated[
    bool,
    typer.Option("--all", help="Include empty objects and those with another file type's suffix."),
]
Queue = Annotated[
    str | None, typer.Option("--queue", metavar="URL", help="The queue; else LIKENESS_QUEUE_URL.")
]
MaxWaiting = Annotated[
    int,
    typer.Option(
        envvar="LIKENESS_MOST_WAITING",
        min=1,
        help="Pause while this many messages wait in the queue.",
    ),
]
Workflow = Annotated[
    str | None,
    typer.Option(metavar="ARN", help="Let the stack's state machine send the hints."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Send from this machine even above 1,000,000 objects.")
]
Ms = Annotated[
    float,
    typer.Option(
        "--ms", min=0.1, help="Milliseconds for each image, measured.", rich_help_panel=_ESTIMATE
    ),
]
Functions = Annotated[
    int, typer.Option(min=1, help="The stack's IndexConcurrency.", rich_help_panel=_ESTIMATE)
]
Memory = Annotated[
    int,
    typer.Option("--memory", min=128, help="The stack's MemoryMb.", rich_help_panel=_ESTIMATE),
]


def backfill(
    source: Annotated[
        str, typer.Argument(metavar="s3://BUCKET/PREFIX", help="The objects to index.")
    ],
    dry_run: DryRun = False,
    include_all: IncludeAll = False,
    queue_url: Queue = None,
    max_waiting: MaxWaiting = MAX_WAITING,
    workflow: Workflow = None,
    force: Force = False,
    ms: Ms = 60.0,
    functions: Functions = 5,
    memory_mb: Memory = 1769,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Index objects that are in a bucket already.

    It sends a hint for each object to the queue that new uploads go through, no faster than they
    are indexed: an upload waits behind `--max-waiting` messages at most. A hint only
    names an object to check, so it cannot undo an upload or a deletion, however late it comes.

    - `likeness backfill s3://bucket/2024/ --dry-run`: how many, how long, how much
    - `likeness backfill s3://bucket/2024/`: Ctrl-C stops, the same command continues
    - `likeness backfill s3://bucket/ --workflow ARN`: above 1,000,000 objects
    """
    if not source.startswith("s3://"):
        raise typer.BadParameter(f"{source} is not s3://bucket/prefix: use `likeness upload`")
    bucket, prefix = s3_location("", source)

    from likeness.adapters.s3 import S3Store  # noqa: PLC0415 - boto3 takes a moment

    from ..indexing import backfill as bucket_backfill  # noqa: PLC0415
    from ..indexing.estimate import Capacity, print_estimate  # noqa: PLC0415

    objects = bucket_backfill.Source(bucket, prefix, include_all)
    service = use_local(data) if url is None else None
    if workflow:
        bucket_backfill.start_workflow(workflow, objects, out)
        return
    store = S3Store()
    if dry_run:
        plan = bucket_backfill.count_with_progress(store, objects, "", out)
        print_estimate(plan, Capacity(ms, functions, memory_mb), out)
        return
    local_queue = service.queue_url if service else None
    queue_url = queue_url or require_setting("LIKENESS_QUEUE_URL", local_queue)
    feeder, cursor = bucket_backfill.open_queue(queue_url, max_waiting, data, objects)
    keys = bucket_backfill.run(store, objects, feeder, cursor, force, out)
    if len(keys) > _MAX_WATCHED or (url is None and service is None):
        out.print(f"sent {len(keys):,} hints; `likeness reconcile` shows what is not indexed yet")
    else:
        _wait_until_indexed(connect(service, url, api_key), keys)


def _wait_until_indexed(client: Client, keys: list[str]) -> None:
    from ..indexing import uploads  # noqa: PLC0415

    with count_progress() as progress:
        task = progress.add_task("searchable", total=len(keys))
        expected = dict.fromkeys(keys)
        summary = uploads.wait_until_indexed(client, expected, lambda n: progress.advance(task, n))
    summary.print(out)
    raise typer.Exit(0 if summary.complete else 1)
