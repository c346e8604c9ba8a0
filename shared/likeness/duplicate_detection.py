"""Duplicates and variants of new images: suspected by the index, and proven by their pixels.

An image is written first and compared afterwards. So of two functions that index two duplicates at
the same moment, at least one finds the other's image.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec import structs

from likeness.duplicate_candidates import CandidateFinder, NewImage, ProvenNeighbour
from likeness.duplicate_groups import DuplicateGroups, Pair
from likeness.embedding import Embedder
from likeness.errors import StoreUnavailable
from likeness.partner_pictures import PartnerPictures
from likeness.ports import VectorIndex
from likeness.proof.pixel_proof import Edit, ProofImage
from likeness.proof.proofs import Proof
from likeness.proof.verdicts import Calibration, Level, Verdict
from likeness.records import DuplicateMatch, ObjectRef, Point, Relation
from likeness.stopwatch import StageTimer, untimed

# An image's pixels are compared with those of so many others, and it keeps so many matches of each
# relation.
_MAX_MATCHES = 10
# A batch may spend a third of the function's minute on reading and proving. What is suspected after
# that is not called a duplicate.
_PROOF_S = 20.0
_RELATIONS = {
    Level.EXACT: Relation.DUPLICATE,
    Level.COPY: Relation.DUPLICATE,
    Level.EDITED: Relation.DUPLICATE,
    Level.VARIANT: Relation.VARIANT,
}
_CLOSEST_FIRST = list(Level)

Settle = Callable[[Proof, ProofImage, ProofImage, Calibration], Proof]


class _Match(NamedTuple):
    verdict: Verdict
    point: Point

    @property
    def relation(self) -> Relation:
        return _RELATIONS[self.verdict.level]


class _Compared(NamedTuple):
    point: Point
    matches: Sequence[_Match]


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
        step: embed, qdrant, proof. `settle` turns a proof into that by pixels.
        """
        self._index = index
        self._model = embedder.fingerprint
        self._calibration = calibration
        self._pictures = pictures
        self._stage = stage
        self._clock = clock
        self._settle = settle
        self._finder = CandidateFinder(index, embedder, calibration, stage)
        self._groups = DuplicateGroups(index, embedder.fingerprint)

    def compare(self, images: Sequence[NewImage]) -> dict[ObjectRef, StoreUnavailable]:
        """Store what each image is a duplicate or variant of, and that it was compared.

        Returns the images that must be tried again, because the bucket did not answer. Raises
        IndexUnavailable; what is not stored then, another attempt finds again.
        """
        if not images:
            return {}
        candidates = self._finder.find(images)
        with self._stage("proof"):
            compared, failed = self._prove_all(images, candidates)
        with self._stage("qdrant"):
            self._groups.join({each: list(_pairs(compared, each)) for each in Relation})
            self._index.annotate(self._model, [_annotated(*each) for each in compared])
        return failed

    def _prove_all(
        self, images: Sequence[NewImage], candidates: Sequence[Sequence[ProvenNeighbour]]
    ) -> tuple[list[_Compared], dict[ObjectRef, StoreUnavailable]]:
        self._pictures.start({image.point.sha256: image.data for image in images})
        until_s = self._clock() + _PROOF_S
        compared, failed = [], dict[ObjectRef, StoreUnavailable]()
        for image, found in zip(images, candidates, strict=True):
            try:
                matches = list(self._matches(image.point, found, until_s))
                compared.append(_Compared(image.point, matches))
            except StoreUnavailable as error:
                failed[image.point.ref] = error
        return compared, failed

    def _matches(
        self, point: Point, neighbours: Sequence[ProvenNeighbour], until_s: float
    ) -> Iterator[_Match]:
        """Equal files, and what the pixels prove. Raises StoreUnavailable."""
        yield from (_Match(each.proof.verdict, each.point) for each in neighbours if each.is_exact)
        suspected = _most_suspected(neighbours)
        if not suspected:
            return
        pictures = self._pictures.read([point, *(each.point for each in suspected)])
        own = next(pictures)
        for each in suspected:
            if self._clock() > until_s:
                return
            proof = self._settled(each.proof, own, next(pictures))
            if proof.verdict.level in _RELATIONS and not _is_only_a_part(proof):
                yield _Match(proof.verdict, each.point)

    def _settled(self, proof: Proof, picture: ProofImage | None, other: ProofImage | None) -> Proof:
        """What the pixels say; where they cannot be had, what the index says."""
        if not picture or not other:
            return proof
        try:
            return self._settle(proof, picture, other, self._calibration)
        # arithmetic that fails on one odd picture must not keep it out of the index
        except (ArithmeticError, ValueError, MemoryError):
            return proof


def _is_only_a_part(proof: Proof) -> bool:
    """Whether one picture merely contains the other. A collage is no duplicate of its pictures: it
    would put all of them into one group, and deleting either would lose something.
    """
    return proof.pixels is not None and Edit.PART_OF in proof.pixels.edits


def _most_suspected(neighbours: Iterable[ProvenNeighbour]) -> list[ProvenNeighbour]:
    found = [each for each in neighbours if each.proof.suspected]
    # the id makes the order of ties the same each time
    found.sort(key=lambda each: (-each.proof.verdict.probability, each.point.id))
    return found[:_MAX_MATCHES]


def _pairs(compared: Iterable[_Compared], relation: Relation) -> Iterator[Pair]:
    for point, matches in compared:
        yield from ((point, match.point) for match in matches if match.relation is relation)


def _annotated(point: Point, matches: Sequence[_Match]) -> Point:
    closest_first = sorted(matches, key=_closeness)
    found = {
        relation: tuple(_stored(each) for each in closest_first if each.relation is relation)
        for relation in Relation
    }
    return structs.replace(
        point,
        partners=found[Relation.DUPLICATE][:_MAX_MATCHES],
        variants=found[Relation.VARIANT][:_MAX_MATCHES],
    )


def _stored(match: _Match) -> DuplicateMatch:
    (level, probability), point = match
    return DuplicateMatch(point.id, point.ref.key, level.value, round(probability, 4))


def _closeness(match: _Match) -> tuple[int, float, str]:
    """A sort key: the closest level first, then the most probable."""
    level = _CLOSEST_FIRST.index(match.verdict.level)
    return level, -match.verdict.probability, match.point.id
