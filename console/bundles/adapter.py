"""A linear map on a bundle's vectors, and the file in which an adapted bundle keeps it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from likeness.embedding import unit_rows
from likeness.errors import ModelBundleError
from likeness.model import ModelSpec, read_file
from likeness.records import Vector

ADAPTER_FILE = "adapter.npz"


class LinearMap(NamedTuple):
    """x → normalise((x − mean) · matrix), for unit vectors x.

    mean: float32 (D,). matrix: float32 (D, R), R ≤ D.
    """

    mean: NDArray[np.float32]
    matrix: NDArray[np.float32]

    def apply(self, vectors: NDArray[np.float32]) -> Vector:
        """Unit rows (N, D) → unit rows (N, R)."""
        mapped = (vectors - self.mean) @ self.matrix
        return unit_rows(mapped.astype(np.float32, copy=False))

    def to_bytes(self) -> bytes:
        out = io.BytesIO()
        np.savez(out, mean=self.mean, matrix=self.matrix)
        return out.getvalue()


def load_map(folder: Path, spec: ModelSpec) -> LinearMap:
    """The map of an adapted bundle. Raises ModelBundleError if it has none, or a damaged one."""
    if spec.adapter is None:
        raise ModelBundleError(f"{folder} is not an adapted bundle")
    name = spec.adapter.file
    try:
        with np.load(io.BytesIO(read_file(folder, spec, name)), allow_pickle=False) as arrays:
            found = LinearMap(arrays["mean"], arrays["matrix"])
    # TypeError: an array that is not in an archive
    except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ModelBundleError(f"{folder / name} is not an adapter: {error}") from error
    if found.mean.ndim != 1 or found.matrix.shape != (*found.mean.shape, spec.embedding.dim):
        raise ModelBundleError(
            f"{folder / name} maps {found.mean.shape} to {found.matrix.shape}, "
            f"the bundle has {spec.embedding.dim} dimensions"
        )
    if any(each.dtype != np.float32 or not np.isfinite(each).all() for each in found):
        raise ModelBundleError(f"{folder / name} has values that are no finite float32")
    return found
