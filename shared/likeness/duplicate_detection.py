"""Duplicates and variants of new images: looked for in the index, and proven by their pixels.

An image is written first and compared afterwards. So of two functions that index two duplicates at
the same moment, at least one finds the other's image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct, structs

from likeness.descriptor_packing import pack
from likeness.duplicate_groups import DuplicateGroups, Pair
from likeness.embedding import BatchFeatures, Embedder
from likeness.errors import StoreUnavailable
from likeness.features import ImageFeatures, features_of_point
from likeness.partner_pictures import PartnerPictures
from likeness.ports import VectorIndex
from likeness.preprocessing import Prepared
from likeness.proof.pixel_proof import ProofImage
from likeness.proof.proofs import Proof
from likeness.proof.verdicts import Calibration, Level, Verdict
from likeness.records import (
    Candidate,
    DuplicateMatch,
    NearestQuery,
    ObjectRef,
    Point,
    Relation,
)
from likeness.rerank.ranker import Ranker
from likeness.stopwatch import StageTimer, untimed
from likeness.tenants import owned_by
from likeness.turns import turned, turns

# A new image is compared with so many nearest neighbours, keeps so many matches of each relation,
# and its pixels are compared with those of as many images. A turned or mirrored duplicate is much
# nearer than anything else: more neighbours would only make the index's answer larger.
_NEIGHBOURS, _TURNED_NEIGHBOURS, _MAX_MATCHES = 20, 5, 10
# Pictures of a batch that take longer to read and prove than a third of the function's minute are
# given up: their pairs are not called duplicates.
_PROOF_S = 20.0
_RELATIONS = {
    Level.EXACT: Relation.DUPLICATE,
    Level.COPY: Relation.DUPLICATE,
    Level.EDITED: Relation.DUPLICATE,
    Level.VARIANT: Relation.VARIANT,
}
_CLOSEST_FIRST = list(Level)

Settle = Callable[[Proof, ProofImage, ProofImage, Calibration], Proof]


class NewImage(Struct, frozen=True):
    """An image as its point was written, with the network's input and the file."""

    point: Point
    prepared: Prepared
    data: bytes


class _Neighbours(NamedTuple):
    """The nearest other images of an image as it is, and of the turned ones."""

    upright: Sequence[Point]
    turned: Sequence[Point]


class _Match(NamedTuple):
    verdict: Verdict
    point: Point


class DuplicateDetector:
    """Compares images that have just been written with the others of the same tenant."""

    def __init__(
        self,
        index: VectorIndex,
        embedder: Embedder,
        calibration: Calibration,
        pictures: PartnerPictures,
        stage: StageTimer = untimed,
        clock: Callable[[], float] = time.monotonic,
        settle: Settle = Proof.settled,
    ) -> None:
        """`index`: its readers see the embedder's collection. `stage` is entered for each timed
        step: embed, qdrant, proof. `settle` gives the proof that the pixels give.
        """
        self._index = index
        self._embedder = embedder
        self._calibration = calibration
        self._pictures = pictures
        self._stage = stage
        self._clock = clock
        self._settle = settle
        self._ranker = Ranker(embedder.spec, calibration)
        self._groups = DuplicateGroups(index, embedder.fingerprint)
        self._turns = turns(embedder.spec.input)

    def compare(self, images: Sequence[NewImage]) -> dict[ObjectRef, StoreUnavailable]:
        """Store what each image is a duplicate or variant of, and that it was compared.

        Returns the images that must be tried again, because the bucket did not answer. Raises
        IndexUnavailable, with nothing stored that another attempt would not find again.
        """
        if not images:
            return {}
        matches, failed = self._all_matches(images)
        pairs = {relation: list(_pairs(matches, relation)) for relation in Relation}
        compared = [_annotated(image.point, found) for image, found in matches]
        with self._stage("qdrant"):
            self._groups.join({relation: found for relation, found in pairs.items() if found})
            if compared:
                self._index.annotate(self._embedder.fingerprint, compared)
        return failed

    def _all_matches(
        self, images: Sequence[NewImage]
    ) -> tuple[list[tuple[NewImage, list[_Match]]], dict[ObjectRef, StoreUnavailable]]:
        in_turns = self._turned_features(images)
        all_neighbours = self._neighbours(images, in_turns)
        self._pictures.start({image.point.sha256: image.data for image in images})
        until_s = self._clock() + _PROOF_S
        found, failed = [], dict[ObjectRef, StoreUnavailable]()
        for image, views, neighbours in zip(images, in_turns, all_neighbours, strict=True):
            with self._stage("proof"):
                proofs = self._proofs(image, views, neighbours)
                try:
                    found.append((image, list(self._matches(image, proofs, until_s))))
                except StoreUnavailable as error:
                    failed[image.point.ref] = error
        return found, failed

    def _turned_features(self, images: Sequence[NewImage]) -> list[list[ImageFeatures]]:
        """For each image, its features in the other orientations."""
        of_each: list[list[ImageFeatures]] = [[] for _ in images]
        for turn in self._turns:
            target = self._embedder.spec.input
            prepared = [turned(image.prepared, target, turn) for image in images]
            with self._stage("embed"):
                features = self._embedder.extract([each.tensor for each in prepared])
            for row, each in enumerate(prepared):
                if features.vectors[row].any() and np.isfinite(features.vectors[row]).all():
                    of_each[row].append(_features(features, row, each, images[row].point))
        return of_each

    def _neighbours(
        self, images: Sequence[NewImage], in_turns: Sequence[Sequence[ImageFeatures]]
    ) -> list[_Neighbours]:
        """Found in one call, and read in another: each view finds a page of its own with a margin,
        and what is not compared would be three quarters of the answer.
        """
        queries = []
        for image, views in zip(images, in_turns, strict=True):
            assert image.point.vector is not None
            for vectors, limit in (
                ([image.point.vector], _NEIGHBOURS),
                ([view.vector for view in views] or [image.point.vector], _TURNED_NEIGHBOURS),
            ):
                others = _other_images(image.point)
                queries.append(NearestQuery(vectors, limit, filter=others))
        with self._stage("qdrant"):
            found = iter(self._index.nearest(queries))
            pages = [(next(found), next(found)) for _ in images]
            ids = {each.point.id for both in pages for page in both for each in page}
            read = self._index.retrieve_with_vectors(sorted(ids)) if ids else {}
        return [
            _Neighbours(*(_comparable(image.point, page, read) for page in both))
            for image, both in zip(images, pages, strict=True)
        ]

    def _proofs(
        self,
        image: NewImage,
        views: Sequence[ImageFeatures],
        neighbours: _Neighbours,
    ) -> list[tuple[Proof, Point]]:
        """What the index says of each neighbour: of several proofs the most promising one."""
        spec = self._embedder.spec
        best: dict[str, tuple[Proof, Point]] = {}
        for query, points in (
            (features_of_point(image.point, spec), neighbours.upright),
            *_by_view(views, neighbours.turned),
        ):
            proofs = self._ranker.prove(query, [features_of_point(p, spec) for p in points])
            for proof, point in zip(proofs, points, strict=True):
                known = best.get(point.id)
                if known is None or _promise(proof) > _promise(known[0]):
                    best[point.id] = proof, point
        return list(best.values())

    def _matches(
        self, image: NewImage, proofs: Sequence[tuple[Proof, Point]], until_s: float
    ) -> Iterator[_Match]:
        """Equal files, and what the pixels show. Raises StoreUnavailable."""
        yield from (_Match(p.verdict, other) for p, other in proofs if _is_exact(p))
        suspected = [each for each in proofs if each[0].suspected]
        # the id makes the order of ties the same each time
        suspected.sort(key=lambda each: (-each[0].verdict.probability, each[1].id))
        suspected = suspected[:_MAX_MATCHES]
        pictures = self._pictures.read([image.point, *(other for _, other in suspected)])
        own = next(pictures) if suspected else None
        for proof, other in suspected:
            if self._clock() > until_s:
                return
            verdict = self._verdict(proof, own, next(pictures))
            if verdict.level in _RELATIONS:
                yield _Match(verdict, other)

    def _verdict(
        self, proof: Proof, picture: ProofImage | None, other: ProofImage | None
    ) -> Verdict:
        """What the pixels say; where they cannot be had, what the index says."""
        if not picture or not other:
            return proof.verdict
        try:
            return self._settle(proof, picture, other, self._calibration).verdict
        # arithmetic that fails on one odd picture must not keep it out of the index
        except (ArithmeticError, ValueError, MemoryError):
            return proof.verdict


def _comparable(point: Point, page: Sequence[Candidate], read: Mapping[str, Point]) -> list[Point]:
    """The images that were found, as they were read: one may have been deleted in between."""
    others = (read.get(found.point.id) for found in page)
    return [
        each for each in others if each and each.vector is not None and each.tenant == point.tenant
    ]


def _by_view(
    views: Sequence[ImageFeatures], points: Sequence[Point]
) -> Iterator[tuple[ImageFeatures, list[Point]]]:
    """The points that each of the views is nearest to."""
    if not points:
        return
    vectors = np.array([point.vector for point in points], np.float32)
    nearest = (np.stack([view.vector for view in views]) @ vectors.T).argmax(axis=0).tolist()
    for row in sorted(set(nearest)):
        yield views[row], [point for point, of in zip(points, nearest, strict=True) if of == row]


def _features(features: BatchFeatures, row: int, prepared: Prepared, point: Point) -> ImageFeatures:
    packed = None
    if features.local is not None:
        salience = None if features.salience is None else features.salience[row]
        packed = pack(features.local[row], salience)
    return ImageFeatures(
        features.vectors[row],
        packed=packed,
        colours=prepared.colours.tobytes(),
        sha256=point.sha256,
    )


def _promise(proof: Proof) -> tuple[bool, bool, float]:
    return _is_exact(proof), proof.suspected, proof.verdict.probability


def _is_exact(proof: Proof) -> bool:
    return proof.verdict.level is Level.EXACT


def _pairs(
    matches: Iterable[tuple[NewImage, Sequence[_Match]]], relation: Relation
) -> Iterator[Pair]:
    for image, found in matches:
        yield from (
            (image.point, match.point)
            for match in found
            if _RELATIONS[match.verdict.level] is relation
        )


def _annotated(point: Point, matches: Sequence[_Match]) -> Point:
    ordered = sorted(matches, key=_closeness)
    found: dict[Relation, Any] = {
        relation: tuple(
            DuplicateMatch(other.id, other.ref.key, verdict.level.value, round(probability, 4))
            for verdict, other in ordered
            if _RELATIONS[verdict.level] is relation
            for probability in [verdict.probability]
        )[:_MAX_MATCHES]
        for relation in Relation
    }
    return structs.replace(
        point, partners=found[Relation.DUPLICATE], variants=found[Relation.VARIANT]
    )


def _closeness(match: _Match) -> tuple[int, float, str]:
    """A sort key: the closest level first, then the most probable."""
    level = _CLOSEST_FIRST.index(match.verdict.level)
    return level, -match.verdict.probability, match.point.id


def _other_images(point: Point) -> dict[str, Any]:
    """The filter for all other images of the point's tenant."""
    own = {"must": [owned_by(point.tenant)]} if point.tenant else {}
    return {**own, "must_not": [{"has_id": [point.id]}]}
