"""Proofs: a query verified against candidates, and what callers are shown of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from likeness.descriptor_packing import first_descriptors, unpack
from likeness.features import ImageFeatures, packed_descriptors
from likeness.model import ModelSpec
from likeness.preprocessing import COLOURS
from likeness.proof.evidence import UNKNOWN_COLOURS, Evidence, evidence, pair_features
from likeness.proof.geometry import Verification, distinctness, variety, verify
from likeness.proof.photometry import detail
from likeness.proof.pixel_proof import PixelProof, ProofImage, prove_pixels
from likeness.proof.verdicts import Basis, Calibration, IndexVerdict, Level, Verdict, judge
from likeness.records import WHOLE, Box

_LAYOUT = (COLOURS, COLOURS, 3)


class Proof(NamedTuple):
    """What two images have in common.

    geometry: the soft inlier score. overlap_query, overlap_target: share of either image that the
    other shows; boxes: where the matches are, in the query and in the candidate. These are only
    given for `same_item` and closer: in any two images a few matches agree by chance.

    Without the pixels a verdict is never closer than `same_item`, unless the bytes are equal;
    `suspected` says that the pixels may show a closer one. `pixels` is None until they were
    compared, and where they have nothing in common.
    """

    verdict: Verdict
    geometry: float
    inliers: int
    overlap_query: float
    overlap_target: float
    boxes: tuple[Box, Box] | None
    rests_on: Basis = Basis.INDEX
    suspected: bool = False
    pixels: PixelProof | None = None

    def settled(self, query: ProofImage, target: ProofImage, calibration: Calibration) -> Proof:
        """The same with the verdict that the pixels give."""
        found = prove_pixels(query, target, calibration.pixels)
        if self.verdict.level is Level.EXACT:
            return self._replace(pixels=found.proof)
        return self._replace(
            verdict=found.verdict or self.verdict,
            rests_on=Basis.PIXELS,
            suspected=False,
            pixels=found.proof,
        )


class VerifiedPairs(NamedTuple):
    """A query verified against K candidates, each pair in an order of its own.

    The order depends on what the two images are, not on which of them is the query: so a pair has
    the same facts and the same verdict both ways. `swapped` (K,): the query is the second.
    first_at, second_at (K, n, 2): positions of the descriptors, in cells of a map with `side` cells
    along an edge; first_detail, second_detail (K, 3, c²): of their layouts. margins (K, M): of
    `geometry.distinctness`; variety (K,): as in `Evidence`.
    """

    first: list[ImageFeatures]
    second: list[ImageFeatures]
    swapped: NDArray[np.bool_]
    side: int
    first_at: NDArray[np.float32]
    second_at: NDArray[np.float32]
    first_detail: NDArray[np.float32]
    second_detail: NDArray[np.float32]
    verification: Verification
    margins: NDArray[np.float32]
    variety: NDArray[np.float32]

    def pair_features(self) -> NDArray[np.float64]:
        """The features that verdicts rest on: (K, PAIR_FEATURES)."""
        return pair_features(self.evidence())

    def evidence(self) -> Evidence:
        """What is known of each pair, in its own order."""
        facts = evidence(
            _cosines(self.first, self.second),
            self.verification,
            self.margins,
            self.variety,
            self.side,
            self.first_detail,
            self.second_detail,
        )
        pairs = zip(self.first, self.second, strict=True)
        known = np.array([_has_layout(one) and _has_layout(other) for one, other in pairs])
        if known.all():
            return facts
        return facts._replace(
            **{
                name: np.where(known, getattr(facts, name), np.float32(value))
                for name, value in UNKNOWN_COLOURS.items()
            }
        )

    def proofs(self, calibration: Calibration) -> list[Proof]:
        """One for each candidate."""
        facts = self.evidence()
        judged = judge(calibration, pair_features(facts), facts.is_flat())
        boxes = zip(*self._boxes(), strict=True)
        return [
            self._proof(row, facts, found, of_first, of_second)
            for row, (found, (of_first, of_second)) in enumerate(zip(judged, boxes, strict=True))
        ]

    def _proof(
        self, row: int, facts: Evidence, found: IndexVerdict, of_first: Box, of_second: Box
    ) -> Proof:
        exact = _is_exact(self.first[row], self.second[row])
        verdict = Verdict(Level.EXACT, 1.0) if exact else found.verdict  # bytes overrule the model
        inliers = int(self.verification.inliers[row])
        shown = bool(inliers) and verdict.level not in (Level.SIMILAR, Level.NONE)
        overlaps = float(facts.overlap_first[row]), float(facts.overlap_second[row])
        boxes = of_first, of_second
        if self.swapped[row]:
            overlaps, boxes = overlaps[::-1], boxes[::-1]
        return Proof(
            verdict,
            float(self.verification.score[row]),
            inliers,
            *(overlaps if shown else (0.0, 0.0)),
            boxes if shown else None,
            Basis.BYTES if exact else Basis.INDEX,
            found.suspected and not exact,
        )

    def _boxes(self) -> tuple[list[Box], list[Box]]:
        """The boxes of the matches that agree, in the first and in the second of each pair."""
        inlier = self.verification.inlier
        every = np.arange(len(inlier))[:, None]
        of_first, of_second = np.moveaxis(self.verification.matches, 2, 0)
        return (
            _boxes_around(self.first_at[every, of_first], inlier, self.side, self.first),
            _boxes_around(self.second_at[every, of_second], inlier, self.side, self.second),
        )


def verify_pairs(
    query: ImageFeatures, candidates: Sequence[ImageFeatures], spec: ModelSpec
) -> VerifiedPairs:
    """Match the most salient descriptors of a query and of at least one candidate."""
    side, dim = (spec.local.side, spec.local.dim) if spec.local else (1, 2)
    images = [query, *candidates]
    packed = [first_descriptors(i.packed or packed_descriptors(i), dim) for i in images]
    local, at = _unpacked(packed, side, dim)
    # rows of the first and the second of each pair; the query has row 0
    keys = [_order_key(image, data) for image, data in zip(images, packed, strict=True)]
    swapped = np.array([key < keys[0] for key in keys[1:]])
    others = np.arange(1, len(images))
    one, two = np.where(swapped, others, 0), np.where(swapped, 0, others)
    found = verify(local[one], at[one], local[two], at[two])
    each, details = variety(local), detail(np.stack([_layout(image) for image in images]))
    return VerifiedPairs(
        [images[row] for row in one],
        [images[row] for row in two],
        swapped,
        side,
        at[one],
        at[two],
        details[one],
        details[two],
        found,
        distinctness(local[one], local[two], found),
        np.minimum(each[0], each[1:]),
    )


def geometry_scores(
    query: ImageFeatures, candidates: Sequence[ImageFeatures], spec: ModelSpec
) -> NDArray[np.float32]:
    """Soft inlier scores (K,) of all that is known of a query with each candidate, to rank by."""
    side, dim = (spec.local.side, spec.local.dim) if spec.local else (1, 2)
    local, at = _unpacked([c.packed or b"" for c in candidates], side, dim)
    [query_local], [query_at] = _unpacked([packed_descriptors(query)], side, dim)
    return verify(query_local, query_at, local, at).score


def _order_key(image: ImageFeatures, packed: bytes) -> tuple[bytes, bytes, bytes]:
    return packed, image.colours or b"", image.vector.tobytes()


def _cosines(
    first: Sequence[ImageFeatures], second: Sequence[ImageFeatures]
) -> NDArray[np.float32]:
    """(K,), the same to the last bit both ways."""
    one, two = (np.stack([image.vector for image in images]) for images in (first, second))
    return np.asarray((one * two).sum(axis=1), np.float32)


def _is_exact(first: ImageFeatures, second: ImageFeatures) -> bool:
    """Whether both are whole images of the same bytes."""
    same_bytes = first.sha256 is not None and first.sha256 == second.sha256
    return same_bytes and first.box == second.box == WHOLE


def _unpacked(
    packed: list[bytes], side: int, dim: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """As `unpack`; where nothing is kept, one row of zeros each, which matches nothing."""
    local, at = unpack(packed, side, dim)
    if local.shape[1]:
        return local, at
    return np.zeros((len(packed), 1, dim), np.float32), np.zeros((len(packed), 1, 2), np.float32)


def _has_layout(image: ImageFeatures) -> bool:
    return image.colours is not None and len(image.colours) == math.prod(_LAYOUT)


def _layout(image: ImageFeatures) -> NDArray[np.uint8]:
    """The colour layout; black where it is not known."""
    known = image.colours if _has_layout(image) else None
    return np.frombuffer(known or bytes(math.prod(_LAYOUT)), np.uint8).reshape(_LAYOUT)


def _boxes_around(
    at: NDArray[np.float32], mask: NDArray[np.bool_], side: int, images: Sequence[ImageFeatures]
) -> list[Box]:
    """The boxes of the masked cells, as shares of the whole image: at (K, M, 2), mask (K, M)."""
    across = np.ascontiguousarray(at.transpose(0, 2, 1))
    least = np.where(mask[:, None], across, side).min(axis=2)
    most = np.where(mask[:, None], across, -1).max(axis=2) + 1
    ends = np.stack([least, most], axis=1) / side
    for parts in ([image.seen for image in images], [image.box for image in images]):
        first, last = np.split(np.array(parts).reshape(-1, 2, 2), 2, axis=1)
        ends = np.clip(first + ends * (last - first), 0, 1)
    return [Box(*row) for row in ends.reshape(-1, 4).tolist()]
