"""The model layer in the repository: whether a bundle fits on Lambda, and how it is installed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from msgspec import Struct

from likeness.errors import ConfigurationError
from likeness.model import MANIFEST, ModelSpec
from likeness.settings import MIB

from .bundle_folder import deployed_files, replace_folder
from .bundle_reader import load_bundle
from .golden import write_golden

# AWS Lambda's quota for a deployment package with its layers, unzipped: 262,144,000 bytes.
LAMBDA_BYTES = 250 * MIB
# What `make build` reports for the largest function, without its model, rounded up.
RUNTIME_BYTES = 148 * MIB
# The build's own, lower limit: MAX_UNZIPPED_MB in the Makefile.
BUILD_BYTES = 200 * MIB
_MAKEFILE = "Makefile"


class DeployedSize(Struct, frozen=True):
    """The size of a deployment with this bundle, unzipped."""

    bundle_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.bundle_bytes + RUNTIME_BYTES

    @property
    def fits(self) -> bool:
        return self.total_bytes <= LAMBDA_BYTES

    @property
    def exceeds_build_limit(self) -> bool:
        """Whether the build's own limit must be raised."""
        return self.total_bytes > BUILD_BYTES

    def __str__(self) -> str:
        return (
            f"{self.bundle_bytes / MIB:.0f} MB and {RUNTIME_BYTES / MIB:.0f} MB of runtime are "
            f"{self.total_bytes / MIB:.0f} of the {LAMBDA_BYTES / MIB:.0f} MB that Lambda allows"
        )


def measure(folder: Path) -> tuple[ModelSpec, DeployedSize]:
    """A bundle's spec and size. Raises ModelBundleError if it is missing or damaged."""
    spec, files = load_bundle(folder)
    manifest_bytes = (folder / MANIFEST).stat().st_size
    return spec, DeployedSize(manifest_bytes + sum(len(data) for data in files.values()))


def install(folder: Path, spec: ModelSpec, layer: Path) -> None:
    """Replace the layer's bundle with this one and its golden pair; on an error nothing changes.

    Raises ConfigurationError if `layer` is not a model layer.
    """
    makefile = layer / _MAKEFILE
    if not makefile.is_file():
        raise ConfigurationError(
            f"{layer} is not a model layer (it has no Makefile): run this in the repository, "
            "or name the layer with --layer"
        )
    if folder.resolve() == layer.resolve():
        return
    new = Path(tempfile.mkdtemp(prefix=f".{layer.name}-", dir=layer.parent))
    try:
        for name in deployed_files(folder, spec):
            shutil.copyfile(folder / name, new / name)
        shutil.copy(makefile, new / _MAKEFILE)
        write_golden(new)
        replace_folder(layer, new, layer.stat().st_mode)
    finally:
        shutil.rmtree(new, ignore_errors=True)
