"""Reads a whole bundle and verifies each of its files."""

from __future__ import annotations

from pathlib import Path

from likeness.model import ModelSpec, load_spec, read_file


def load_bundle(folder: Path) -> tuple[ModelSpec, dict[str, bytes]]:
    """The spec and every file it lists. Raises ModelBundleError that names the file or field."""
    spec = load_spec(folder)
    return spec, {name: read_file(folder, spec, name) for name in spec.files}
