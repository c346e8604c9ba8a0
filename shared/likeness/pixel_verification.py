"""Pixel verification: pictures are read and decoded, and their pixels settle proofs.

Files are read side by side, because reading is waiting. They are decoded one at a time, because a
large picture takes a large part of a function's memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Lock
from typing import NamedTuple

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from likeness.errors import LikenessError
from likeness.proof.pixel_proof import PixelProof, ProofImage
from likeness.proof.proofs import Proof
from likeness.proof.verdicts import Calibration
from likeness.proof_decoding import decode_for_proof
from likeness.records import WHOLE, Box
from likeness.settings import Limits

# The stage's name in answers and logs.
STAGE = "pixels"
# Results of one list that are settled: a person compares the first few.
MAX_SETTLED = 3
# More than a list takes on a slow core with a bucket nearby; with less time left it is skipped.
BUDGET_S = 0.4
# Nobody waits longer than this for a better verdict on results that are already there.
_MAX_WAIT_S = 2.0
_PROOF_S = 0.1

ReadFile = Callable[[], bytes]
TimeLeft = Callable[[], float]


class Picture(Struct, frozen=True):
    """The part of a picture inside `box`. `read` returns its file, and raises a LikenessError
    where there is none any more.
    """

    read: ReadFile
    box: Box = WHOLE


class Pair(NamedTuple):
    """A proof by what the index stores, and the pictures that it is about."""

    proof: Proof
    query: Picture
    target: Picture


class SettledProofs(NamedTuple):
    """The proofs in the order of their pairs; `in_time`: whether the time sufficed for all."""

    proofs: list[Proof]
    in_time: bool


# What a picture became: None for one that could not be had in time.
Loaded = ProofImage | LikenessError | None


class PixelVerifier:
    """Settles proofs with one calibration. Safe to share between threads."""

    def __init__(self, limits: Limits, version: int, calibration: Calibration) -> None:
        """`version`: that of the preprocessing, which decides what a file's pixels are."""
        self._limits = limits
        self._version = version
        self._calibration = calibration

    def settle_all(self, pairs: Sequence[Pair], time_left_s: TimeLeft) -> SettledProofs:
        """Proofs whose pictures cannot be read, or not in time, stay as they are."""
        if time_left_s() < BUDGET_S:
            return SettledProofs([pair.proof for pair in pairs], False)
        pictures = [picture for pair in pairs for picture in (pair.query, pair.target)]
        loaded = self.load(pictures, min(time_left_s() - _PROOF_S * len(pairs), _MAX_WAIT_S))
        return SettledProofs(
            [self.settle(pair, loaded) for pair in pairs], None not in loaded.values()
        )

    def load(self, pictures: Sequence[Picture], timeout_s: float) -> Mapping[Picture, Loaded]:
        """Each picture once, or why it could not be read."""
        pool, decoding = ThreadPoolExecutor(len(pictures)), Lock()
        try:
            loading = {
                picture: pool.submit(self._load, picture, decoding)
                for picture in dict.fromkeys(pictures)
            }
            wait(loading.values(), None if math.isinf(timeout_s) else max(0.0, timeout_s))
            return {picture: f.result() if f.done() else None for picture, f in loading.items()}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def settle(self, pair: Pair, loaded: Mapping[Picture, Loaded]) -> Proof:
        """The proof by pixels, with places as fractions of the whole pictures; the given proof
        where either picture was not loaded.
        """
        query, target = loaded[pair.query], loaded[pair.target]
        if not (isinstance(query, ProofImage) and isinstance(target, ProofImage)):
            return pair.proof
        proof = pair.proof.settled(query, target, self._calibration)
        if proof.pixels is None:
            return proof
        return proof._replace(pixels=_in_whole(proof.pixels, pair.query.box, pair.target.box))

    def _load(self, picture: Picture, decoding: Lock) -> ProofImage | LikenessError:
        try:
            data = picture.read()
            with decoding:
                return decode_for_proof(data, self._limits, self._version, picture.box)
        except LikenessError as error:
            return error


def _in_whole(pixels: PixelProof, query: Box, target: Box) -> PixelProof:
    """What was found in parts of two pictures, as fractions of the whole pictures."""
    if query == target == WHOLE:
        return pixels
    transform = np.array(pixels.transform).reshape(3, 3)
    placed = _to_whole(target) @ transform @ np.linalg.inv(_to_whole(query))
    return structs.replace(
        pixels,
        transform=tuple((placed / placed[2, 2]).ravel().tolist()),
        differences=tuple(
            (one.placed_in(query), other.placed_in(target)) for one, other in pixels.differences
        ),
    )


def _to_whole(box: Box) -> NDArray[np.float64]:
    """The 3 × 3 matrix that takes a place in the part to the place in the whole."""
    width, height = box.right - box.left, box.bottom - box.top
    return np.array([[width, 0, box.left], [0, height, box.top], [0, 0, 1.0]])
