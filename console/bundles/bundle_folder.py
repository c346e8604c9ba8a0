"""A bundle's folder on disk: its files, and how it is written atomically."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from likeness.model import MANIFEST, ModelSpec
from likeness.proof.verdicts import CALIBRATION

IMAGE_FILE, TEXT_FILE, TOKENIZER_FILE = "image.onnx", "text.onnx", "tokenizer.json"


def deployed_files(folder: Path, spec: ModelSpec) -> list[str]:
    """The files of a bundle that the functions read, model.json first."""
    calibration = [CALIBRATION] if (folder / CALIBRATION).exists() else []
    return [MANIFEST, *spec.files, *calibration]


def check_target(target: Path, replace: bool, made: Collection[str] = ()) -> None:
    """Raise FileExistsError unless a bundle can be written there.

    Only a folder that contains nothing but the files of an import is replaced, and those that the
    caller `made` besides them.
    """
    if not target.exists():
        return
    names = {path.name for path in target.iterdir()} if target.is_dir() else set()
    if MANIFEST not in names:
        raise FileExistsError(f"{target} exists and is not a bundle: choose another name")
    if foreign := sorted(names - {MANIFEST, IMAGE_FILE, TEXT_FILE, TOKENIZER_FILE, *made}):
        raise FileExistsError(
            f"{target} exists, and {foreign[0]} in it would be lost: move that file away, or "
            "choose another name"
        )
    if not replace:
        raise FileExistsError(f"{target} exists: choose another name, or replace it with --force")


def write(
    target: Path, spec: ModelSpec, files: Mapping[str, bytes], complete: Callable[[Path], None]
) -> None:
    """Write a bundle folder and replace an existing one; on an error nothing changes.

    `complete` gets the folder before it is moved to `target`: it raises if the bundle is unusable,
    and may add what is made with its network.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name, data in files.items():
            (new / name).write_bytes(data)
        manifest = msgspec.json.format(msgspec.json.encode(spec, order="deterministic"), indent=2)
        (new / MANIFEST).write_bytes(manifest + b"\n")
        complete(new)
        replace_folder(target, new, mode=0o755)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def replace_folder(target: Path, new: Path, mode: int) -> None:
    """Rename `new`, a sibling folder, to `target`; the old one is deleted afterwards."""
    old = new.with_name(f"{new.name}.old")
    new.chmod(mode)
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
