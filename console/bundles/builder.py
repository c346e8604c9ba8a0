"""Builds a bundle from ONNX files, and checks it before it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from rich.console import Console
from rich.markup import escape

from likeness.errors import ModelBundleError
from likeness.model import ModelSpec

from ..diagnostics.findings import Finding
from . import bundle_folder, checks
from .bundle_folder import IMAGE_FILE, TEXT_FILE, TOKENIZER_FILE
from .presets import Preset
from .quantisation import lowest_cosine, quantise
from .spec_inference import Overrides, Provenance, TextFiles, infer_spec

# With less agreement, int8 would change the order of search results.
_MIN_COSINE = 0.9


class Recipe(Struct, frozen=True):
    """How a bundle is made from its networks."""

    provenance: Provenance
    preset: Preset
    overrides: Overrides = Overrides()
    int8: bool = False


def build(
    target: Path,
    recipe: Recipe,
    image: bytes,
    text: TextFiles | None,
    replace: bool,
    out: Console,
) -> None:
    """Write the bundle folder `target`, unless the bundle fails its checks.

    Raises ModelBundleError if the files cannot be a bundle, RuntimeError if the bundle fails its
    checks, FileExistsError if something else is at `target`.
    """
    bundle_folder.check_target(target, replace)
    with out.status("inspecting the network …"):
        spec = infer_spec(recipe.provenance, recipe.preset, recipe.overrides, image, text)
    _print_spec(spec, out)
    if recipe.int8:
        image, text = _quantised(spec, image, text, out)
        spec = infer_spec(recipe.provenance, recipe.preset, recipe.overrides, image, text)
    files = {IMAGE_FILE: image}
    if text:
        files |= {TEXT_FILE: text.network, TOKENIZER_FILE: text.tokenizer}
    with out.status("testing it with drawn images …"):
        bundle_folder.write(target, spec, files, require_sound)
    out.print(f"[green]made[/green]  {escape(str(target))}  fingerprint {spec.fingerprint}")
    out.print(f"  try it   LIKENESS_MODEL_DIR={escape(str(target))} likeness serve --data FOLDER")
    out.print(f"  check    likeness model check {escape(str(target))}")
    out.print(f"  deploy   likeness model package {escape(str(target))}")


def _quantised(
    spec: ModelSpec, image: bytes, text: TextFiles | None, out: Console
) -> tuple[bytes, TextFiles | None]:
    """The networks in int8. Raises ModelBundleError if the image vectors change too much."""
    with out.status("quantising to int8 …"):
        small = quantise(image)
        cosine = lowest_cosine(spec, image, small, [item.image for item in checks.drawn_items()])
        small_text = TextFiles(quantise(text.network), text.tokenizer) if text else None
    out.print(
        f"  int8       {len(image) / 1e6:.1f} → {len(small) / 1e6:.1f} MB, vectors agree with "
        f"float32's: cosine {cosine:.3f} or more"
    )
    if cosine < _MIN_COSINE:
        raise ModelBundleError("int8 changes the vectors too much: leave out --int8")
    return small, small_text


def _print_spec(spec: ModelSpec, out: Console) -> None:
    entry, embedding = spec.input, spec.embedding
    pooling = "" if embedding.pooling == "none" else f", pooling {embedding.pooling}"
    if embedding.skip_tokens:
        pooling += f" without the first {embedding.skip_tokens}"
    side = f"{entry.height} × {entry.width}"
    out.print(f"  input      {escape(entry.name)}  {entry.layout} {entry.dtype}  {side}")
    out.print(f"  embedding  {escape(embedding.name)}  {embedding.dim} dimensions{pooling}")
    if text := spec.text:
        out.print(f"  text       {escape(text.input)}  {text.length} tokens  {text.output}")


def require_sound(folder: Path) -> None:
    """Raises RuntimeError where the bundle fails its checks."""
    failed = [finding for finding in checks.check_bundle(folder) if not finding.ok]
    if failed:
        raise RuntimeError(f"no bundle was made, because it fails its checks: {_joined(failed)}")


def _joined(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{f.subject}: {f.found}. {f.fix}".rstrip() for f in findings)
