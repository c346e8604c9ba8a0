"""`likeness migrate`: another model, while searches and uploads go on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from likeness.settings import MAX_WAITING, Settings

from ..bundles.registry import BUNDLED_MODEL
from ..local.data_folder import DEFAULT_DATA
from ..terminal import count_progress, out
from .connection import open_index, require_setting
from .options import (
    DEFAULT_MODELS,
    ApiKey,
    Bundle,
    Data,
    Models,
    Url,
    bundle_folder,
    s3_location,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from likeness.feeding import HintFeeder
    from likeness.ports import VectorIndex
    from likeness.records import ObjectRef

    from ..local.data_folder import LocalService
    from ..migration.filling import FillStatus
    from ..migration.lifecycle import Migration

Bundles = Annotated[
    list[Path] | None, typer.Option("--bundle", help="Folder of a model's bundle; may be repeated.")
]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Change the model without downtime. Each command names the next one.

    - `likeness migrate start BUNDLE`: create the new model's collection
    - `likeness migrate fill`: have every object in it, transformed or indexed anew
    - `likeness migrate status`: how much of it is filled
    - `likeness migrate compare`: what searches find, before and after
    - `likeness migrate switch`: search with the new model
    - `likeness migrate rollback`: search with the old model again
    - `likeness migrate finish`: drop the collection that is not searched

    Searches and uploads go on all the time: both collections are kept up to date until the end.
    For a deployed service, set QDRANT_URL, QDRANT_API_KEY, LIKENESS_BUCKET, LIKENESS_URL and
    LIKENESS_API_KEY, and LIKENESS_QUEUE_URL to fill. Each command says which index that is, and
    stops where it holds only other buckets' images.

    docs/how-to/migrate.md describes every step.""",
)


@app.command()
def start(
    bundle: Bundle,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Publish the bundle as a Lambda layer, for a deployed service."
        ),
    ] = None,
    s3: Annotated[
        str | None,
        typer.Option(
            metavar="s3://BUCKET/PREFIX", help="Publish through this bucket, above 50 MB."
        ),
    ] = None,
    models: Models = DEFAULT_MODELS,
    data: Data = DEFAULT_DATA,
) -> None:
    """Check a bundle and create its collection. Searches do not change yet.

    - `likeness migrate start dinov2-small`
    - `likeness migrate start dinov2-small --layer next-model --s3 s3://bucket/layers`
    """
    from likeness.model import load_spec  # noqa: PLC0415

    from ..bundles.checks import check_bundle  # noqa: PLC0415 - loads onnxruntime
    from ..bundles.publishing import publish_next_layer  # noqa: PLC0415
    from ..diagnostics.findings import print_findings  # noqa: PLC0415
    from ..migration import lifecycle, messages  # noqa: PLC0415

    if s3 is not None and layer is None:
        raise typer.BadParameter("--s3 s3://bucket/prefix goes with --layer NAME")
    staging = None if s3 is None else s3_location("--s3", s3)
    folder = bundle_folder(bundle, models)
    if not print_findings(check_bundle(folder), out):
        raise typer.Exit(1)
    index, service = open_index(data)
    spec = load_spec(folder)
    keep_patches = service is None and Settings.from_env(os.environ).keep_patches
    begun = lifecycle.begin(index, spec, str(folder.resolve()), keep_patches)
    out.print(f"[green]started[/green]  from model {begun.source} to {spec.name} {begun.target}")
    arn = None
    if layer and service is None:
        arn = publish_next_layer(folder, spec, layer, staging)
    messages.print_next(messages.after_start(arn, local=service is not None))


@app.command()
def fill(
    bundle: Bundles = None, models: Models = DEFAULT_MODELS, data: Data = DEFAULT_DATA
) -> None:
    """Fill the new collection with what it lacks. May be stopped and repeated.

    Where the new model was adapted from the old one, stored vectors are transformed, and no image
    is read. Otherwise a hint is sent for every object, and the index function works through them.
    New uploads come first: hints are sent only while fewer than LIKENESS_MOST_WAITING messages wait
    in the queue, by default 10,000.

    - `likeness migrate fill`
    """
    from ..migration import lifecycle, messages, transformation  # noqa: PLC0415

    index, service = open_index(data)
    migration = lifecycle.require_current(index)
    mapped = transformation.find_map(migration, _bundle_folders(migration, bundle, models))
    if mapped is None:
        _, status = _measure(index, _feeder(service).send)
        out.print(f"sent hints for {status.remaining} objects; {status.equal} are in it already")
    else:
        filling = transformation.Transformation(index, migration, mapped)
        _, status = _measure(index, filling.fill)
        out.print(f"transformed {filling.done} points; {status.equal} objects were in it already")
        if filling.left:
            _feeder(service).send(filling.left)
            out.print(f"sent hints for {len(filling.left)} objects that were changing")
    messages.print_next("`likeness migrate status` until all are; then `likeness migrate compare`")


@app.command()
def status(data: Data = DEFAULT_DATA) -> None:
    """Show which model is searched, and how much of the new collection is filled.

    - `likeness migrate status`
    """
    from ..migration import messages  # noqa: PLC0415

    index, _ = open_index(data)
    messages.print_status(index, *_measure(index))


@app.command()
def compare(
    sample: Annotated[int, typer.Option(min=2, help="Number of images to search with.")] = 200,
    k: Annotated[
        int, typer.Option("-k", min=1, max=100, help="Number of neighbours to compare.")
    ] = 10,
    bundle: Bundles = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sample and the edits.")] = 0,
    models: Models = DEFAULT_MODELS,
    data: Data = DEFAULT_DATA,
) -> None:
    """Compare what searches find with each model: neighbours, and the originals of edited copies.

    A random sample of the indexed images is used. Their nearest neighbours in both collections are
    compared, and an edited copy of each is searched with both models.

    - `likeness migrate compare --sample 500`
    """
    from likeness.adapters.s3 import S3Store  # noqa: PLC0415 - boto3 takes a moment

    from ..migration import comparison, lifecycle, messages  # noqa: PLC0415 - loads onnxruntime

    index, _ = open_index(data)
    migration = lifecycle.require_current(index)
    folders = _bundle_folders(migration, bundle, models)
    old = comparison.load_model(migration.source, folders)
    new = comparison.load_model(migration.target, folders)
    with count_progress(transient=True) as progress:
        task = progress.add_task("comparing", total=2 * sample)
        found = comparison.compare(
            index, S3Store(), (old, new), sample, k, seed, lambda n: progress.advance(task, n)
        )
    messages.print_comparison(found)
    messages.print_next(
        "`likeness migrate switch`, or `likeness migrate finish` to give up the new model"
    )


@app.command()
def switch(
    force: Annotated[bool, typer.Option("--force", help="Switch in spite of warnings.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    data: Data = DEFAULT_DATA,
) -> None:
    """Search with the new model from now on.

    Refused if the new collection lacks objects, or the service was not deployed with the model.

    - `likeness migrate switch`
    """
    from likeness.errors import ConfigurationError  # noqa: PLC0415

    from ..migration import lifecycle, messages, readiness  # noqa: PLC0415 - loads onnxruntime

    index, service = open_index(data)
    migration, status = _measure(index)
    service_url = url or (service.api_url if service else None)
    obstacles = readiness.obstacles(migration, status, service_url, api_key)
    if obstacles and not force:
        raise ConfigurationError(
            f"not switched: {'; '.join(obstacles)}. --force switches all the same"
        )
    lifecycle.switch(index, migration.target)
    out.print(f"[green]switched[/green]  searches are answered by model {migration.target}")
    messages.print_next(
        "watch the service; `likeness migrate rollback` goes back, `likeness migrate finish` ends "
        "the migration"
    )


@app.command()
def rollback(data: Data = DEFAULT_DATA) -> None:
    """Search with the old model again. Nothing is lost: both collections are up to date.

    - `likeness migrate rollback`
    """
    from ..migration import lifecycle, messages  # noqa: PLC0415 - loads onnxruntime

    index, _ = open_index(data)
    migration = lifecycle.require_current(index)
    lifecycle.switch(index, migration.source)
    out.print(f"[green]rolled back[/green]  searches are answered by model {migration.source}")
    messages.print_next(
        "`likeness migrate switch` tries again, `likeness migrate finish` gives up the new model"
    )


@app.command()
def finish(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    data: Data = DEFAULT_DATA,
) -> None:
    """Drop the collection that is not searched: after a switch the old one, else the new one.

    - `likeness migrate finish`
    """
    from ..migration import lifecycle, messages  # noqa: PLC0415 - loads onnxruntime

    index, service = open_index(data)
    migration = lifecycle.require_current(index)
    unused = lifecycle.unused_model(index, migration)
    points = index.for_model(unused).info().points if unused in index.models() else 0
    if not yes:
        typer.confirm(f"Drop the collection of model {unused}, {points} points?", abort=True)
    lifecycle.finish(index, migration)
    out.print(f"[green]finished[/green]  the collection of model {unused} was dropped")
    messages.print_next(messages.after_finish(migration, unused, local=service is not None))


def _bundle_folders(migration: Migration, named: Sequence[Path] | None, models: Path) -> list[Path]:
    """Where the two models' bundles may be."""
    from ..bundles.listing import own_bundles  # noqa: PLC0415 - loads onnxruntime

    variables = (os.environ.get(n) for n in ("LIKENESS_MODEL_DIR", "LIKENESS_NEXT_MODEL_DIR"))
    folders = [*(named or ()), Path(migration.bundle), *(Path(v) for v in variables if v)]
    return [*folders, BUNDLED_MODEL, *own_bundles(models)]


def _feeder(service: LocalService | None) -> HintFeeder:
    from likeness.adapters.sqs import SqsQueue  # noqa: PLC0415 - boto3 takes a moment
    from likeness.feeding import HintFeeder  # noqa: PLC0415

    queue_url = require_setting("LIKENESS_QUEUE_URL", service.queue_url if service else None)
    max_waiting = MAX_WAITING if service else Settings.from_env(os.environ).max_waiting
    return HintFeeder(SqsQueue(queue_url), max_waiting)


def _measure(
    index: VectorIndex, on_missing: Callable[[list[ObjectRef]], object] = lambda refs: None
) -> tuple[Migration, FillStatus]:
    from ..migration import filling, lifecycle  # noqa: PLC0415

    migration = lifecycle.require_current(index)
    points = index.for_model(migration.source).info().points
    with count_progress(transient=True) as progress:
        task = progress.add_task("comparing", total=points)
        found = filling.measure(index, migration, lambda n: progress.advance(task, n), on_missing)
    return migration, found
