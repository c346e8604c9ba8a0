"""The golden pair: one image and its vector, with which each deployment checks its model."""

from __future__ import annotations

from pathlib import Path

import msgspec

from likeness.embedding import Embedder
from likeness.model import GOLDEN, Golden
from likeness.settings import Limits

from ..demo import sample_images


def write_golden(folder: Path) -> None:
    """Write golden.json into a bundle's folder."""
    (folder / GOLDEN).write_bytes(golden_json(folder))


def golden_json(folder: Path) -> bytes:
    """A drawn image and what the bundle's network makes of it, as JSON."""
    embedder, data = Embedder(folder), next(sample_images.products()).data
    image, _ = embedder.decode(data, Limits())
    [vector] = embedder.embed([embedder.to_tensor(image)])
    golden = Golden(embedder.fingerprint, data, tuple(vector.round(6).tolist()))
    return msgspec.json.encode(golden) + b"\n"
