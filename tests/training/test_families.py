"""Drawn families: the same each time, different within a family, with variants of one design."""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "training"))

import drawings

VARIED = [name for name, family in drawings.FAMILIES.items() if family.varied]


def pixels(family: str, number: int, content: int = 0) -> NDArray[np.float64]:
    return np.asarray(drawings.drawn(family, number, content).resize((96, 96)), float)


@pytest.mark.parametrize("family", drawings.FAMILIES)
def test_a_drawn_picture_is_the_same_each_time_and_of_the_promised_size(family: str) -> None:
    first, again = drawings.drawn(family, 3), drawings.drawn(family, 3)
    assert first.tobytes() == again.tobytes()
    assert first.mode == "RGB"
    assert all(300 <= side <= 1000 for side in first.size)


@pytest.mark.parametrize("family", drawings.FAMILIES)
def test_two_pictures_of_a_family_differ(family: str) -> None:
    shown = [pixels(family, number) for number in range(6)]
    assert min(np.abs(a - b).max() for a, b in combinations(shown, 2)) > 40


@pytest.mark.parametrize("family", VARIED)
def test_a_variant_has_the_size_of_its_design_and_other_content(family: str) -> None:
    sizes = {drawings.drawn(family, 5, content).size for content in range(3)}
    assert len(sizes) == 1
    assert np.abs(pixels(family, 5) - pixels(family, 5, 1)).max() > 20


@pytest.mark.parametrize("family", sorted(set(drawings.FAMILIES) - {*VARIED, "chat"}))
def test_a_family_without_variants_has_no_content_of_its_own(family: str) -> None:
    assert drawings.drawn(family, 2).tobytes() == drawings.drawn(family, 2, 1).tobytes()
