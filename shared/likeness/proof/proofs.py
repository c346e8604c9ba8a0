"""Proofs: a query verified against candidates, and what callers are shown of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from likeness.descriptor_packing import unpack
from likeness.features import ImageFeatures, packed_descriptors
from likeness.model import ModelSpec
from likeness.preprocessing import COLOURS
from likeness.proof.evidence import UNKNOWN_COLOURS, Evidence, evidence, pair_features
from likeness.proof.geometry import Verification, verify
from likeness.proof.pixel_proof import PixelProof, ProofImage, prove_pixels
from likeness.proof.verdicts import Basis, Calibration, Level, Verdict, judge
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
        found = prove_pixels(query, target, calibration)
        if self.verdict.level is Level.EXACT:
            return self._replace(pixels=found.proof)
        verdict = found.verdict or _at_most_same_item(self.verdict)
        return self._replace(
            verdict=verdict, rests_on=Basis.PIXELS, suspected=False, pixels=found.proof
        )


def _at_most_same_item(verdict: Verdict) -> Verdict:
    if verdict.level in (Level.COPY, Level.EDITED, Level.VARIANT):
        return verdict._replace(level=Level.SAME_ITEM)
    return verdict


class VerifiedCandidates(NamedTuple):
    """A query verified against K candidates.

    query_at (n, 2), candidates_at (K, m, 2): positions of the descriptors, in cells of a map with
    `side` cells along an edge.
    """

    query: ImageFeatures
    candidates: list[ImageFeatures]
    side: int
    query_at: NDArray[np.float32]
    candidates_at: NDArray[np.float32]
    verification: Verification

    def subset(self, rows: NDArray[np.intp]) -> VerifiedCandidates:
        """The same for some of the candidates."""
        return self._replace(
            candidates=[self.candidates[row] for row in rows],
            candidates_at=self.candidates_at[rows],
            verification=self.verification.subset(rows),
        )

    def pair_features(self, cosines: NDArray[np.float32]) -> NDArray[np.float64]:
        """The features that verdicts rest on: (K, PAIR_FEATURES)."""
        return pair_features(self._evidence(cosines))

    def proofs(self, calibration: Calibration, cosines: NDArray[np.float32]) -> list[Proof]:
        """One for each candidate."""
        facts, found = self._evidence(cosines), self.verification
        boxes = zip(*self._boxes(), strict=True)
        verdicts = judge(calibration, pair_features(facts))
        proofs = []
        for row, (verdict, pair) in enumerate(zip(verdicts, boxes, strict=True)):
            exact = self._is_exact(self.candidates[row])
            suspected = not exact and verdict.level in (Level.COPY, Level.EDITED)
            if exact:
                verdict = Verdict(Level.EXACT, 1.0)  # noqa: PLW2901 - bytes overrule the model
            else:
                verdict = _at_most_same_item(verdict)  # noqa: PLW2901
            proven = bool(found.inliers[row]) and verdict.level not in (Level.SIMILAR, Level.NONE)
            proofs.append(
                Proof(
                    verdict,
                    float(found.score[row]),
                    int(found.inliers[row]),
                    float(facts.overlap_query[row]) if proven else 0.0,
                    float(facts.overlap_target[row]) if proven else 0.0,
                    pair if proven else None,
                    Basis.BYTES if exact else Basis.INDEX,
                    suspected,
                )
            )
        return proofs

    def _is_exact(self, candidate: ImageFeatures) -> bool:
        """Whether both are whole images of the same bytes."""
        same_bytes = self.query.sha256 is not None and self.query.sha256 == candidate.sha256
        return same_bytes and self.query.box == candidate.box == WHOLE

    def _evidence(self, cosines: NDArray[np.float32]) -> Evidence:
        colours = np.stack([_layout(c) for c in self.candidates])
        facts = evidence(cosines, self.verification, self.side, _layout(self.query), colours)
        known = np.array([_has_layout(self.query) and _has_layout(c) for c in self.candidates])
        return facts._replace(
            **{
                name: np.where(known, getattr(facts, name), np.float32(value))
                for name, value in UNKNOWN_COLOURS.items()
            }
        )

    def _boxes(self) -> tuple[list[Box], list[Box]]:
        """The boxes of the matches that agree, in the query and in each candidate."""
        of_query, of_candidate = np.moveaxis(self.verification.matches, 2, 0)
        matched_at = self.candidates_at[np.arange(len(self.candidates))[:, None], of_candidate]
        inlier = self.verification.inlier
        queries = [self.query] * len(self.candidates)
        return (
            _boxes_around(self.query_at[of_query], inlier, self.side, queries),
            _boxes_around(matched_at, inlier, self.side, self.candidates),
        )


def verify_candidates(
    query: ImageFeatures, candidates: Sequence[ImageFeatures], spec: ModelSpec
) -> VerifiedCandidates:
    """Match the query's local descriptors with those of at least one candidate."""
    side, dim = (spec.local.side, spec.local.dim) if spec.local else (1, 2)
    local, at = _unpacked([c.packed or b"" for c in candidates], side, dim)
    [query_local], [query_at] = _unpacked([packed_descriptors(query)], side, dim)
    found = verify(query_local, query_at, local, at)
    return VerifiedCandidates(query, list(candidates), side, query_at, at, found)


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
