"""Pictures are read side by side, within the time, and their pixels settle proofs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from PIL import Image

from likeness.errors import NotIndexed, TruncatedImage
from likeness.pixel_verification import BUDGET_S, Pair, Picture, PixelVerifier
from likeness.proof.pixel_proof import ProofImage
from likeness.proof.proofs import Proof
from likeness.proof.verdicts import Basis, Calibration, Level, Verdict
from likeness.records import WHOLE, Box
from likeness.settings import Limits
from tests.pictures import encoded, picture, textured

TIER_1 = Proof(Verdict(Level.SAME_ITEM, 0.9), 0.0, 0, 0.0, 0.0, None, suspected=True)
LEFT = Box(0.0, 0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def verifier() -> PixelVerifier:
    return PixelVerifier(Limits(), 2, Calibration("m", {}))


def of(data: bytes, box: Box = WHOLE) -> Picture:
    return Picture(lambda: data, box)


def plenty() -> float:
    return math.inf


def gone() -> bytes:
    raise NotIndexed("the bucket no longer has it")


def test_a_copy_is_settled_by_its_pixels(verifier: PixelVerifier) -> None:
    image = textured(1)
    pair = Pair(TIER_1, of(encoded(image)), of(encoded(image, "JPEG", quality=90)))
    [proof], in_time = verifier.settle_all([pair], plenty)
    assert (proof.verdict.level, proof.rests_on) == (Level.COPY, Basis.PIXELS)
    assert in_time and not proof.suspected


def test_different_pictures_stay_at_the_same_item(verifier: PixelVerifier) -> None:
    pair = Pair(TIER_1, of(encoded(textured(1))), of(encoded(textured(2))))
    [proof], _ = verifier.settle_all([pair], plenty)
    assert (proof.verdict.level, proof.pixels) == (Level.SAME_ITEM, None)


def test_places_in_a_part_are_fractions_of_the_whole(verifier: PixelVerifier) -> None:
    """The left half of a picture, and a file of that half."""
    image = textured(3)
    half = image.crop((0, 0, image.width // 2, image.height))
    pair = Pair(TIER_1, of(encoded(image), LEFT), of(encoded(half)))
    [proof], _ = verifier.settle_all([pair], plenty)
    assert proof.pixels
    transform = np.array(proof.pixels.transform).reshape(3, 3)
    for query, target in (((0, 0), (0, 0)), ((0.5, 1), (1, 1)), ((0.25, 0.5), (0.5, 0.5))):
        x, y, scale = transform @ [*query, 1]
        assert (x / scale, y / scale) == pytest.approx(target, abs=0.02)


def test_files_are_read_side_by_side(verifier: PixelVerifier) -> None:
    """Each read waits until all three have begun."""
    data, all_begun = encoded(textured(1)), threading.Barrier(3)

    def read(n: int) -> bytes:
        all_begun.wait(10)
        return data

    loaded = verifier.load([Picture(partial(read, n)) for n in range(3)], 10)
    assert len(loaded) == 3
    assert all(isinstance(image, ProofImage) for image in loaded.values())


def test_a_picture_of_several_pairs_is_read_once(verifier: PixelVerifier) -> None:
    data, reads = encoded(textured(1)), list[int]()

    def read() -> bytes:
        reads.append(1)
        return data

    pairs = [Pair(TIER_1, Picture(read), of(encoded(textured(n)))) for n in range(3)]
    verifier.settle_all(pairs, plenty)
    assert len(reads) == 1


@pytest.mark.parametrize("lost", [gone, lambda: encoded(textured(1))[:500]], ids=["gone", "torn"])
def test_a_picture_that_cannot_be_read_leaves_its_proof_and_no_other(
    verifier: PixelVerifier, lost: Callable[[], bytes]
) -> None:
    query = of(encoded(textured(1)))
    pairs = [Pair(TIER_1, query, Picture(lost)), Pair(TIER_1, query, of(encoded(textured(1))))]
    (kept, settled), in_time = verifier.settle_all(pairs, plenty)
    assert kept is TIER_1
    assert settled.rests_on is Basis.PIXELS
    assert in_time


def test_why_a_picture_could_not_be_read_is_kept(verifier: PixelVerifier) -> None:
    torn, lost = of(encoded(textured(1))[:500]), Picture(gone)
    loaded = verifier.load([torn, lost], 10)
    assert isinstance(loaded[torn], TruncatedImage)
    assert isinstance(loaded[lost], NotIndexed)


def test_nobody_waits_for_a_slow_bucket(verifier: PixelVerifier) -> None:
    data, answered = encoded(textured(1)), threading.Event()

    def slow() -> bytes:
        answered.wait(10)
        return data

    start = time.monotonic()
    pairs = [Pair(TIER_1, of(data), Picture(slow)), Pair(TIER_1, of(data), of(data))]
    (kept, settled), in_time = verifier.settle_all(pairs, lambda: BUDGET_S + 0.3)
    took_s = time.monotonic() - start
    answered.set()
    assert kept is TIER_1
    assert settled.rests_on is Basis.PIXELS
    assert not in_time
    assert took_s < 5


def test_nothing_is_read_when_the_deadline_is_near(verifier: PixelVerifier) -> None:
    def read() -> bytes:
        raise AssertionError("read")

    pair = Pair(TIER_1, Picture(read), Picture(read))
    assert verifier.settle_all([pair], lambda: BUDGET_S / 2) == ([TIER_1], False)


DEEP = Image.fromarray((np.asarray(picture(1).convert("L"), np.uint16) << 8) + 7)
CLEAR = picture(1).convert("RGBA")
CLEAR.putalpha(picture(2).convert("L"))
ODD = {
    "one pixel": encoded(Image.new("RGB", (1, 1), "red")),
    "one row": encoded(picture(1).resize((900, 1))),
    "16 bits": encoded(DEEP),
    "transparent": encoded(CLEAR),
    "a palette": encoded(picture(1).convert("P"), "GIF"),
    "another size": encoded(picture(1, 1400, 900)),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
@pytest.mark.parametrize("box", [WHOLE, Box(0.4, 0.4, 0.41, 0.41)], ids=["whole", "a small box"])
def test_any_picture_can_be_compared_either_way(
    verifier: PixelVerifier, data: bytes, box: Box
) -> None:
    odd, plain = of(data, box), of(encoded(picture(1)))
    there, back = (
        verifier.settle_all([Pair(TIER_1, *pictures)], plenty).proofs[0]
        for pictures in ((odd, plain), (plain, odd))
    )
    assert there.rests_on is back.rests_on is Basis.PIXELS
    assert there.verdict.level is back.verdict.level
