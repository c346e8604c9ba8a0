"""Downloads a known bundle's files from the hub and makes a checked bundle of them."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID

from likeness.errors import ModelBundleError

from ..terminal import byte_progress
from . import bundle_folder
from .builder import Recipe, build
from .bundle_folder import IMAGE_FILE, TEXT_FILE, TOKENIZER_FILE
from .bundle_reader import load_bundle
from .hub import Hub, HubError, LockFile
from .presets import PRESETS
from .registry import KNOWN_BUNDLES, KnownBundle
from .spec_inference import Provenance, TextFiles

_NAMES = (IMAGE_FILE, TEXT_FILE, TOKENIZER_FILE)


def pull(name: str, with_text: bool, models: Path, out: Console) -> None:
    """Make the known bundle models/NAME, unless it is there already.

    Raises as Hub.fetch and `build` do; FileExistsError comes before the download.
    """
    known = _find(name, with_text)
    target = models / name
    with contextlib.suppress(ModelBundleError):
        spec, _ = load_bundle(target)
        if spec.text or not with_text:
            out.print(f"{escape(str(target))} exists: nothing to download")
            return
    bundle_folder.check_target(target, replace=True)
    downloads = models / f".{name}"
    image, *text = _download(known, with_text, downloads, LockFile(models / "lock.json"), out)
    origin = known.files[0]
    provenance = Provenance(name, origin.revision[:7], known.licence, f"huggingface.co: {origin}")
    recipe = Recipe(provenance, PRESETS[known.preset], int8=known.quantise)
    build(target, recipe, image, TextFiles(*text) if text else None, replace=True, out=out)
    shutil.rmtree(downloads)


def _find(name: str, with_text: bool) -> KnownBundle:
    found = next((known for known in KNOWN_BUNDLES if known.name == name), None)
    if found is None:
        names = ", ".join(known.name for known in KNOWN_BUNDLES)
        raise HubError(
            f"{name} is not among the known bundles ({names}); `likeness model import` makes a "
            "bundle of any ONNX file"
        )
    if not found.files:
        raise HubError(f"the hub has no ONNX file of {name}: {found.alternative}")
    if with_text and not found.has_text_encoder:
        raise HubError(f"{name} has no text encoder: pull it without --text")
    return found


def _download(
    known: KnownBundle, with_text: bool, folder: Path, lock: LockFile, out: Console
) -> list[bytes]:
    """The image network and, with text, the text encoder and its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    hub, files = Hub.from_env(), known.files if with_text else known.files[:1]
    with byte_progress(out) as progress:
        for name, source in zip(_NAMES, files, strict=False):
            task = progress.add_task(name, total=None)

            def report(received: int, total: int | None, task: TaskID = task) -> None:
                progress.update(task, completed=received, total=total)

            hub.fetch(source, folder / name, lock, report)
    return [(folder / name).read_bytes() for name in _NAMES[: len(files)]]
