"""Fills the collection of an adapted model from that of the model it was adapted from.

The adapted network ends with a linear map, so a stored vector is mapped, and no image is read.
Everything else of a point stays as it is: metadata, local descriptors and patches, duplicates, the
reasons of rejected objects, tombstones, and the version, which decides between two writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from msgspec import structs

from likeness.errors import ModelBundleError
from likeness.feeding import batches
from likeness.model import load_spec
from likeness.ports import VectorIndex
from likeness.records import ObjectRef, Point, State

from ..bundles.adapter import LinearMap, load_map
from .lifecycle import Migration

_TRIES = 3
# Points of one write, and writes at a time: a server answers each one after a round trip or more.
_BATCH, _THREADS = 250, 2


def find_map(migration: Migration, folders: Iterable[Path]) -> LinearMap | None:
    """The map from the old model's vectors to the new one's.

    None if the new model was adapted from another one or not at all, or its bundle is in none of
    these folders. Raises ModelBundleError for a damaged map.
    """
    for folder in folders:
        with contextlib.suppress(ModelBundleError):
            spec = load_spec(folder)
            if spec.fingerprint == migration.target:
                break
    else:
        return None
    if spec.adapter is None or spec.adapter.base != migration.source:
        return None
    return load_map(folder, spec)


class Transformation:
    """Maps points from the old collection into the new one.

    `done` counts them; `left` are the objects that kept changing, which need a hint.
    """

    def __init__(self, index: VectorIndex, migration: Migration, mapped: LinearMap) -> None:
        self._index = index
        self._migration = migration
        self._map = mapped
        self._source = index.for_model(migration.source)
        stores_patches = index.for_model(migration.target).info().patches
        self._patches = bool(stores_patches and self._source.info().patches)
        self._lacks_patches = bool(stores_patches) and not self._patches
        self.done = 0
        self.left: list[ObjectRef] = []

    def fill(self, refs: Sequence[ObjectRef]) -> None:
        """Write these objects' points into the new collection, unless it has newer ones."""
        with ThreadPoolExecutor(_THREADS) as pool:
            for done, left in pool.map(self._fill, batches(refs, _BATCH)):
                self.done += done
                self.left += left

    def _fill(self, refs: Sequence[ObjectRef]) -> tuple[int, list[ObjectRef]]:
        """The number of points that were mapped, and the objects that were not."""
        pending = {ref.point_id: ref for ref in refs}
        done = 0
        for _ in range(_TRIES):
            read = self._source.retrieve_with_vectors(list(pending), self._patches)
            usable = [point for point in read.values() if self._can_be_mapped(point)]
            if usable:
                self._index.write(self._migration.target, self._mapped(usable))
            written = {point.id: point.version for point in usable}
            # The index function writes to the old collection before the new one. So an object that
            # changed before our write, and could be overwritten by it, shows here.
            now = self._index.retrieve_payloads(self._migration.source, list(pending))
            settled = {
                i
                for i, point in now.points.items()
                if written.get(i) == point.version and i not in now.differing
            }
            done += len(settled)
            pending = {i: pending[i] for i in now.points.keys() - settled}
            if not pending:
                break
        return done, list(pending.values())

    def _can_be_mapped(self, point: Point) -> bool:
        """A live point needs what its new collection stores."""
        return point.state is not State.LIVE or (
            point.vector is not None and not self._lacks_patches
        )

    def _mapped(self, points: Sequence[Point]) -> list[Point]:
        vectors = [point.vector for point in points if point.vector is not None]
        mapped = iter(self._map.apply(np.stack(vectors)) if vectors else ())
        return [
            structs.replace(
                point,
                model=self._migration.target,
                vector=None if point.vector is None else next(mapped),
            )
            for point in points
        ]
