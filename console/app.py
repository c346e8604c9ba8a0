"""The `likeness` command."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from importlib.metadata import version as metadata_version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from likeness.errors import LikenessError
from likeness.feeding import IMAGE_SUFFIXES, HintFeeder
from likeness.settings import EVENT_LAG_S, MAX_WAITING

from .bundles.hub import HubError
from .client import Client, ServiceError
from .commands import migrate, model
from .diagnostics import doctor as checks
from .indexing import backfill, uploads
from .local.runner import BUNDLED_MODEL, DEFAULT_DATA, LocalService, use_aws

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="""Visual search over the pictures of an S3 bucket.

    Start with [bold]likeness demo[/bold]. Or run [bold]likeness serve[/bold] in one terminal, and
    [bold]likeness index FOLDER[/bold], [bold]likeness search PHOTO[/bold] in another.

    A deployed service is named by LIKENESS_URL and LIKENESS_API_KEY; to index, by LIKENESS_BUCKET
    and LIKENESS_QUEUE_URL too.""",
)
app.add_typer(model.app, name="model")
app.add_typer(migrate.app, name="migrate")
out = Console()
err = Console(stderr=True)

Data = Annotated[
    Path,
    typer.Option("--data", envvar="LIKENESS_DATA", help="Where the local service keeps its data."),
]
Url = Annotated[
    str | None,
    typer.Option("--url", envvar="LIKENESS_URL", help="The service; by default the local one."),
]
Key = Annotated[
    str | None,
    typer.Option("--api-key", envvar="LIKENESS_API_KEY", help="Its API key, if it asks."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
# Panel of the options of `likeness index s3://…`.
_S3 = "Of a bucket, s3://bucket/prefix"
# More objects than these are not asked for one by one.
_WATCHED = 10_000
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@app.command()
def serve(
    data: Data = DEFAULT_DATA,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the HTTP API, on loopback; 0: any free.")
    ] = 8000,
    schema: Annotated[
        str,
        typer.Option(
            envvar="LIKENESS_PAYLOAD_SCHEMA",
            help='Metadata to keep and filter by, e.g. \'{"brand": "keyword", "price": "float"}\'.',
        ),
    ] = "{}",
) -> None:
    """Run the whole service here, until Ctrl-C.

    A local S3 and SQS, both functions' real handlers, the embedded Qdrant engine, and the page to
    search with in a browser, at the address that is printed.
    """
    from .local import runner  # noqa: PLC0415 - loads the functions' dependencies

    environment = {"LIKENESS_PAYLOAD_SCHEMA": schema}
    for how in (signal.SIGTERM, signal.SIGINT):  # in the background, SIGINT is ignored at first
        signal.signal(how, signal.default_int_handler)
    with contextlib.ExitStack() as running, contextlib.suppress(KeyboardInterrupt):
        with out.status("starting …"):
            service = running.enter_context(runner.run(data, port, environment))
        out.print(f"[bold green]Likeness is up[/bold green]  data in {data}/")
        out.print(f"  page     {service.api_url}/")
        out.print(f"  search   POST {service.api_url}/v1/search")
        out.print(f"  docs     {service.api_url}/docs")
        out.print(f"  bucket   s3://{service.bucket} at {service.aws_url}")
        out.print("  try      likeness index FOLDER, then likeness search PHOTO")
        out.print("  stop     Ctrl-C")
        threading.Event().wait()
    out.print("stopped; all data is kept")


@app.command()
def demo(
    images: Annotated[
        Path | None,
        typer.Argument(help="A folder of your own pictures.", exists=True, file_okay=False),
    ] = None,
    data: Annotated[
        Path, typer.Option(help="Where the demo's own service keeps its data; begun anew.")
    ] = DEFAULT_DATA / "demo",
) -> None:
    """Upload pictures to a local S3, search them over HTTP, and check the answers.

    Exits with 1 if a known answer is not found.
    """
    from .demo import walkthrough  # noqa: PLC0415 - loads scikit-image

    raise typer.Exit(0 if walkthrough.run(images, data, out) else 1)


@app.command()
def index(
    source: Annotated[str, typer.Argument(help="A folder, a picture, or s3://bucket/prefix.")],
    prefix: Annotated[str, typer.Option(help="Key prefix for pictures from a folder.")] = "",
    meta: Annotated[
        list[str] | None, typer.Option(help="Metadata for all of them, as name=value; repeat it.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only count, and say time and cost.", rich_help_panel=_S3),
    ] = False,
    takes_all: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Also empty objects and names of other kinds of file.",
            rich_help_panel=_S3,
        ),
    ] = False,
    queue_url: Annotated[
        str | None,
        typer.Option("--queue", help="Its URL; otherwise LIKENESS_QUEUE_URL.", rich_help_panel=_S3),
    ] = None,
    max_waiting: Annotated[
        int,
        typer.Option(
            envvar="LIKENESS_MOST_WAITING",
            min=1,
            help="Pause while so many messages wait in the queue: a new upload waits behind them.",
            rich_help_panel=_S3,
        ),
    ] = MAX_WAITING,
    workflow: Annotated[
        str | None,
        typer.Option(
            metavar="ARN", help="Let this state machine of the stack do it.", rich_help_panel=_S3
        ),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="From here, above a million too.", rich_help_panel=_S3),
    ] = False,
    ms: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="Milliseconds a picture, for --dry-run; measure yours.",
            rich_help_panel=_S3,
        ),
    ] = 60.0,
    functions: Annotated[
        int, typer.Option(min=1, help="The stack's IndexConcurrency.", rich_help_panel=_S3)
    ] = 5,
    memory_mb: Annotated[
        int, typer.Option("--memory", min=128, help="Its MemoryMb.", rich_help_panel=_S3)
    ] = 1769,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Make pictures searchable: upload a folder, or point the service at objects of a bucket.

    Can be stopped and started again: what is in the bucket already is not sent twice, and hints at
    a bucket's objects go on where they were stopped.

    Hints go to the queue that new uploads go through, no faster than they are worked off, so that
    an upload waits for [bold]--max-waiting[/bold] messages at most. A hint says only where to
    look: it cannot undo what an upload or a deletion did, however late it comes.

    [bold]likeness index s3://bucket/2024/ --dry-run[/bold]  how many, how long, how much

    [bold]likeness index s3://bucket/2024/[/bold]  do it; Ctrl-C stops, the same command goes on
    """
    from likeness.adapters.s3 import S3Store  # noqa: PLC0415 - boto3 takes a moment
    from likeness.adapters.sqs import SqsQueue  # noqa: PLC0415

    is_bucket = source.startswith("s3://")
    if not is_bucket and (dry_run or takes_all or workflow or anyway):
        raise typer.BadParameter("--dry-run, --all, --workflow and --anyway go with s3://…")
    if is_bucket and (prefix or meta):
        raise typer.BadParameter(
            "--prefix and --meta go with a folder: objects of a bucket stay as they are"
        )
    service = _use_local(data) if url is None else None
    expected: dict[str, str | None] = {}
    if is_bucket:
        bucket, _, under = source.removeprefix("s3://").partition("/")
        if not bucket:
            raise typer.BadParameter("name a bucket: s3://bucket/prefix")
        wanted = backfill.Source(bucket, under, takes_all)
        store = S3Store()
        if workflow:
            backfill.start_workflow(workflow, wanted, out)
            return
        if dry_run:
            plan = backfill.prepare(store, wanted, "", out)
            backfill.show(plan, backfill.Work(ms, functions, memory_mb), out)
            return
        local_url = service.queue_url if service else None
        queue_url = queue_url or _needed("LIKENESS_QUEUE_URL", local_url)
        feeder = HintFeeder(SqsQueue(queue_url), max_waiting)
        keys = backfill.run(
            store, wanted, feeder, backfill.Cursor(data, wanted, queue_url), anyway, out
        )
        if len(keys) > _WATCHED or (url is None and service is None):
            out.print(
                f"hinted at {len(keys):,}; `likeness reconcile` tells what is not indexed yet"
            )
            return
        expected = dict.fromkeys(keys)
    client = _client(service, url, api_key)
    with _progress() as progress:
        if not is_bucket:
            bucket = _needed("LIKENESS_BUCKET", service.bucket if service else None)
            expected = _upload_folder(S3Store(), bucket, Path(source), prefix, meta, progress)
        task = progress.add_task("searchable", total=len(expected))
        summary = uploads.wait(client, expected, lambda n: progress.advance(task, n))
    _print_summary(summary)
    raise typer.Exit(1 if summary.pending or not summary.states["live"] else 0)


@app.command()
def reconcile(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only report; exits with 1 where anything differs.")
    ] = False,
    bucket: Annotated[
        str | None, typer.Option(help="Otherwise LIKENESS_BUCKET, or the local one.")
    ] = None,
    prefix: Annotated[str, typer.Option(help="Compare only keys that begin so.")] = "",
    lag_minutes: Annotated[
        float,
        typer.Option("--lag", min=0, help="Leave what changed in the last minutes to its event."),
    ] = EVENT_LAG_S / 60,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Compare a bucket with the index, and hint at what differs. The drift function does it daily.

    Missing are pictures without a point, changed ones that were indexed in another version or under
    other settings, extra are points whose object is gone. Hints at them go to the queue, and the
    index function looks again; tombstones older than 30 days are deleted. It may be stopped at any
    time.

    With a local service running, it compares that one's bucket. Otherwise it reads QDRANT_URL,
    QDRANT_API_KEY, LIKENESS_BUCKET and LIKENESS_QUEUE_URL, and LIKENESS_PAYLOAD_SCHEMA,
    LIKENESS_PREFIX, LIKENESS_TENANT_CLAIM, LIKENESS_ALIAS and the limits, which must be as the
    stack has them.
    """
    from .indexing import reconciliation  # noqa: PLC0415 - loads the adapters

    wanted = reconciliation.Wanted(bucket, prefix, lag_minutes * 60, dry_run)
    service = _use_local(data)
    ours = service and bucket in (None, service.bucket)
    side = (
        reconciliation.local(service) if service and ours else reconciliation.deployed(os.environ)
    )
    found = reconciliation.run(wanted, side, err if as_json else out)
    if as_json:
        out.print_json(data=found)
    else:
        reconciliation.show(found, out)
    raise typer.Exit(1 if dry_run and found["drift"] else 0)


@app.command()
def search(
    query: Annotated[
        str, typer.Argument(help="A picture's path, an indexed one's id, or with --key its key.")
    ],
    by_key: Annotated[bool, typer.Option("--key", help="QUERY is a key of the bucket.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 10,
    filter: Annotated[
        str | None,
        typer.Option(
            help='Qdrant filter: \'{"must": [{"key": "brand", "match": {"value": "x"}}]}\'.'
        ),
    ] = None,
    as_json: Json = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Find the pictures most like one, and what each is to it: a copy, edited, the same item."""
    from . import html_report  # noqa: PLC0415 - loads the decoder

    client = _client(LocalService.running(data), url, api_key)
    options: dict[str, Any] = {"limit": limit}
    if filter:
        try:
            options["filter"] = json.loads(filter)
        except ValueError as error:
            raise typer.BadParameter(f"--filter is not JSON: {error}") from error
    if by_key:
        answer = client.search(key=query, **options)
    elif _UUID.fullmatch(query):
        answer = client.search(id=query, **options)
    elif Path(query).is_file():
        answer = client.search_image(Path(query).read_bytes(), **options)
    else:
        raise typer.BadParameter(f"{query} is neither a file nor an id; --key takes a key")
    if as_json:
        out.print_json(data=answer)
        return
    table = Table("", "score", "verdict", "key", "payload")
    for rank, result in enumerate(answer["results"], 1):
        payload = "  ".join(f"{k}={v}" for k, v in result["payload"].items())
        row = (f"{result['score']:.3f}", html_report.verdict(result), result["key"], payload)
        table.add_row(str(rank), *map(escape, row))
    out.print(table if answer["results"] else "nothing found")
    if answer["skipped"]:
        out.print(f"[yellow]no time was left for {' and '.join(answer['skipped'])}[/yellow]")
    took = "  ".join(f"{k} {v:.1f}" for k, v in answer["took_ms"].items() if k != "cold_start")
    out.print(f"[dim]model {answer['model']}   milliseconds: {took}[/dim]")


@app.command()
def status(
    key: Annotated[str, typer.Argument(help="The object's key in the bucket.")],
    as_json: Json = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """Was an object indexed: when, with which model, or why not. Exits with 1 unless it is live."""
    answer = _client(LocalService.running(data), url, api_key).status(key)
    if as_json:
        out.print_json(data=answer)
    else:
        for name, value in answer.items():
            out.print(f"{name:>11}  {escape(str(value))}")
    raise typer.Exit(0 if answer["state"] == "live" else 1)


@app.command()
def explain(
    request_id: Annotated[str, typer.Argument(help="Of the answer; every answer carries it.")],
    image: Annotated[
        str | None, typer.Option(help="An image's id: say what became of this one.")
    ] = None,
    log_group: Annotated[
        str | None,
        typer.Option(help="A deployed service's log: /aws/lambda/STACK-search, of its region."),
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="How far back to look in the log group.")] = 7,
    as_json: Json = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Take one disappointing answer apart: scores of each stage, what was left out, and why.

    It reads the line that was written of the answer: by the local service into
    its data folder, by a deployed one into its log.

    [bold]likeness explain 6f1d3a0e2c585b8e9a440c4e5ad1b7c3 --image ID[/bold]
    """
    from .diagnostics import answer_log  # noqa: PLC0415

    found = answer_log.lines(data, log_group, request_id, days)
    if as_json:
        out.print_json(data=found)
    else:
        answer_log.show(found, image, out)


@app.command()
def calibrate(
    dataset: Annotated[
        Path, typer.Argument(help="A folder of images, or a CSV: path, label, instance, split.")
    ],
    model: Annotated[
        Path, typer.Option(envvar="LIKENESS_MODEL_DIR", help="The bundle to calibrate.")
    ] = BUNDLED_MODEL,
    split: Annotated[str | None, typer.Option(help="Only the rows of this split.")] = None,
    pictures: Annotated[int, typer.Option(min=20, help="Number of images to use.")] = 300,
    target: Annotated[
        Path | None, typer.Option("--out", help="Folder for calibration.json, if not the bundle.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report the accuracy without writing.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed for images and edits.")] = 0,
) -> None:
    """Calibrate verdicts on your own images: exact, copy, edited, same item, similar.

    Each image is edited in known ways and compared with its edits and its nearest neighbours. The
    calibration is fitted on half of the images and tested on the other half; then it is fitted on
    all, and calibration.json is written beside the model. Labels, where given, define what is
    similar; instances, what is the same item. Deploy the bundle again afterwards.

    [bold]likeness calibrate photos/[/bold]
    """
    from .evaluation import calibrator  # noqa: PLC0415 - loads onnxruntime

    calibrator.run(dataset, split, model, target or model, pictures, seed, dry_run, out)


@app.command()
def evaluate(
    dataset: Annotated[
        Path | None,
        typer.Argument(
            help="A folder of images, a folder for each class, or a CSV: path, label, instance, "
            "split, ignore (an instance that does not count)."
        ),
    ] = None,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Make queries by editing the images.")
    ] = False,
    feedback: Annotated[
        bool,
        typer.Option("--feedback", help="Measure by callers' feedback in the index at QDRANT_URL."),
    ] = False,
    model: Annotated[
        Path, typer.Option(envvar="LIKENESS_MODEL_DIR", help="The bundle to evaluate.")
    ] = BUNDLED_MODEL,
    queries: Annotated[int, typer.Option(min=1, help="Number of queries.")] = 500,
    split: Annotated[
        str | None,
        typer.Option(
            help="Only the rows of this split; test:iconic names those of queries and gallery."
        ),
    ] = None,
    target: Annotated[
        Path,
        typer.Option("--out", help="Folder for evaluation.json, report.html and cached features."),
    ] = DEFAULT_DATA / "evaluate",
    baseline: Annotated[
        Path | None, typer.Option(help="An earlier evaluation.json to compare with.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="How far R@1 and mAP may drop below it.")
    ] = 0.01,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for queries and edits.")] = 0,
) -> None:
    """Measure search quality and speed, and what each stage gains.

    Queries run as in the service, with each profile. Splits named query or test
    are searched among those named gallery, train or iconic; without such names,
    each image among all others. Features are cached in --out.

    [bold]likeness evaluate photos/ --synthetic[/bold]  any images: are edited copies found?

    [bold]likeness evaluate products.csv --baseline old/evaluation.json[/bold]  a gate for CI:
    exits with 1 if R@1 or mAP of a profile dropped

    [bold]likeness evaluate --feedback[/bold]  repeat the queries that callers gave feedback on
    """
    from .evaluation import evaluator, reporting, results  # noqa: PLC0415 - loads onnxruntime

    if feedback:
        if dataset or synthetic or split or baseline:
            raise typer.BadParameter(
                "--feedback takes no dataset, --synthetic, --split, --baseline"
            )
        _evaluate_feedback(model, queries, seed, target)
        return
    if dataset is None:
        raise typer.BadParameter(
            "name a folder or a CSV; or use --feedback to measure the live index"
        )
    before = results.read(baseline) if baseline else None
    options = evaluator.Options(model, target, synthetic, split, queries, seed)
    with _progress() as progress:
        found, misses = evaluator.evaluate(dataset, options, progress, before)
    reporting.show(found, out)
    results.write(found, target / results.RESULTS)
    page = target / reporting.PAGE
    page.write_text(reporting.page(found, misses), encoding="utf-8")
    out.print(f"written: {target / results.RESULTS}, and with pictures {page}", soft_wrap=True)
    dropped = results.drops(before, found, tolerance) if before else []
    for line in dropped:
        err.print(f"[red]dropped by more than {tolerance:g}[/red]  {escape(line)}", soft_wrap=True)
    if before and not dropped:
        out.print(f"nothing dropped by more than {tolerance:g} below {baseline}", soft_wrap=True)
    raise typer.Exit(1 if dropped else 0)


def _evaluate_feedback(model: Path, queries: int, seed: int, target: Path) -> None:
    from likeness.adapters.index import open_index  # noqa: PLC0415
    from likeness.settings import Settings  # noqa: PLC0415

    from .evaluation import feedback_evaluation, reporting, results  # noqa: PLC0415

    with (
        contextlib.closing(open_index(Settings.from_env(os.environ))) as index,
        _progress() as progress,
    ):
        found = feedback_evaluation.evaluate(index, model, queries, seed, progress)
    reporting.show_feedback(found, out)
    results.write(found, target / feedback_evaluation.RESULTS)
    out.print(f"written: {target / feedback_evaluation.RESULTS}", soft_wrap=True)


@app.command()
def cost(
    photo: Annotated[
        Path | None,
        typer.Argument(
            help="Ask the running or deployed service with this picture.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    measured: Annotated[
        Path, typer.Option(help="What benchmarks/memory.py wrote: every memory size, measured.")
    ] = DEFAULT_DATA / "memory.json",
    search_ms: Annotated[
        float | None,
        typer.Option(min=0.1, help="Billed milliseconds of a query, as you know them."),
    ] = None,
    index_ms: Annotated[
        float | None, typer.Option(min=0.1, help="Billed milliseconds of an image.")
    ] = None,
    memory_mb: Annotated[
        int, typer.Option(min=128, max=10240, help="Of the functions that these are of.")
    ] = 1769,
    as_json: Json = False,
    data: Data = DEFAULT_DATA,
    url: Url = None,
    api_key: Key = None,
) -> None:
    """What a million queries and a million images cost on AWS, and what each month does.

    Milliseconds come from one of three: a picture that the service is asked with
    thirty times, billed milliseconds that you know from your logs, or the memory
    sweep. Prices come from a list with its date and sources.

    [bold]likeness cost photo.jpg --url https://…[/bold]  what the deployed service really takes

    [bold]likeness cost --search-ms 60 --index-ms 45 --memory-mb 1769[/bold]

    [bold]python benchmarks/memory.py[/bold], then [bold]likeness cost[/bold]
    """
    from .cost import cost_report  # noqa: PLC0415
    from .cost.pricing import Measured, Run, read  # noqa: PLC0415

    if photo:
        client = _client(LocalService.running(data), url, api_key)
        with _progress() as progress:
            run = cost_report.ask(client, photo.read_bytes(), memory_mb, progress)
        found = Measured(f"what the service told of {photo.name}", search=[run])
    elif search_ms or index_ms:
        found = Measured(
            "as given",
            search=[Run(memory_mb, 1, search_ms)] if search_ms else [],
            index=[Run(memory_mb, 1, index_ms)] if index_ms else [],
        )
    elif measured.exists():
        found = read(measured)
    else:
        raise ServiceError(
            "no milliseconds: give a PHOTO to ask the service with, --search-ms and --index-ms, or "
            "measure with `python benchmarks/memory.py`"
        )
    if as_json:
        out.print_json(data=cost_report.told(found))
    else:
        cost_report.show(found, out)


@app.command()
def doctor(data: Data = DEFAULT_DATA, url: Url = None, api_key: Key = None) -> None:
    """Check the model, Qdrant, the bucket and versions, and say how to mend what is wrong."""
    service = _use_local(data) if url is None else None
    client = _client(service, url, api_key) if url or service else None
    findings = checks.examine(os.environ, service, client)
    raise typer.Exit(0 if checks.show(findings, out) else 1)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(metadata_version("likeness"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it and end."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; a known error is one line, not a traceback."""
    try:
        app()
    except (ServiceError, HubError, LikenessError, RuntimeError, OSError) as error:
        err.print(f"[red]error[/red] {escape(str(error))}")
        raise SystemExit(1) from None


def _use_local(data: Path) -> LocalService | None:
    """Point AWS calls of this process at the running local service, where there is one."""
    service = LocalService.running(data)
    if service:
        use_aws(service.aws_url)
    return service


def _client(service: LocalService | None, url: str | None, api_key: str | None) -> Client:
    if url is None and service is None:
        raise ServiceError(
            "no service is running here: start one with `likeness serve` (`make serve`), "
            "or name yours with --url or LIKENESS_URL"
        )
    return Client(url or (service.api_url if service else ""), api_key)


def _needed(name: str, local: str | None) -> str:
    value = local or os.environ.get(name)
    if not value:
        raise ServiceError(f"{name} is not set; a deployed stack's outputs name it")
    return value


def _upload_folder(
    store: Any,
    bucket: str,
    folder: Path,
    prefix: str,
    meta: list[str] | None,
    progress: Progress,
) -> dict[str, str | None]:
    from likeness.records import ObjectRef  # noqa: PLC0415

    if not folder.exists():
        raise typer.BadParameter(f"there is no file or folder {folder}")
    found = uploads.pictures(folder)
    if not found:
        raise ServiceError(f"{folder} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))})")
    try:
        metadata = dict(pair.split("=", 1) for pair in meta or [])
    except ValueError:
        raise typer.BadParameter("--meta takes name=value") from None
    if bad := [name for name in metadata if not name.isascii() or not name]:
        raise typer.BadParameter(f"--meta {bad[0]}: S3 takes ASCII names only")
    root = folder if folder.is_dir() else folder.parent
    expected: dict[str, str | None] = {}
    task = progress.add_task("uploading", total=len(found))
    for path in found:
        key = f"{prefix}{path.relative_to(root).as_posix()}"
        expected[key] = uploads.upload(store, ObjectRef(bucket, key), path.read_bytes(), metadata)
        progress.advance(task)
    return expected


def _print_summary(summary: uploads.Summary) -> None:
    out.print(f"[green]{summary.states['live']} searchable[/green]", end="")
    out.print(f", {len(summary.rejected)} rejected, {len(summary.pending)} still waiting")
    for key, reason in list(summary.rejected.items())[:20]:
        out.print(f"  [yellow]{escape(key)}[/yellow]  {escape(reason)}")
    if len(summary.rejected) > 20:
        out.print(f"  … and {len(summary.rejected) - 20} more")
    if summary.pending:
        out.print("  nothing moved for two minutes: `likeness doctor` looks for the reason")


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=out) as progress:
        yield progress
