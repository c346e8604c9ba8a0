"""Lists the bundled model, known bundles, and those in a folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from likeness.errors import ModelBundleError
from likeness.model import MANIFEST

from .layer import measure
from .registry import BUNDLED_MODEL, KNOWN_BUNDLES


def own_bundles(models: Path) -> list[Path]:
    """Folders of the bundles that were fetched or imported into `models`."""
    return sorted(path.parent for path in models.glob(f"[!.]*/{MANIFEST}"))


def print_bundles(models: Path, out: Console) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("name", "licence", "size", "dims", "text"):
        table.add_column(column, no_wrap=True)  # names are there to be typed
    table.add_column("good for")
    with contextlib.suppress(ModelBundleError):
        spec, deployed = measure(BUNDLED_MODEL)
        size = f"{deployed.bundle_bytes / 1e6:.1f} MB"
        note = "the default, included: see training/README.md"
        table.add_row(spec.name, spec.licence, size, str(spec.embedding.dim), "", note)
    for known in KNOWN_BUNDLES:
        text = "yes" if known.has_text_encoder else ""
        purpose = "; ".join(filter(None, [known.good_for, known.figures]))
        table.add_row(known.name, known.licence, f"{known.mb:g} MB", str(known.dim), text, purpose)
    out.print(table)
    for folder in own_bundles(models):
        out.print(f"  yours  {escape(str(folder))}")
    out.print(
        "[dim]Figures are from the models' own papers and cards, not measured here. Sizes are of "
        "the image network; --text adds the text encoder. Weights for research only (MobileCLIP, "
        "MobileCLIP2, DFN) are not offered.[/dim]"
    )
