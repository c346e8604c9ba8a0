"""The orientations of a prepared image, against preparing the turned picture itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec import structs
from PIL import ImageOps

from likeness.embedding import Embedder
from likeness.model import load_spec
from likeness.turns import turned, turns
from tests.calibrations import BUNDLES
from tests.pictures import picture


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda folder: folder.name)
def test_a_turned_tensor_is_that_of_the_turned_picture(folder: Path) -> None:
    embedder = Embedder(folder)
    target = embedder.spec.input
    upright = picture(5, 2 * target.width, 2 * target.height)
    prepared = embedder.preprocess(upright)
    seen = [prepared]
    for turn in turns(target):
        mirrored = ImageOps.mirror(upright) if turn.mirrored else upright
        wanted = embedder.preprocess(mirrored.rotate(90 * turn.quarters, expand=True))
        found = turned(prepared, target, turn)
        scale = float(np.ptp(wanted.tensor.astype(float)))
        np.testing.assert_allclose(found.tensor, wanted.tensor, atol=0.02 * scale)
        np.testing.assert_allclose(found.colours.astype(int), wanted.colours.astype(int), atol=2)
        assert found.tensor.flags.c_contiguous
        assert not any(np.array_equal(found.tensor, other.tensor) for other in seen)
        seen.append(found)
    assert len(seen) == 8


def test_an_input_that_is_not_square_is_only_turned_upside_down_and_mirrored() -> None:
    target = structs.replace(load_spec(BUNDLES[0]).input, width=64, height=32)
    assert {(turn.mirrored, turn.quarters) for turn in turns(target)} == {
        (False, 2),
        (True, 0),
        (True, 2),
    }
