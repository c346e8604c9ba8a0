"""`likeness calibrate`: verdicts that fit your images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..bundles.registry import BUNDLED_MODEL
from ..terminal import out


def calibrate(
    dataset: Annotated[
        Path, typer.Argument(help="A folder of images, or a CSV: path, label, instance, split.")
    ],
    model: Annotated[
        Path,
        typer.Option(
            envvar="LIKENESS_MODEL_DIR",
            help="The bundle to calibrate.",
            show_default="the included model",
        ),
    ] = BUNDLED_MODEL,
    split: Annotated[str | None, typer.Option(help="Use only this split of a CSV.")] = None,
    pictures: Annotated[int, typer.Option(min=20, help="Number of images to use.")] = 300,
    target: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for calibration.json; by default the bundle's."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only measure the quality; write nothing.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the sample and the edits.")] = 0,
) -> None:
    """Fit the verdicts to your images: exact, copy, edited, same item, similar.

    Each image is edited in known ways and compared with its nearest neighbours. A calibration
    fitted to half of the images is measured with the other half; then one fitted to all of them is
    written to calibration.json in the bundle. Labels say which images are similar, instances
    which are the same item. Deploy the bundle again afterwards.

    - `likeness calibrate photos/ --dry-run`
    - `likeness calibrate photos/`
    """
    from ..evaluation import calibrator  # noqa: PLC0415 - loads onnxruntime

    calibrator.run(dataset, split, model, target or model, pictures, seed, dry_run, out)
