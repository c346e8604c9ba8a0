"""What a change of the model would change in search results: neighbours, and copies found."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from likeness.embedding import Embedder
from likeness.errors import ConfigurationError, ImageError, ModelBundleError, ObjectChanged
from likeness.gallery import Gallery
from likeness.images import decode
from likeness.model import load_spec
from likeness.ports import ObjectReader, VectorIndex
from likeness.proof.verdicts import Calibration, Level, load_calibration
from likeness.queries import ByImage, Query
from likeness.records import NearestQuery, Point, State
from likeness.search import Searcher
from likeness.settings import Limits

from ..evaluation.edits import EDITS, START_SIDE
from ..evaluation.metrics import Estimate, estimate
from ..evaluation.query_runner import no_store

_EDITS = [edit for edit in EDITS if edit.level in (Level.COPY, Level.EDITED)]
_LIVE = {"must": [{"key": "state", "match": {"value": State.LIVE.value}}]}

Advance = Callable[[int], None]


class LoadedModel(NamedTuple):
    """One of the two models, as the service would use it."""

    embedder: Embedder
    calibration: Calibration | None


class NeighbourOverlap(Struct, frozen=True):
    """The share of an image's nearest neighbours that both models return."""

    key: str
    overlap: float


class Comparison(Struct, frozen=True):
    """`overlap` is the mean share of the `k` nearest neighbours that both models return.

    `overlaps` has each image's, the lowest first. `found` is how often an edited copy has its
    original as first result, with the old model and with the new, of `edited` copies.
    """

    k: int
    overlap: Estimate
    overlaps: Sequence[NeighbourOverlap]
    edited: int
    found: tuple[Estimate, Estimate]


def load_model(fingerprint: str, folders: Iterable[Path]) -> LoadedModel:
    """Load the bundle with this fingerprint. Raises ConfigurationError if no folder has it."""
    for folder in folders:
        with contextlib.suppress(ModelBundleError):
            if load_spec(folder).fingerprint == fingerprint:
                return LoadedModel(Embedder(folder), load_calibration(folder, fingerprint))
    raise ConfigurationError(
        f"no bundle of model {fingerprint} was found: name its folder with --bundle"
    )


def compare(
    index: VectorIndex,
    store: ObjectReader,
    models: tuple[LoadedModel, LoadedModel],
    sample: int,
    k: int,
    seed: int,
    advance: Advance,
) -> Comparison:
    """Search with both models for sampled indexed images, and for edited copies of them.

    `advance` is called twice for each image. Raises ConfigurationError if fewer than two of them
    are in both collections, or none can be read from the bucket.
    """
    views = [index.for_model(model.embedder.fingerprint) for model in models]
    rng = np.random.default_rng(seed)
    pairs = _sample_pairs(views, sample, rng)
    overlaps = []
    for pair in pairs:
        nearest = [_neighbours(view, point, k) for view, point in zip(views, pair, strict=True)]
        overlaps.append(NeighbourOverlap(pair[0].ref.key, _overlap(*nearest)))
        advance(1)
    searchers = [
        Searcher(Gallery(view, no_store), model.embedder, model.calibration)
        for view, model in zip(views, models, strict=True)
    ]
    found = []
    for point, _ in pairs:
        if edited := _edited_copy(store, point, rng):
            found.append([_finds(searcher, edited, point) for searcher in searchers])
        advance(1)
    if not found:
        raise ConfigurationError("none of the images could be read from the bucket")
    hits = np.array(found, np.float64)
    return Comparison(
        k,
        _mean(np.array([each.overlap for each in overlaps])),
        sorted(overlaps, key=lambda each: each.overlap),
        len(found),
        (_mean(hits[:, 0]), _mean(hits[:, 1])),
    )


def _sample_pairs(
    views: Sequence[VectorIndex], sample: int, rng: np.random.Generator
) -> list[list[Point]]:
    """Sampled images' points in the old and in the new collection, where both have a vector."""
    ids = [point.id for point in _sample_live(views[0], sample, rng)]
    fetched = [view.retrieve_with_vectors(ids) for view in views]
    pairs = [
        [points[point_id] for points in fetched]
        for point_id in ids
        if all(point_id in points and points[point_id].vector is not None for points in fetched)
    ]
    if len(pairs) < 2:
        raise ConfigurationError(
            f"{len(pairs)} of {len(ids)} images are in both collections: fill the new one first"
        )
    return pairs


def _sample_live(index: VectorIndex, count: int, rng: np.random.Generator) -> list[Point]:
    """Live points from a random id on. Ids are hashes, so consecutive ones are a random sample."""
    start = str(uuid.UUID(bytes=rng.bytes(16)))
    points = list(index.scroll(count, start, _LIVE).points)
    first = index.scroll(count - len(points), None, _LIVE).points if len(points) < count else []
    return list({point.id: point for point in (*points, *first)}.values())


def _neighbours(index: VectorIndex, point: Point, k: int) -> set[str]:
    """Ids of the k nearest points, without the point itself."""
    assert point.vector is not None
    others = {"must_not": [{"has_id": [point.id]}]}
    [found] = index.nearest([NearestQuery([point.vector], k, filter=others)])
    return {candidate.point.id for candidate in found}


def _overlap(old: set[str], new: set[str]) -> float:
    """The shared part. A small collection has fewer than k neighbours to divide by."""
    return len(old & new) / max(1, len(old), len(new))


def _edited_copy(store: ObjectReader, point: Point, rng: np.random.Generator) -> bytes | None:
    """A random edit of the object's image, or None if the object has changed or is unreadable."""
    assert point.object is not None
    try:
        body = store.read(point.ref, point.object.etag, Limits().max_bytes)
        image, _ = decode(body.data, Limits(), START_SIDE)
    except (ObjectChanged, ImageError):
        return None
    edit = _EDITS[rng.integers(len(_EDITS))]
    return edit.make(image, lambda: image, rng)


def _finds(searcher: Searcher, edited: bytes, original: Point) -> bool:
    """Whether the first result is the original, or another object with the same bytes."""
    try:
        results = searcher.search(Query(ByImage(edited), limit=1)).results
    except ImageError:  # the model rejects the edited image
        return False
    return bool(results) and results[0].point.sha256 == original.sha256


def _mean(values: NDArray[np.float64]) -> Estimate:
    return estimate(values, np.arange(len(values)))
