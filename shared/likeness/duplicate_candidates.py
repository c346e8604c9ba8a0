"""Which images may be duplicates of new ones: neighbours in all orientations, and what the index
says of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct

from likeness.descriptor_packing import pack
from likeness.embedding import BatchFeatures, Embedder
from likeness.features import ImageFeatures, features_of_point
from likeness.ports import IndexView
from likeness.preprocessing import Prepared
from likeness.proof.proofs import Proof
from likeness.proof.verdicts import Calibration, Level
from likeness.records import Candidate, NearestQuery, Point
from likeness.rerank.ranker import Ranker
from likeness.stopwatch import StageTimer
from likeness.tenants import owned_by
from likeness.turns import Turn, turned, turns

# A turned or mirrored duplicate is much nearer than anything else: with more neighbours only the
# index's answer would be larger.
_NEIGHBOURS, _TURNED_NEIGHBOURS = 20, 5


class NewImage(Struct, frozen=True):
    """An image as its point was written, with the network's input and the file."""

    point: Point
    prepared: Prepared
    data: bytes


class ProvenNeighbour(NamedTuple):
    """An indexed image, and what it has in common with a new one as far as the index knows."""

    proof: Proof
    point: Point

    @property
    def is_exact(self) -> bool:
        return self.proof.verdict.level is Level.EXACT

    @property
    def promise(self) -> tuple[bool, bool, float]:
        """A sort key: the more is to be expected of the pixels, the greater."""
        return self.is_exact, self.proof.suspected, self.proof.verdict.probability


class _Neighbours(NamedTuple):
    """The nearest other images of an image as it is, and of the turned ones."""

    upright: Sequence[Point]
    turned: Sequence[Point]


class CandidateFinder:
    """Finds the neighbours of new images of the same tenant, and proves them by the index."""

    def __init__(
        self, index: IndexView, embedder: Embedder, calibration: Calibration, stage: StageTimer
    ) -> None:
        """`index`: of the embedder's collection. `stage` is entered for: embed, qdrant, proof."""
        self._index = index
        self._embedder = embedder
        self._stage = stage
        self._spec = embedder.spec
        self._ranker = Ranker(embedder.spec, calibration)
        self._turns = turns(embedder.spec.input)

    def find(self, images: Sequence[NewImage]) -> list[list[ProvenNeighbour]]:
        """The neighbours of each image, in no particular order."""
        views = self._turned_features(images)
        neighbours = self._neighbours(images, views)
        with self._stage("proof"):
            return list(map(self._proven, images, views, neighbours))

    def _turned_features(self, images: Sequence[NewImage]) -> list[list[ImageFeatures]]:
        """For each image, its features in the other orientations."""
        by_turn = [self._features_after(turn, images) for turn in self._turns]
        return [[each for each in of_image if each] for of_image in zip(*by_turn, strict=True)]

    def _features_after(self, turn: Turn, images: Sequence[NewImage]) -> list[ImageFeatures | None]:
        """None for an image in which the model sees nothing in this orientation."""
        prepared = [turned(image.prepared, self._spec.input, turn) for image in images]
        with self._stage("embed"):
            features = self._embedder.extract([each.tensor for each in prepared])
        return [
            _features(features, row, each.colours.tobytes(), images[row].point)
            for row, each in enumerate(prepared)
        ]

    def _neighbours(
        self, images: Sequence[NewImage], views: Sequence[Sequence[ImageFeatures]]
    ) -> list[_Neighbours]:
        """Found in one call, and read in another: each view finds a page of its own with a margin,
        and what is not compared would be three quarters of the answer.
        """
        queries = [each for pair in map(_queries, images, views) for each in pair]
        with self._stage("qdrant"):
            found = iter(self._index.nearest(queries))
            pages = [(next(found), next(found)) for _ in images]
            ids = {each.point.id for both in pages for page in both for each in page}
            read = self._index.retrieve_with_vectors(sorted(ids)) if ids else {}
        return [
            _Neighbours(*(_comparable(image.point, page, read) for page in both))
            for image, both in zip(images, pages, strict=True)
        ]

    def _proven(
        self, image: NewImage, views: Sequence[ImageFeatures], neighbours: _Neighbours
    ) -> list[ProvenNeighbour]:
        """Of several proofs of one neighbour the most promising one."""
        upright = features_of_point(image.point, self._spec)
        best: dict[str, ProvenNeighbour] = {}
        for query, points in (
            (upright, neighbours.upright),
            *_by_view(views, neighbours.turned),
        ):
            for proven in self._prove(query, points):
                known = best.get(proven.point.id)
                if known is None or proven.promise > known.promise:
                    best[proven.point.id] = proven
        return list(best.values())

    def _prove(self, query: ImageFeatures, points: Sequence[Point]) -> Iterable[ProvenNeighbour]:
        features = [features_of_point(point, self._spec) for point in points]
        return map(ProvenNeighbour, self._ranker.prove(query, features), points)


def _queries(image: NewImage, views: Sequence[ImageFeatures]) -> tuple[NearestQuery, NearestQuery]:
    assert image.point.vector is not None
    upright, others = [image.point.vector], _other_images(image.point)
    turned_ones = [view.vector for view in views] or upright
    return (
        NearestQuery(upright, _NEIGHBOURS, filter=others),
        NearestQuery(turned_ones, _TURNED_NEIGHBOURS, filter=others),
    )


def _other_images(point: Point) -> dict[str, Any]:
    """The filter for all other images of the point's tenant."""
    own = {"must": [owned_by(point.tenant)]} if point.tenant else {}
    return {**own, "must_not": [{"has_id": [point.id]}]}


def _comparable(point: Point, page: Sequence[Candidate], read: Mapping[str, Point]) -> list[Point]:
    """The images that were found, as they were read: one may have been deleted in between."""
    others = (read.get(found.point.id) for found in page)
    live = [other for other in others if other and other.vector is not None]
    return [other for other in live if other.tenant == point.tenant]


def _by_view(
    views: Sequence[ImageFeatures], points: Sequence[Point]
) -> Iterator[tuple[ImageFeatures, list[Point]]]:
    """The points that each of the views is nearest to."""
    if not points or not views:
        return
    vectors = np.array([point.vector for point in points], np.float32)
    nearest = (np.stack([view.vector for view in views]) @ vectors.T).argmax(axis=0).tolist()
    for row in sorted(set(nearest)):
        yield views[row], [point for point, of in zip(points, nearest, strict=True) if of == row]


def _features(
    features: BatchFeatures, row: int, colours: bytes, point: Point
) -> ImageFeatures | None:
    vector, local, salience = features.vectors[row], features.local, features.salience
    if not np.isfinite(vector).all() or not vector.any():
        return None
    packed = None
    if local is not None:
        packed = pack(local[row], None if salience is None else salience[row])
    return ImageFeatures(vector, packed=packed, colours=colours, sha256=point.sha256)
