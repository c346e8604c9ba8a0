"""From ONNX files, fetched or one's own, to a bundle that passed its test; told as it goes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from likeness.errors import ModelBundleError
from likeness.model import ModelSpec

from ..diagnostics.doctor import Finding
from . import builder, checks
from .builder import About, Choice, Preset, Text
from .bundle_reader import load_bundle
from .hub import Hub, HubError, LockFile
from .quantization import quantised
from .registry import KNOWN, Known

_NAMES = (builder.IMAGE_FILE, builder.TEXT_FILE, builder.TOKENIZER_FILE)
# Below this, int8 would reorder results.
_LEAST_AGREEMENT = 0.9


def pull(name: str, with_text: bool, models: Path, out: Console) -> None:
    """Bring a known bundle to models/NAME. Raises as Hub.fetch and `make` do, before the download
    where something else is there.
    """
    known = _known(name, with_text)
    target = models / name
    with contextlib.suppress(ModelBundleError):
        spec, _ = load_bundle(target)
        if spec.text or not with_text:
            out.print(f"{escape(str(target))} is there already: nothing to download")
            return
    builder.check_place(target, replace=True)
    downloads = models / f".{name}"
    image, *tower = _download(known, with_text, downloads, LockFile(models / "lock.json"), out)
    origin = known.files[0]
    about = About(name, origin.revision[:7], known.licence, f"huggingface.co: {origin}")
    preset, text = builder.PRESETS[known.preset], Text(*tower) if tower else None
    make(target, about, preset, Choice(), image, text, known.quantise, True, out)
    shutil.rmtree(downloads)


def make(
    target: Path,
    about: About,
    preset: Preset,
    choice: Choice,
    image: bytes,
    text: Text | None,
    int8: bool,
    replace: bool,
    out: Console,
) -> None:
    """Write the bundle folder `target`, unless it fails its test.

    Raises ModelBundleError for what cannot be a bundle, RuntimeError for one that fails its test,
    FileExistsError where something else is there.
    """
    builder.check_place(target, replace)
    with out.status("looking at the network …"):
        spec = builder.spec_of(about, preset, choice, image, text)
    _tell(spec, out)
    if int8:
        image, text = _shrunk(spec, image, text, out)
        spec = builder.spec_of(about, preset, choice, image, text)
    files = [image, text.network, text.tokenizer] if text else [image]
    with out.status("trying it on drawn pictures …"):
        builder.write(target, spec, dict(zip(_NAMES, files, strict=False)), _check)
    out.print(f"[green]made[/green]  {escape(str(target))}  fingerprint {spec.fingerprint}")
    out.print(f"  try it   LIKENESS_MODEL_DIR={escape(str(target))} likeness serve")
    out.print(f"  look     likeness model check {escape(str(target))}")
    out.print(f"  deploy   likeness model package {escape(str(target))}")


def progress_bar(out: Console) -> Progress:
    """For bytes that are sent or received."""
    return Progress(
        TextColumn("{task.description:>14}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=out,
    )


def _known(name: str, with_text: bool) -> Known:
    found = next((known for known in KNOWN if known.name == name), None)
    if found is None:
        names = ", ".join(known.name for known in KNOWN)
        raise HubError(
            f"{name} is not among the known bundles ({names}); `likeness model import` takes any "
            "ONNX file that you have"
        )
    if not found.files:
        raise HubError(f"the hub has no ONNX file of {name}: {found.instead}")
    if with_text and not found.has_words:
        raise HubError(f"{name} has no text encoder: pull it without --text")
    return found


def _download(
    known: Known, with_text: bool, folder: Path, lock: LockFile, out: Console
) -> list[bytes]:
    """The bytes of the image network and, with text, of the text encoder and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    hub, files = Hub.from_env(), known.files if with_text else known.files[:1]
    with progress_bar(out) as progress:
        for name, source in zip(_NAMES, files, strict=False):
            task = progress.add_task(name, total=None)

            def report(received: int, total: int | None, task: TaskID = task) -> None:
                progress.update(task, completed=received, total=total)

            hub.fetch(source, folder / name, lock, report)
    return [(folder / name).read_bytes() for name in _NAMES[: len(files)]]


def _shrunk(
    spec: ModelSpec, image: bytes, text: Text | None, out: Console
) -> tuple[bytes, Text | None]:
    """The networks in int8. Raises ModelBundleError where the image's vectors change too much."""
    with out.status("making it int8 …"):
        small = quantised(image)
        least = builder.agreement(spec, image, small, [item.image for item in checks.drawn()])
        small_text = Text(quantised(text.network), text.tokenizer) if text else None
    out.print(
        f"  int8       {len(image) / 1e6:.1f} → {len(small) / 1e6:.1f} MB, vectors agree with "
        f"float32's to cosine {least:.3f} or more"
    )
    if least < _LEAST_AGREEMENT:
        raise ModelBundleError("int8 changes what it sees too much: leave it in float32")
    return small, small_text


def _tell(spec: ModelSpec, out: Console) -> None:
    entry, embedding = spec.input, spec.embedding
    pooling = "" if embedding.pooling == "none" else f", pooling {embedding.pooling}"
    if embedding.skip_tokens:
        pooling += f" without the first {embedding.skip_tokens}"
    side = f"{entry.height} × {entry.width}"
    out.print(f"  input      {escape(entry.name)}  {entry.layout} {entry.dtype}  {side}")
    out.print(f"  embedding  {escape(embedding.name)}  {embedding.dim} dimensions{pooling}")
    if tower := spec.text:
        out.print(f"  words      {escape(tower.input)}  {tower.length} tokens  {tower.output}")


def _check(folder: Path) -> None:
    failed = [finding for finding in checks.examine(folder) if not finding.ok]
    if failed:
        raise RuntimeError(f"it was not made, for it fails its test: {_sentences(failed)}")


def _sentences(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{f.subject}: {f.found}. {f.mend}".rstrip() for f in findings)
