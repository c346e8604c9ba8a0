"""`likeness evaluate`: retrieval quality, latency, and what each rerank stage gains."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from ..bundles.registry import BUNDLED_MODEL
from ..local.data_folder import DEFAULT_DATA
from ..terminal import count_progress, err, out

Dataset = Annotated[
    Path | None,
    typer.Argument(
        help="A folder of images, a folder for each class, or a CSV: path, label, instance, "
        "split, ignore (an instance that does not count)."
    ),
]
Synthetic = Annotated[
    bool, typer.Option("--synthetic", help="Make the queries by editing the images.")
]
Feedback = Annotated[
    bool,
    typer.Option("--feedback", help="Measure by callers' feedback in the index at QDRANT_URL."),
]
Model = Annotated[
    Path,
    typer.Option(
        envvar="LIKENESS_MODEL_DIR",
        help="The bundle to evaluate.",
        show_default="the included model",
    ),
]
Queries = Annotated[int, typer.Option(min=1, help="Number of queries.")]
Split = Annotated[
    str | None,
    typer.Option(help="Use only this split of a CSV; test:iconic are queries and gallery."),
]
Out = Annotated[
    Path,
    typer.Option("--out", help="Folder for evaluation.json, the HTML report and cached features."),
]
Baseline = Annotated[Path | None, typer.Option(help="An earlier evaluation.json to compare with.")]
Tolerance = Annotated[
    float, typer.Option(min=0, max=1, help="How much lower R@1 and mAP may be than the baseline's.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the queries and the edits.")]


def evaluate(
    dataset: Dataset = None,
    synthetic: Synthetic = False,
    feedback: Feedback = False,
    model: Model = BUNDLED_MODEL,
    queries: Queries = 500,
    split: Split = None,
    target: Out = DEFAULT_DATA / "evaluate",
    baseline: Baseline = None,
    tolerance: Tolerance = 0.01,
    seed: Seed = 0,
) -> None:
    """Measure how well images are found, how fast, and what each rerank stage gains.

    Images are searched as the service does it, with each profile. Splits named query or test are
    searched in those named gallery, train or iconic; without splits, each image is searched among
    the others. Features are cached in --out.

    - `likeness evaluate photos/ --synthetic`: are edited copies found? Works with any images
    - `likeness evaluate products.csv --baseline old/evaluation.json`: for CI; exits with
      1 if R@1 or mAP of a profile dropped
    - `likeness evaluate --feedback`: repeat the queries that callers gave feedback on
    """
    from ..evaluation import evaluator, reporting, results  # noqa: PLC0415 - loads onnxruntime

    if feedback:
        if dataset or synthetic or split or baseline:
            raise typer.BadParameter(
                "--feedback takes no dataset, --synthetic, --split or --baseline"
            )
        _evaluate_feedback(model, queries, seed, target)
        return
    if dataset is None:
        raise typer.BadParameter(
            "name a folder or a CSV; or use --feedback to measure the live index"
        )
    before = results.read(baseline) if baseline else None
    options = evaluator.Options(model, target, synthetic, split, queries, seed)
    with count_progress() as progress:
        found, misses = evaluator.evaluate(dataset, options, progress, before)
    reporting.show(found, out)
    file, page = target / results.RESULTS, target / reporting.PAGE
    results.write(found, file)
    page.write_text(reporting.page(found, misses), encoding="utf-8")
    out.print(f"written: {file}, and with images {page}", soft_wrap=True)
    dropped = results.drops(before, found, tolerance) if before else []
    for line in dropped:
        err.print(f"[red]dropped by more than {tolerance:g}[/red]  {escape(line)}", soft_wrap=True)
    if before and not dropped:
        out.print(f"nothing dropped by more than {tolerance:g} below {baseline}", soft_wrap=True)
    raise typer.Exit(1 if dropped else 0)


def _evaluate_feedback(model: Path, queries: int, seed: int, target: Path) -> None:
    from likeness.adapters.index import open_index  # noqa: PLC0415
    from likeness.settings import Settings  # noqa: PLC0415

    from ..evaluation import feedback_evaluation, reporting, results  # noqa: PLC0415

    with (
        contextlib.closing(open_index(Settings.from_env(os.environ))) as index,
        count_progress() as progress,
    ):
        found = feedback_evaluation.evaluate(index, model, queries, seed, progress)
    reporting.show_feedback(found, out)
    file = target / feedback_evaluation.RESULTS
    results.write(found, file)
    out.print(f"written: {file}", soft_wrap=True)
