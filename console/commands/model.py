"""`likeness model`: model bundles, and how one gets into the service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..bundles.registry import BUNDLED_MODEL, PresetName
from ..terminal import out
from .options import (
    BUNDLE_NAME,
    DEFAULT_MODELS,
    Bundle,
    Models,
    bundle_folder,
    s3_location,
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""List, fetch, make, check and package models.

    A model bundle is a folder with ONNX files and model.json, which says how they are used.

    - `likeness model list`: which models there are, and what each is good for
    - `likeness model pull dinov2-small`: fetch one; or `import FILE.onnx`
    - `likeness model check dinov2-small`: does it do what its model.json promises?
    - `LIKENESS_MODEL_DIR=.likeness/models/dinov2-small likeness serve --data FOLDER`
    - `likeness model package dinov2-small`: put it into the next deployment

    Vectors of different models cannot be compared: another model needs a new index, see
    `likeness migrate`.""",
)

PoolingName = Literal["none", "cls", "mean", "gem"]

Preset = Annotated[PresetName, typer.Option(help="The model family, for its preprocessing.")]
Name = Annotated[str | None, typer.Option(help="The bundle's name; by default the file's.")]
Licence = Annotated[str, typer.Option(help="Licence of the weights.")]
Origin = Annotated[str | None, typer.Option("--source", help="Where the file comes from.")]
BundleOut = Annotated[
    Path | None, typer.Option("--out", help="The bundle's folder; by default --models/NAME.")
]
EmbeddingOutput = Annotated[
    str | None, typer.Option("--output", help="The embedding's output, if it is not obvious.")
]
Pooling = Annotated[
    PoolingName | None,
    typer.Option(help="How tokens or a feature map are pooled to one vector."),
]
Size = Annotated[
    int | None, typer.Option(min=1, help="Input size in pixels, if the network leaves it open.")
]
Int8 = Annotated[bool, typer.Option("--int8", help="Quantise a transformer's weights to int8.")]
TextEncoder = Annotated[
    Path | None,
    typer.Option("--text", help="The text encoder's ONNX file.", exists=True, dir_okay=False),
]
Tokenizer = Annotated[
    Path | None,
    typer.Option(help="The text encoder's tokenizer.json.", exists=True, dir_okay=False),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a bundle that exists.")]


@app.command("list")
def list_bundles(models: Models = DEFAULT_MODELS) -> None:
    """List known bundles with licence, size, dimensions and purpose; then your own.

    - `likeness model list`
    """
    from ..bundles import listing  # noqa: PLC0415 - loads onnxruntime

    listing.print_bundles(models, out)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A name from `likeness model list`.")],
    text: Annotated[
        bool, typer.Option("--text", help="With the text encoder, to search by text.")
    ] = False,
    models: Models = DEFAULT_MODELS,
) -> None:
    """Download a known model from the Hugging Face hub, and make a checked bundle of it.

    An interrupted download is resumed. HF_ENDPOINT names a mirror.

    - `likeness model pull siglip-b16-224 --text`
    """
    from ..bundles import installer  # noqa: PLC0415 - loads onnxruntime

    installer.pull(name, text, models, out)


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="An ONNX file.", exists=True, dir_okay=False)],
    preset: Preset,
    name: Name = None,
    licence: Licence = "unknown",
    source: Origin = None,
    target: BundleOut = None,
    output: EmbeddingOutput = None,
    pooling: Pooling = None,
    size: Size = None,
    int8: Int8 = False,
    text: TextEncoder = None,
    tokenizer: Tokenizer = None,
    models: Models = DEFAULT_MODELS,
    force: Force = False,
) -> None:
    """Make a bundle of any ONNX file, and check it with drawn images.

    - `likeness model import resnet50.onnx --preset imagenet --licence BSD-3-Clause`
    - `likeness model import vision.onnx --preset clip --text text.onnx --tokenizer
      tokenizer.json`
    """
    name = name or file.stem
    if not BUNDLE_NAME.fullmatch(name):
        raise typer.BadParameter(f"--name {name}: letters, digits, dots, _ and - only")
    if (text is None) != (tokenizer is None):
        raise typer.BadParameter("--text and --tokenizer go together")

    from ..bundles.builder import Recipe, build  # noqa: PLC0415 - loads onnxruntime
    from ..bundles.presets import PRESETS  # noqa: PLC0415
    from ..bundles.spec_inference import Overrides, Provenance, TextFiles  # noqa: PLC0415

    encoder = TextFiles(text.read_bytes(), tokenizer.read_bytes()) if text and tokenizer else None
    provenance = Provenance(name, "1", licence, source or file.name)
    recipe = Recipe(provenance, PRESETS[preset], Overrides(output, pooling, size), int8)
    build(target or models / name, recipe, file.read_bytes(), encoder, force, out)


@app.command()
def check(bundle: Bundle, models: Models = DEFAULT_MODELS) -> None:
    """Load a bundle and check with drawn images that it does what its model.json promises.

    Exits with 1 if a check fails.

    - `likeness model check dinov2-small`
    """
    from ..bundles.checks import check_bundle  # noqa: PLC0415 - loads onnxruntime
    from ..diagnostics.findings import print_findings  # noqa: PLC0415

    findings = check_bundle(bundle_folder(bundle, models))
    raise typer.Exit(0 if print_findings(findings, out) else 1)


@app.command()
def package(
    bundle: Bundle,
    s3: Annotated[
        str | None,
        typer.Option(metavar="s3://BUCKET/PREFIX", help="Store a bundle that is too large here."),
    ] = None,
    layer: Annotated[
        Path, typer.Option(help="Folder of the model layer.", show_default="layers/model")
    ] = BUNDLED_MODEL,
    models: Models = DEFAULT_MODELS,
) -> None:
    """Put a bundle into the model layer of the next deployment, if it fits on Lambda.

    - `likeness model package dinov2-small`, then `make deploy`
    """
    from ..bundles.packaging import package_bundle  # noqa: PLC0415 - loads onnxruntime

    storage = None if s3 is None else s3_location("--s3", s3)
    package_bundle(bundle_folder(bundle, models), layer, storage, out)
