"""`likeness adapt`: a bundle that fits your products."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..bundles.registry import BUNDLED_MODEL
from ..local.data_folder import DEFAULT_DATA
from ..terminal import count_progress, err, out
from .connection import use_local
from .options import DEFAULT_MODELS, Data, Json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from likeness.ports import VectorIndex

Source = Annotated[
    Path | None,
    typer.Argument(
        help="A folder for each product; a CSV: path, and product, instance or label, split; or a "
        "CSV of pairs: photo, catalogue."
    ),
]
Feedback = Annotated[
    bool,
    typer.Option(
        "--feedback", help="Learn from callers' feedback in the local index, or at QDRANT_URL."
    ),
]
Model = Annotated[
    Path,
    typer.Option(
        envvar="LIKENESS_MODEL_DIR",
        help="The bundle to adapt.",
        show_default="the included model",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Use only this split; of train:iconic the second has the catalogue pictures."
    ),
]
General = Annotated[
    Path | None,
    typer.Option(
        help="Other images, in which nothing may be lost. [default: the demo's images]",
        show_default=False,
    ),
]
Pictures = Annotated[
    int, typer.Option(min=20, help="Number of images to use; more are drawn by product.")
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="The new bundle's folder. [default: .likeness/models/NAME-adapted]",
        show_default=False,
    ),
]
Check = Annotated[
    bool, typer.Option("--check", help="Only say whether an adapter gains; write nothing.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an adapted bundle that exists.")]
Cache = Annotated[Path, typer.Option(help="Folder of cached features.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of what is drawn, and of the edits.")]


def adapt(
    source: Source = None,
    feedback: Feedback = False,
    model: Model = BUNDLED_MODEL,
    split: Split = None,
    general: General = None,
    pictures: Pictures = 5000,
    target: Out = None,
    check: Check = False,
    as_json: Json = False,
    force: Force = False,
    cache: Cache = DEFAULT_DATA / "adapt",
    seed: Seed = 0,
    data: Data = DEFAULT_DATA,
) -> None:
    """Learn what counts as the same in your products: a linear map behind the bundle's network.

    The map is tried on products that it did not learn from. Only if it finds more of them, and
    neither edited copies nor other images become harder to find, a new bundle is written, with
    verdicts calibrated anew. `likeness migrate` brings it into service without reading an image
    again. An interrupted run goes on where it stopped.

    Exits with 0 if an adapter gains, with 1 if none does or the data cannot be used; then nothing
    is written.

    - `likeness adapt products/`: a folder for each product
    - `likeness adapt products.csv --split photo:catalogue`: photos, and their catalogue pictures
    - `likeness adapt --feedback --check --json`: for a pipeline; exits with 1 if there is no gain
    """
    if feedback == (source is not None):
        raise typer.BadParameter("name a folder or a CSV, or use --feedback")
    if feedback and split:
        raise typer.BadParameter("--split goes with a CSV or a folder, not with --feedback")
    if check and (target or force):
        raise typer.BadParameter("--check writes no bundle: leave out --out and --force")

    from likeness.model import load_spec  # noqa: PLC0415

    from ..adaptation import adaptation, results  # noqa: PLC0415 - loads onnxruntime

    name = f"{load_spec(model).name.removesuffix('-adapted')}-adapted"
    folder = None if check else target or DEFAULT_MODELS / name
    options = adaptation.Options(model, cache, folder, force, general, pictures, seed)
    with _opened(source, data) as opened, count_progress(err if as_json else out) as progress:
        found = adaptation.adapt(opened, split, options, progress)
    if as_json:
        import msgspec  # noqa: PLC0415

        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())  # noqa: T201
    else:
        results.show(found, out)
        if found.bundle:
            _print_next(found.bundle, found.fingerprint or "")
    raise typer.Exit(0 if found.outcome == "gain" else 1)


@contextlib.contextmanager
def _opened(source: Path | None, data: Path) -> Iterator[VectorIndex | Path]:
    """The images, or else the running service's index, or the one at QDRANT_URL."""
    if source is not None:
        yield source
        return
    service = use_local(data)
    if service:
        from typing import cast  # noqa: PLC0415

        from ..local.index_sharing import RunningIndex  # noqa: PLC0415

        yield cast("VectorIndex", RunningIndex(service.index_port, service.index_key.encode()))
        return
    from likeness.adapters.index import open_index  # noqa: PLC0415
    from likeness.settings import Settings  # noqa: PLC0415

    with contextlib.closing(open_index(Settings.from_env(os.environ))) as index:
        yield index


def _print_next(bundle: str, fingerprint: str) -> None:
    shown = escape(bundle)
    out.print(f"[green]made[/green]  {shown}  fingerprint {fingerprint}", soft_wrap=True)
    out.print(f"  try it   LIKENESS_MODEL_DIR={shown} likeness serve --data FOLDER", soft_wrap=True)
    out.print(f"  measure  likeness evaluate DATASET --model {shown}", soft_wrap=True)
    out.print(f"  use it   likeness migrate start {shown}", soft_wrap=True)
