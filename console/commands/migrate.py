"""`likeness migrate`: another model, while searches and uploads go on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from likeness.errors import ConfigurationError, ModelBundleError
from likeness.feeding import HintFeeder
from likeness.model import MANIFEST, load_spec
from likeness.settings import MAX_WAITING, Settings

from ..client import Client, ServiceError
from ..local.index_sharing import RunningIndex
from ..local.runner import BUNDLED_MODEL, DEFAULT_DATA, LocalService, use_aws
from .model import DEFAULT_MODELS, Bundle, Models, folder_of

if TYPE_CHECKING:
    from likeness.ports import VectorIndex
    from likeness.records import ObjectRef

    from ..migration.lifecycle import Comparison, Filling, Migration, Side

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""Change the model without downtime; each command says what comes next.

    [bold]likeness migrate start BUNDLE[/bold]  make room for it beside the present one

    [bold]likeness migrate fill[/bold]  have every object indexed with it too

    [bold]likeness migrate status[/bold]  how far that is

    [bold]likeness migrate compare[/bold]  what searches would find, before and after

    [bold]likeness migrate switch[/bold]  from now on, search with it

    [bold]likeness migrate rollback[/bold]  search with the old one again

    [bold]likeness migrate finish[/bold]  drop the collection that is not searched

    Searches and uploads go on all the time: both indexes are kept up to date until the end. For
    a deployed service, set QDRANT_URL and QDRANT_API_KEY, LIKENESS_URL and LIKENESS_API_KEY, and to
    fill LIKENESS_QUEUE_URL. docs/how-to/migrate.md has the whole way.""",
)
out = Console()

# Uploads that are under way are in neither or one of the two for a moment.
_FILLED = 0.99
Data = Annotated[
    Path,
    typer.Option("--data", envvar="LIKENESS_DATA", help="Where the local service keeps its data."),
]
Force = Annotated[bool, typer.Option("--force", help="Switch all the same.")]


@app.command()
def start(
    bundle: Bundle,
    layer: Annotated[
        str | None,
        typer.Option(help="Publish the bundle as a Lambda layer of this name, for a deployment."),
    ] = None,
    s3: Annotated[
        str | None, typer.Option(help="s3://bucket/prefix to publish through, above 50 MB.")
    ] = None,
    models: Models = DEFAULT_MODELS,
    data: Data = DEFAULT_DATA,
) -> None:
    """Check a bundle and make its collection. Nothing that is searched changes."""
    from ..bundles import checks, packaging  # noqa: PLC0415 - loads onnxruntime
    from ..diagnostics import doctor  # noqa: PLC0415 - loads onnxruntime
    from ..migration import lifecycle  # noqa: PLC0415 - loads onnxruntime

    bucket, _, prefix = (s3 or "").removeprefix("s3://").partition("/")
    if s3 is not None and not (s3.startswith("s3://") and bucket and layer):
        raise typer.BadParameter("--s3 s3://bucket/prefix goes with --layer NAME")
    folder = folder_of(bundle, models)
    if not doctor.show(checks.examine(folder), out):
        raise typer.Exit(1)
    index, service = _open(data)
    spec = load_spec(folder)
    keep_patches = service is None and Settings.from_env(os.environ).keep_patches
    begun = lifecycle.begin(index, spec, str(folder.resolve()), keep_patches)
    out.print(f"[green]started[/green]  from model {begun.source} to {spec.name} {begun.target}")
    if service:
        _next(
            "stop `likeness serve` with Ctrl-C and start it anew: it loads both models, and looks "
            "at every object; then `likeness migrate status`"
        )
    elif layer:
        staging = (bucket, prefix) if s3 else None
        arn = packaging.as_next_layer(folder, spec, layer, staging)
        _next(
            f"PARAMETERS='NextModelLayerArn={arn}' make deploy STAGE=…, "
            "then `likeness migrate fill`"
        )
    else:
        _next("the functions need it: the same command with --layer NAME publishes it for them")


@app.command()
def fill(data: Data = DEFAULT_DATA) -> None:
    """Hint at every object that the new collection lacks. Can be stopped and repeated at any time.

    The hints go to the queue that events go to: the index function works them off. New uploads go
    first: hints are sent only while fewer than LIKENESS_MOST_WAITING messages wait, or 10,000.
    """
    from likeness.adapters.sqs import SqsQueue  # noqa: PLC0415 - boto3 takes a moment

    index, service = _open(data)
    queue_url = service.queue_url if service else os.environ.get("LIKENESS_QUEUE_URL")
    if not queue_url:
        raise ServiceError("LIKENESS_QUEUE_URL is not set; a deployed stack's outputs name it")
    most = MAX_WAITING if service else Settings.from_env(os.environ).max_waiting
    feeder = HintFeeder(SqsQueue(queue_url), most)
    _, found = _filling(index, feeder.send)
    out.print(f"{found.objects - found.agreed} objects hinted at, {found.agreed} are done")
    _next("`likeness migrate status`, until all are there; then `likeness migrate compare`")


@app.command()
def status(data: Data = DEFAULT_DATA) -> None:
    """Which model is searched, and how much of the new collection is filled."""
    index, _ = _open(data)
    migration, found = _filling(index)
    searched = index.info().model
    table = Table("", "model", "points", "")
    for name, model in (("old", migration.source), ("new", migration.target)):
        told = index.for_model(model).info()
        table.add_row(name, model, str(told.points), "searched" if model == searched else "")
    out.print(table)
    left = found.objects - found.agreed
    out.print(f"{found.share:.1%} filled: {found.agreed} of {found.objects} objects, {left} remain")
    if found.refused:
        out.print(f"[yellow]{len(found.refused)} that the new model rejects[/yellow]")
    for key, reason in list(found.refused.items())[:10]:
        out.print(f"  [yellow]{escape(key)}[/yellow]  {escape(reason)}")
    if searched == migration.target:
        _next("`likeness migrate finish`, or `likeness migrate rollback`")
    elif left:
        _next("wait, or `likeness migrate fill` where nothing moves any more")
    else:
        _next("`likeness migrate compare`, then `likeness migrate switch`")


@app.command()
def compare(
    sample: Annotated[int, typer.Option(min=2, help="Pictures to ask with.")] = 200,
    k: Annotated[int, typer.Option("-k", min=1, max=100, help="Neighbours to compare.")] = 10,
    bundle: Annotated[
        list[Path] | None, typer.Option(help="Where a model's bundle is; repeat it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws pictures and edits.")] = 0,
    models: Models = DEFAULT_MODELS,
    data: Data = DEFAULT_DATA,
) -> None:
    """What searches find with each model: shared neighbours, and edited copies that are found.

    Live pictures are drawn by chance. Their nearest are looked up in both collections; and of each
    an edited copy is made, which must find its original.
    """
    from likeness.adapters.s3 import S3Store  # noqa: PLC0415 - boto3 takes a moment

    from ..migration import lifecycle  # noqa: PLC0415 - loads onnxruntime

    index, _ = _open(data)
    migration = lifecycle.needed(index)
    places = [*(bundle or []), Path(migration.bundle), *_bundles_here(models)]
    sides = _side(migration.source, places), _side(migration.target, places)
    with Progress(console=out, transient=True) as progress:
        task = progress.add_task("comparing", total=2 * sample)
        found = lifecycle.compare(
            index, S3Store(), sides, sample, k, seed, lambda n: progress.advance(task, n)
        )
    _show(found)
    _next("`likeness migrate switch`, or `likeness migrate finish` to give the new model up")


@app.command()
def switch(
    force: Force = False,
    url: Annotated[
        str | None,
        typer.Option("--url", envvar="LIKENESS_URL", help="The service; by default the local one."),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", envvar="LIKENESS_API_KEY", help="Its API key, if it asks."),
    ] = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Search with the new model from now on, all at once.

    Refuses where the new collection lacks objects, or the service cannot embed with the new model.
    """
    from ..migration import lifecycle  # noqa: PLC0415 - loads onnxruntime

    index, service = _open(data)
    migration, found = _filling(index)
    why = [f"only {found.share:.1%} of the objects are in it"] if found.share < _FILLED else []
    address = url or (service.api_url if service else None)
    if address is None:
        why.append("nobody says whether the service has the model: name it with LIKENESS_URL")
    elif migration.target not in Client(address, api_key).ready()["models"]:
        why.append(f"the service at {address} was not deployed with it")
    if why and not force:
        raise ConfigurationError(f"not switched: {'; '.join(why)}. --force switches all the same")
    lifecycle.switch(index, migration.target)
    out.print(f"[green]switched[/green]  searches are answered by model {migration.target}")
    _next("watch it; `likeness migrate rollback` goes back, `likeness migrate finish` ends this")


@app.command()
def rollback(data: Data = DEFAULT_DATA) -> None:
    """Search with the old model again, all at once. Both are kept up to date, nothing is lost."""
    from ..migration import lifecycle  # noqa: PLC0415 - loads onnxruntime

    index, _ = _open(data)
    migration = lifecycle.needed(index)
    lifecycle.switch(index, migration.source)
    out.print(f"[green]rolled back[/green]  searches are answered by model {migration.source}")
    _next("`likeness migrate switch` tries again, `likeness migrate finish` gives the new model up")


@app.command()
def finish(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Drop the collection that is not searched: after a switch the old one, else the new one."""
    from ..migration import lifecycle  # noqa: PLC0415 - loads onnxruntime

    index, service = _open(data)
    migration = lifecycle.needed(index)
    left = lifecycle.left_behind(index, migration)
    points = index.for_model(left).info().points if left in index.models() else 0
    if not yes:
        typer.confirm(f"Drop the collection of model {left}, {points} points?", abort=True)
    lifecycle.end(index, migration)
    out.print(f"[green]finished[/green]  the collection of model {left} was dropped")
    if left == migration.target:
        _next(
            "nothing more to do"
            if service
            else "deploy without it: PARAMETERS='NextModelLayerArn=' make deploy STAGE=…"
        )
    elif service:
        _next(f"from its next start on, LIKENESS_MODEL_DIR={migration.bundle} likeness serve")
    else:
        _next(
            f"`likeness model package {migration.bundle}`, then "
            "PARAMETERS='NextModelLayerArn=' make deploy STAGE=…"
        )


def _open(data: Path) -> tuple[VectorIndex, LocalService | None]:
    """The running local service's index, or the one that QDRANT_URL names."""
    service = LocalService.running(data)
    if service:
        use_aws(service.aws_url)
        running = RunningIndex(service.index_port, service.index_key.encode())
        return cast("VectorIndex", running), service
    if not os.environ.get("QDRANT_URL"):
        raise ServiceError(
            "no service is running here: start one with `likeness serve` (`make serve`), or name "
            "the index of yours with QDRANT_URL and QDRANT_API_KEY"
        )
    from likeness.adapters.index import open_index  # noqa: PLC0415

    return open_index(Settings.from_env(os.environ)), None


def _filling(
    index: VectorIndex, missing: Callable[[list[ObjectRef]], object] = lambda refs: None
) -> tuple[Migration, Filling]:
    from ..migration import lifecycle  # noqa: PLC0415 - loads onnxruntime

    migration = lifecycle.needed(index)
    with Progress(console=out, transient=True) as progress:
        task = progress.add_task("looking", total=index.for_model(migration.source).info().points)
        found = lifecycle.filling(index, migration, partial(progress.advance, task), missing)
    return migration, found


def _bundles_here(models: Path) -> list[Path]:
    named = (os.environ.get(n) for n in ("LIKENESS_MODEL_DIR", "LIKENESS_NEXT_MODEL_DIR"))
    fetched = (path.parent for path in models.glob(f"[!.]*/{MANIFEST}"))
    return [*(Path(name) for name in named if name), BUNDLED_MODEL, *fetched]


def _side(model: str, places: Sequence[Path]) -> Side:
    """The bundle with this fingerprint, loaded."""
    from likeness.embedding import Embedder  # noqa: PLC0415
    from likeness.proof.verdicts import load_calibration  # noqa: PLC0415

    from ..migration.lifecycle import Side  # noqa: PLC0415 - loads onnxruntime

    for folder in places:
        with contextlib.suppress(ModelBundleError):
            if load_spec(folder).fingerprint == model:
                return Side(Embedder(folder), load_calibration(folder, model))
    raise ConfigurationError(f"no bundle of model {model} is here: name its folder with --bundle")


def _show(found: Comparison) -> None:
    out.print(f"of the {found.k} nearest, both models name {found.overlap} on average")
    old, new = found.found
    out.print(f"edited copies that find their original first, of {found.edited}:")
    out.print(f"  old model {old}")
    out.print(f"  new model {new}")
    out.print("neighbours change most for")
    for change in found.changes[:5]:
        out.print(f"  {change.overlap:>4.0%} kept  {escape(change.key)}")


def _next(what: str) -> None:
    out.print(f"[bold]next[/bold]  {what}", soft_wrap=True, highlight=False)
