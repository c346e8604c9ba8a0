"""Verdicts on pictures that are no photographs: the bundled model and calibration, from file to
verdict. Different pages, drawings, charts and skies look alike to any network; only the pixels tell
them from edited copies.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from console.bundles.registry import BUNDLED_MODEL
from console.evaluation.edits import EDITS, START_SIDE
from console.evaluation.gallery import features_of_file
from likeness.embedding import Embedder
from likeness.features import ImageFeatures
from likeness.images import decode
from likeness.proof.pixel_proof import ProofImage
from likeness.proof.proofs import Proof
from likeness.proof.verdicts import Calibration, Level, load_calibration
from likeness.rerank.ranker import Ranker
from likeness.settings import Limits
from tests.pictures import encoded

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "training"))

import drawings

DUPLICATES = (Level.EXACT, Level.COPY, Level.EDITED)
PICTURES, EDITED = 4, 1  # of each family
FIRST = 900_000  # far from the pictures that calibrations are fitted to
TAKEN = ("jpeg", "smaller", "cropped", "tone", "text", "framed", "quarter turn")
VARIED = [name for name, family in drawings.FAMILIES.items() if family.varied]


class Shown(NamedTuple):
    """One file, as the service sees it."""

    features: ImageFeatures
    pixels: ProofImage


@cache
def bundled() -> tuple[Embedder, Calibration]:
    embedder = Embedder(BUNDLED_MODEL)
    calibration = load_calibration(BUNDLED_MODEL, embedder.fingerprint)
    assert calibration
    return embedder, calibration


def shown(data: bytes) -> Shown:
    image = decode(data, Limits(), START_SIDE)[0]
    return Shown(features_of_file(bundled()[0], data)[1], ProofImage(image))


@cache
def drawn(family: str, number: int, content: int = 0) -> Shown:
    return shown(encoded(drawings.drawn(family, FIRST + number, content)))


def compare(one: Shown, other: Shown) -> Proof:
    embedder, calibration = bundled()
    [proof] = Ranker(embedder.spec, calibration).prove(one.features, [other.features])
    return proof.settled(one.pixels, other.pixels, calibration)


def edited(family: str) -> Iterator[tuple[str, Shown, Shown]]:
    """The name of an edit, the edited picture and its original."""
    rng = np.random.default_rng(0)
    for number in range(EDITED):
        image = drawings.drawn(family, FIRST + number)
        for edit in EDITS:
            if edit.name in TAKEN:
                data = edit.make(image, lambda: drawings.drawn(family, FIRST + 9), rng)
                yield edit.name, shown(data), drawn(family, number)


@pytest.mark.parametrize("family", drawings.FAMILIES)
def test_different_pictures_of_a_family_are_no_duplicates(family: str) -> None:
    pictures = [drawn(family, number) for number in range(PICTURES)]
    levels = {compare(one, other).verdict.level for one, other in combinations(pictures, 2)}
    assert not levels & set(DUPLICATES)


def test_edits_of_drawn_pictures_are_duplicates_of_them() -> None:
    """Nine of ten: a crop of a page or a weave may hold too little to be told from others."""
    missed = [
        f"{family}: {name} is {level}"
        for family in drawings.FAMILIES
        for name, edit, original in edited(family)
        if (level := compare(edit, original).verdict.level) not in DUPLICATES
    ]
    assert len(missed) <= 0.1 * len(drawings.FAMILIES) * EDITED * len(TAKEN), missed


@pytest.mark.parametrize("family", VARIED)
def test_another_content_of_one_design_is_no_duplicate(family: str) -> None:
    variants = [compare(drawn(family, n), drawn(family, n, 1)) for n in range(EDITED)]
    assert not {proof.verdict.level for proof in variants} & set(DUPLICATES)


@pytest.mark.parametrize("family", drawings.FAMILIES)
def test_the_order_of_two_pictures_does_not_matter(family: str) -> None:
    one, other = drawn(family, 0), drawn(family, 1)
    there, back = compare(one, other), compare(other, one)
    assert (there.verdict, there.suspected) == (back.verdict, back.suspected)
