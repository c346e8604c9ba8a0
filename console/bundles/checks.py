"""Checks that a bundle does what its model.json promises, with images drawn for the purpose."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from likeness.embedding import Embedder, TextEmbedder, check_vector
from likeness.errors import LikenessError
from likeness.model import Descriptors
from likeness.records import Vector
from likeness.settings import Limits

from ..demo import sample_images
from ..diagnostics.findings import Finding
from .adapter import load_map

_EDITS = ("half size", "cropped by a tenth", "brighter")
# Two of the five colours in which each shape is drawn.
_COLOURS, _COLOURS_USED = 5, 2
# A batch may be rounded otherwise than a single image; a larger difference would reorder results.
_MIN_BATCH_COSINE = 0.99
# Chance finds one original in twelve, even an untrained network four in five.
_MIN_FOUND_SHARE = 0.75
_RUNS = 15
_UNIT_TOLERANCE = 0.01
_MB = 1e6


def check_bundle(folder: Path) -> list[Finding]:
    """One finding or more for each part; a check that raises is a finding too."""
    try:
        bundle = _BundleChecks(folder)
    except LikenessError as error:
        return [Finding("bundle", False, str(error), "Fetch or import it again.")]
    findings = [bundle.summary()]
    checks = (
        *(bundle.vectors, bundle.repeats, bundle.batches, bundle.neighbours, bundle.speed),
        *(bundle.local_descriptors, bundle.text, bundle.adapter),
    )
    for check in checks:
        findings += _guarded(check)
    return findings


def drawn_items() -> list[sample_images.Item]:
    """Twelve drawn products: six shapes in two colours each."""
    return [p for i, p in enumerate(sample_images.products()) if i % _COLOURS < _COLOURS_USED]


def _guarded(check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except LikenessError as error:
        return [Finding(check.__name__, False, str(error), "Is model.json another model's?")]


class _BundleChecks:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._embedder = Embedder(folder)
        self._spec = self._embedder.spec

    def summary(self) -> Finding:
        spec = self._spec
        mb = sum((self._folder / name).stat().st_size for name in spec.files) / _MB
        return Finding(
            "bundle",
            True,
            f"{spec.name} {spec.version}, {spec.licence}, {mb:.1f} MB, "
            f"fingerprint {spec.fingerprint}",
        )

    def vectors(self) -> list[Finding]:
        for vector in self._originals:
            check_vector(vector)
        side = f"{self._spec.input.width} × {self._spec.input.height}"
        return [Finding("vectors", True, f"{self._embedder.dim} dimensions from {side} pixels")]

    def repeats(self) -> list[Finding]:
        again = self._embed_each(self._tensors)
        if np.array_equal(again, self._originals):
            return [Finding("determinism", True, "the same image twice gives the same vector")]
        fix = "Export it in evaluation mode: dropout or another random layer is still active."
        return [Finding("determinism", False, "the same image twice gives two vectors", fix)]

    def batches(self) -> list[Finding]:
        together = self._embedder.embed(self._tensors)
        cosine = float((together * self._originals).sum(axis=1).min())
        found = f"a batch of {len(together)} compared with each alone: cosine {cosine:.5f} or more"
        fix = "" if cosine >= _MIN_BATCH_COSINE else "Export it with a batch axis of 1."
        return [Finding("batches", not fix, found, fix)]

    def neighbours(self) -> list[Finding]:
        nearest = [
            int((self._originals @ self._vector(sample_images.edited(item, edit))).argmax())
            for item in drawn_items()
            for edit in _EDITS
        ]
        right = sum(found == i // len(_EDITS) for i, found in enumerate(nearest))
        share = f"{right} of {len(nearest)} edited copies find their original"
        ok = right >= _MIN_FOUND_SHARE * len(nearest)
        fix = "" if ok else "Check resize and normalise in model.json, or try another --preset."
        return [Finding("neighbours", ok, share, fix)]

    def speed(self) -> list[Finding]:
        image, took_ms = drawn_items()[0].image, []
        for _ in range(_RUNS):
            start_s = time.perf_counter()
            self._embedder.embed([self._embedder.to_tensor(image)])
            took_ms.append((time.perf_counter() - start_s) * 1000)
        found = f"p50 {statistics.median(took_ms):.1f} ms an image, one thread, on this machine"
        return [Finding("latency", True, found)]

    def local_descriptors(self) -> list[Finding]:
        """Patches and local descriptors, if the bundle has any."""
        spec, outputs = self._spec, self._embedder.extract(self._tensors[:2])
        pairs = (("patches", spec.patches, outputs.patches), ("local", spec.local, outputs.local))
        return [
            _check_unit_length(name, declared, values)
            for name, declared, values in pairs
            if declared and values is not None
        ]

    def text(self) -> list[Finding]:
        """The text encoder, if the bundle has one. Its quality is reported, but never wrong."""
        if self._spec.text is None:
            return []
        encoder = TextEmbedder(self._folder)
        kinds = [item.metadata["category"] for item in drawn_items()]
        captions = list(dict.fromkeys(kinds))
        texts = [f"a photo of a {kind}" for kind in captions]
        vectors = np.concatenate([encoder.embed([text]) for text in texts])
        again = np.concatenate([encoder.embed([text]) for text in texts])
        for vector in vectors:
            check_vector(vector)
        if not np.array_equal(vectors, again):
            return [Finding("text", False, "the same text gives two vectors")]
        if len(np.unique(vectors.round(5), axis=0)) < len(texts):
            fix = "Is the tokenizer this model's?"
            return [Finding("text", False, "different texts have the same vector", fix)]
        nearest = (vectors @ self._originals.T).argmax(axis=1)
        right = sum(kinds[i] == kind for i, kind in zip(nearest, captions, strict=True))
        found = f"{right} of {len(texts)} captions are nearest to their drawing (chance finds 1)"
        return [Finding("text", True, f"{vectors.shape[1]} dimensions; {found}")]

    def adapter(self) -> list[Finding]:
        """The map for stored vectors, if the bundle has one."""
        if self._spec.adapter is None:
            return []
        load_map(self._folder, self._spec)
        return [Finding("adapter", True, f"maps vectors of model {self._spec.adapter.base}")]

    @cached_property
    def _tensors(self) -> list[NDArray[Any]]:
        return [self._embedder.to_tensor(item.image) for item in drawn_items()]

    @cached_property
    def _originals(self) -> Vector:
        return self._embed_each(self._tensors)

    def _embed_each(self, tensors: Sequence[NDArray[Any]]) -> Vector:
        return np.concatenate([self._embedder.embed([tensor]) for tensor in tensors])

    def _vector(self, data: bytes) -> Vector:
        image, _ = self._embedder.decode(data, Limits())
        [vector] = self._embed_each([self._embedder.to_tensor(image)])
        return np.asarray(vector)


def _check_unit_length(name: str, declared: Descriptors, values: NDArray[np.float32]) -> Finding:
    lengths = np.linalg.norm(values, axis=2)
    found = f"{declared.side} × {declared.side} descriptors of {declared.dim} dimensions"
    if np.abs(lengths - 1).max() <= _UNIT_TOLERANCE:  # False for NaN
        return Finding(name, True, found)
    fix = "Normalise them inside the network: each must have length 1."
    return Finding(
        name, False, f"{found}, of length {lengths.min():.2f} to {lengths.max():.2f}", fix
    )
