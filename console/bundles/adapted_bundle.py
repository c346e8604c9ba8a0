"""A bundle whose network ends with a linear map: the folder that `likeness adapt` writes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from likeness.errors import ModelBundleError
from likeness.model import GOLDEN, Adapter, ModelSpec
from likeness.proof.verdicts import CALIBRATION

from . import bundle_folder
from .adapter import ADAPTER_FILE, LinearMap
from .builder import require_sound
from .bundle_reader import load_bundle
from .golden import write_golden
from .mapped_network import with_map

CARD = "MODEL_CARD.md"
MADE = (ADAPTER_FILE, CALIBRATION, GOLDEN, CARD)


def check_adaptable(base: Path, spec: ModelSpec, target: Path, replace: bool) -> None:
    """Before anything is computed. Raises ModelBundleError for a bundle with a text encoder,
    FileExistsError where nothing can be written to `target`.
    """
    if spec.text:
        raise ModelBundleError(
            f"{spec.name} has a text encoder, whose vectors a map learned from images may take "
            "away from the images': adapt a bundle without one"
        )
    if target.resolve() == base.resolve():
        raise FileExistsError(f"{target} is the bundle that is adapted: choose another --out")
    bundle_folder.check_target(target, replace, (*MADE, spec.image_file))


def write(
    target: Path, base: Path, mapped: LinearMap, complete: Callable[[Path, ModelSpec], None]
) -> ModelSpec:
    """Write the base's network with the map inside; on an error nothing changes.

    `complete` gets the new folder with the checked bundle and its golden pair, and may add more.
    Raises ModelBundleError, and RuntimeError if the bundle fails its checks.
    """
    spec, files = load_bundle(base)
    network, output = with_map(files[spec.image_file], spec.embedding, mapped)
    changed = {spec.image_file: network, ADAPTER_FILE: mapped.to_bytes()}
    adapted = msgspec.structs.replace(
        spec,
        name=f"{spec.name.removesuffix('-adapted')}-adapted",
        source=f"Adapted from {spec.name} {spec.version}, {spec.fingerprint}: {CARD}.",
        files={name: hashlib.sha256(data).hexdigest() for name, data in changed.items()},
        embedding=output,
        adapter=Adapter(spec.fingerprint, ADAPTER_FILE),
    )

    def finish(folder: Path) -> None:
        require_sound(folder)
        write_golden(folder)
        complete(folder, adapted)

    bundle_folder.write(target, adapted, changed, finish)
    return adapted
