"""Does a bundle do what it promises? Every part is tried on pictures that are drawn here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from likeness.embedding import Embedder, TextEmbedder, check_vector
from likeness.errors import LikenessError
from likeness.images import decode
from likeness.model import Descriptors
from likeness.records import Vector
from likeness.settings import Limits

from ..demo import sample_images
from ..diagnostics.doctor import Finding

_EDITS = ("half size", "cropped by a tenth", "brighter")
# Of each drawn shape, the first two colours.
_COLOURS, _COLOURS_TAKEN = 5, 2
# A batch may round otherwise than a single picture; more would reorder results.
_SAME_COSINE = 0.99
# Chance finds one in twelve, even an untrained network four in five.
_FOUND_SHARE = 0.75
_RUNS = 15
_UNIT_TOLERANCE = 0.01
_MB = 1e6


def examine(folder: Path) -> list[Finding]:
    """One finding for each part, in the order of reading; a part that raises is a finding."""
    try:
        bundle = _Bundle(folder)
    except LikenessError as error:
        return [Finding("bundle", False, str(error), "Fetch or import it anew.")]
    findings = [bundle.about()]
    checks = (
        *(bundle.vectors, bundle.repeats, bundle.batches, bundle.neighbours, bundle.speed),
        *(bundle.maps, bundle.words),
    )
    for check in checks:
        findings += _guarded(check)
    return findings


def drawn() -> list[sample_images.Item]:
    """Twelve rendered pictures: six shapes in two colours each."""
    return [p for i, p in enumerate(sample_images.products()) if i % _COLOURS < _COLOURS_TAKEN]


def _guarded(check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return check()
    except LikenessError as error:
        return [Finding(check.__name__, False, str(error), "Is it another model's model.json?")]


class _Bundle:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._embedder = Embedder(folder)
        self._spec = self._embedder.spec

    def about(self) -> Finding:
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
        again = self._alone(self._tensors)
        if np.array_equal(again, self._originals):
            return [Finding("determinism", True, "the same picture twice gives the same vector")]
        mend = "Export it in evaluation mode: dropout or another random part is still on."
        return [Finding("determinism", False, "the same picture gives two vectors", mend)]

    def batches(self) -> list[Finding]:
        together = self._embedder.embed(self._tensors)
        least = float((together * self._originals).sum(axis=1).min())
        found = f"a batch of {len(together)} against each alone: cosine {least:.5f} or more"
        mend = "" if least >= _SAME_COSINE else "Export it with a batch axis of 1."
        return [Finding("batches", not mend, found, mend)]

    def neighbours(self) -> list[Finding]:
        nearest = [
            int((self._originals @ self._vector(sample_images.edited(item, edit))).argmax())
            for item in drawn()
            for edit in _EDITS
        ]
        right = sum(found == i // len(_EDITS) for i, found in enumerate(nearest))
        share = f"{right} of {len(nearest)} edited copies find their original"
        ok = right >= _FOUND_SHARE * len(nearest)
        mend = "" if ok else "Look at resize and normalise in model.json: another --preset?"
        return [Finding("neighbours", ok, share, mend)]

    def speed(self) -> list[Finding]:
        image, took_ms = drawn()[0].image, []
        for _ in range(_RUNS):
            start_s = time.perf_counter()
            self._embedder.embed([self._embedder.to_tensor(image)])
            took_ms.append((time.perf_counter() - start_s) * 1000)
        found = f"p50 {statistics.median(took_ms):.1f} ms a picture, one thread, on this machine"
        return [Finding("latency", True, found)]

    def maps(self) -> list[Finding]:
        """Local descriptors, where the bundle has any."""
        spec, found = self._spec, self._embedder.extract(self._tensors[:2])
        maps = (("patches", spec.patches, found.patches), ("local", spec.local, found.local))
        return [_map(name, told, given) for name, told, given in maps if told and given is not None]

    def words(self) -> list[Finding]:
        """The text encoder, where the bundle has one. How well it understands is only told."""
        if self._spec.text is None:
            return []
        tower, kinds = TextEmbedder(self._folder), [p.metadata["category"] for p in drawn()]
        captions = list(dict.fromkeys(kinds))
        texts = [f"a photo of a {kind}" for kind in captions]
        vectors = np.concatenate([tower.embed([text]) for text in texts])
        again = np.concatenate([tower.embed([text]) for text in texts])
        for vector in vectors:
            check_vector(vector)
        if not np.array_equal(vectors, again):
            return [Finding("words", False, "the same text gives two vectors")]
        if len(np.unique(vectors.round(5), axis=0)) < len(texts):
            mend = "Is it the tokenizer of this model?"
            return [Finding("words", False, "different texts have one vector", mend)]
        nearest = (vectors @ self._originals.T).argmax(axis=1)
        right = sum(kinds[i] == kind for i, kind in zip(nearest, captions, strict=True))
        found = f"{right} of {len(texts)} captions are nearest to their drawing (chance finds 1)"
        return [Finding("words", True, f"{vectors.shape[1]} dimensions; {found}")]

    @cached_property
    def _tensors(self) -> list[NDArray[Any]]:
        return [self._embedder.to_tensor(item.image) for item in drawn()]

    @cached_property
    def _originals(self) -> Vector:
        return self._alone(self._tensors)

    def _alone(self, tensors: Sequence[NDArray[Any]]) -> Vector:
        return np.concatenate([self._embedder.embed([tensor]) for tensor in tensors])

    def _vector(self, picture: bytes) -> Vector:
        image: Image.Image = decode(picture, Limits(), self._embedder.decode_size)[0]
        [vector] = self._alone([self._embedder.to_tensor(image)])
        return np.asarray(vector)


def _map(name: str, told: Descriptors, given: NDArray[np.float32]) -> Finding:
    lengths = np.linalg.norm(given, axis=2)
    found = f"{told.side} × {told.side} descriptors of {told.dim} dimensions"
    if np.abs(lengths - 1).max() <= _UNIT_TOLERANCE:  # False for NaN
        return Finding(name, True, found)
    mend = "Normalise them inside the network: each must have length 1."
    return Finding(
        name, False, f"{found}, of length {lengths.min():.2f} to {lengths.max():.2f}", mend
    )
