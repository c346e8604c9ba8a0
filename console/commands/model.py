"""`likeness model`: which models there are, and how one gets into the service."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from likeness.errors import ConfigurationError, ModelBundleError
from likeness.model import MANIFEST, ModelSpec

from ..bundles.registry import KNOWN, PresetName
from ..diagnostics.doctor import show
from ..local.runner import BUNDLED_MODEL, DEFAULT_DATA

if TYPE_CHECKING:
    from ..bundles.packaging import Room

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="""See, fetch, make, check and deploy models.

    A model is a bundle: a folder with model.json, which says all that the service must know, and
    the ONNX files it names. A way through:

    [bold]likeness model list[/bold]  which there are, and what each is good for

    [bold]likeness model pull dinov2-small[/bold]  fetch one; or [bold]import FILE.onnx[/bold]

    [bold]likeness model check dinov2-small[/bold]  does it do what it promises?

    [bold]LIKENESS_MODEL_DIR=.likeness/models/dinov2-small likeness serve[/bold]  try it here

    [bold]likeness model package dinov2-small[/bold]  deploy with it

    Vectors of two models are never compared: another model means a new index.""",
)
out = Console()

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
Models = Annotated[
    Path,
    typer.Option("--models", envvar="LIKENESS_MODELS", help="Where fetched and made bundles are."),
]
Bundle = Annotated[str, typer.Argument(help="A bundle's folder, or its name under --models.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a bundle that is there already.")]
PoolingName = Literal["none", "cls", "mean", "gem"]
DEFAULT_MODELS = DEFAULT_DATA / "models"


@app.command("list")
def list_bundles(models: Models = DEFAULT_MODELS) -> None:
    """Known bundles with licence, size, dimensions and what they are good for; then your own."""
    from ..bundles import packaging  # noqa: PLC0415 - loads onnxruntime

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("name", "licence", "size", "dims", "words"):
        table.add_column(column, no_wrap=True)  # names are there to be typed
    table.add_column("good for")
    with contextlib.suppress(ModelBundleError):
        spec, room = packaging.room_for(BUNDLED_MODEL)
        size = f"{room.bundle_bytes / 1e6:.1f} MB"
        note = "the default, in the repository: see training/README.md"
        table.add_row(spec.name, spec.licence, size, str(spec.embedding.dim), "", note)
    for known in KNOWN:
        words = "yes" if known.has_words else ""
        size = f"{known.mb:g} MB"
        told = "; ".join(filter(None, [known.good_for, known.figures]))
        table.add_row(known.name, known.licence, size, str(known.dim), words, told)
    out.print(table)
    for folder in sorted(path.parent for path in models.glob(f"[!.]*/{MANIFEST}")):
        out.print(f"  here  {escape(str(folder))}")
    out.print(
        "[dim]Figures are from the models' own papers and cards, not "
        "measured here. Sizes are of the image network; --text adds the one for words. Weights for "
        "research only (MobileCLIP, MobileCLIP2, DFN) are not offered.[/dim]"
    )


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="One of `likeness model list`.")],
    text: Annotated[
        bool, typer.Option("--text", help="With the text encoder, to search by words.")
    ] = False,
    models: Models = DEFAULT_MODELS,
) -> None:
    """Fetch a known bundle from the Hugging Face hub, check it, and keep it under --models.

    Can be stopped at any time: the next call goes on where it was. HF_ENDPOINT names a mirror.
    """
    from ..bundles import installer  # noqa: PLC0415 - loads onnxruntime

    installer.pull(name, text, models, out)


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="An ONNX file.", exists=True, dir_okay=False)],
    preset: Annotated[PresetName, typer.Option(help="How its family prepares pictures.")],
    name: Annotated[str | None, typer.Option(help="By default the file's name.")] = None,
    licence: Annotated[str, typer.Option(help="Under which its weights are.")] = "unknown",
    source: Annotated[str | None, typer.Option(help="Where it comes from.")] = None,
    to: Annotated[
        Path | None, typer.Option("--out", help="The bundle's folder; by default --models/NAME.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(help="Which output is the embedding, where it is not plain.")
    ] = None,
    pooling: Annotated[
        PoolingName | None, typer.Option(help="How tokens or a map become one vector.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Pixels a side, where the network leaves it open.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Make a transformer's weights int8.")
    ] = False,
    text: Annotated[
        Path | None, typer.Option(help="Its text encoder.", exists=True, dir_okay=False)
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.json of it.", exists=True, dir_okay=False)
    ] = None,
    models: Models = DEFAULT_MODELS,
    force: Force = False,
) -> None:
    """Make a bundle of any ONNX file: write model.json, and try it on drawn pictures."""
    name = name or file.stem
    if not _NAME.fullmatch(name):
        raise typer.BadParameter(f"--name {name}: letters, digits, dots, _ and - only")
    if (text is None) != (tokenizer is None):
        raise typer.BadParameter("--text and --tokenizer go together")
    from ..bundles import installer  # noqa: PLC0415 - loads onnxruntime
    from ..bundles.builder import PRESETS, About, Choice, Text  # noqa: PLC0415

    tower = Text(text.read_bytes(), tokenizer.read_bytes()) if text and tokenizer else None
    about = About(name, "1", licence, source or file.name)
    choice = Choice(output, pooling, size)
    network, folder = file.read_bytes(), to or models / name
    installer.make(folder, about, PRESETS[preset], choice, network, tower, int8, force, out)


@app.command()
def check(bundle: Bundle, models: Models = DEFAULT_MODELS) -> None:
    """Load a bundle and try all that it promises on drawn pictures. Exits with 1 on a failure."""
    from ..bundles import checks  # noqa: PLC0415 - loads onnxruntime

    raise typer.Exit(0 if show(checks.examine(folder_of(bundle, models)), out) else 1)


@app.command()
def package(
    bundle: Bundle,
    s3: Annotated[
        str | None, typer.Option(help="s3://bucket/prefix, for what is too large for Lambda.")
    ] = None,
    layer: Annotated[Path, typer.Option(help="The model layer's folder.")] = BUNDLED_MODEL,
    models: Models = DEFAULT_MODELS,
) -> None:
    """Put a bundle into the model layer, whole or not at all; what is too large may go to S3."""
    from ..bundles import installer, packaging  # noqa: PLC0415 - loads onnxruntime

    bucket, _, prefix = (s3 or "").removeprefix("s3://").partition("/")
    if s3 is not None and not (s3.startswith("s3://") and bucket):
        raise typer.BadParameter(f"--s3 {s3}: write s3://bucket/prefix")
    folder = folder_of(bundle, models)
    spec, room = packaging.room_for(folder)
    if room.fits:
        packaging.into_layer(folder, spec, layer)
        _tell_packaged(spec, room, layer, s3)
    elif s3 is None:
        raise ConfigurationError(
            f"{spec.name} does not fit: {room}. Make it int8 (`likeness model import --int8`), "
            "leave out its text encoder, or store it with --s3 s3://bucket/prefix"
        )
    else:
        with installer.progress_bar(out) as progress:
            task = progress.add_task("uploading", total=room.bundle_bytes)
            url = packaging.into_s3(
                folder, spec, bucket, prefix, lambda n: progress.advance(task, n)
            )
        out.print(f"[yellow]stored, not deployed[/yellow]  {url}")
        out.print(f"  {spec.name} is too large for a layer: {room}.")
        out.print("  The functions do not load it from S3 yet: they read LIKENESS_MODEL_DIR only.")


def _tell_packaged(spec: ModelSpec, room: Room, layer: Path, s3: str | None) -> None:
    out.print(f"[green]packaged[/green]  {spec.name} {spec.fingerprint} is in {layer}")
    out.print(f"  It fits: {room}." + (" So nothing was uploaded to S3." if s3 else ""))
    if spec.text:
        out.print("  Its text encoder lies idle there: the runtime layer has no `tokenizers`.")
    limit = " MAX_UNZIPPED_MB=250" if room.over_build else ""
    out.print(f"  Next: make deploy{limit}. Where pictures are indexed already, `likeness migrate`")
    out.print("  changes their model first.")


def folder_of(bundle: str, models: Path) -> Path:
    """A bundle as it was named: a folder, or one under --models."""
    named = models / bundle
    if not Path(bundle).exists() and _NAME.fullmatch(bundle) and named.is_dir():
        return named
    return Path(bundle)
