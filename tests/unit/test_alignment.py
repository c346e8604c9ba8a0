"""Alignment: the transform between two pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from likeness.proof.alignment import align, fit_affine, fit_homography, transformed
from likeness.proof.keypoints import find_keypoints
from tests.pictures import scene

CORNERS = np.array([[0.0, 0.0], [399.0, 0.0], [0.0, 299.0], [399.0, 299.0]])


def aligned(one: Image.Image, other: Image.Image) -> np.ndarray:
    grey = (image.convert("L") for image in (one, other))
    found = align(*map(find_keypoints, grey), side=max(other.size))
    assert found is not None and found.inliers > 20
    return transformed(found.homography, CORNERS)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda i: i, CORNERS),
        (lambda i: i.crop((100, 60, 360, 260)), CORNERS - (100, 60)),
        (lambda i: i.resize((200, 150), Image.Resampling.BOX), CORNERS / 2),
        (ImageOps.mirror, CORNERS * (-1, 1) + (399, 0)),
        (ImageOps.flip, CORNERS * (1, -1) + (0, 299)),
        (lambda i: i.rotate(180), CORNERS * -1 + (399, 299)),
        (lambda i: i.rotate(-90, expand=True), CORNERS[:, ::-1] * (-1, 1) + (299, 0)),
        (lambda i: ImageOps.expand(i, 40, "white"), CORNERS + 40),
    ],
    ids=["same", "crop", "half size", "mirror", "flip", "half turn", "quarter turn", "border"],
)
def test_the_transform_of_an_edit_is_found(change, expected) -> None:
    image = scene(5)
    assert np.abs(aligned(image, change(image)) - expected).mean() < 3


def test_different_pictures_have_few_matches_that_agree() -> None:
    for seed in range(6, 10):
        one, other = (find_keypoints(scene(s).convert("L")) for s in (seed, seed + 100))
        found = align(one, other, side=400)
        assert found is None or found.inliers < 20


def test_nothing_to_match_gives_no_alignment() -> None:
    nothing = find_keypoints(Image.new("L", (200, 200)))
    assert align(nothing, find_keypoints(scene(1).convert("L")), side=400) is None


@pytest.mark.parametrize("fit", [fit_homography, fit_affine])
def test_least_squares_recovers_an_affine_transform(fit) -> None:
    rng = np.random.default_rng(0)
    true = np.array([[0.8, -0.3, 20], [0.2, 1.1, -5], [0, 0, 1]])
    points = rng.uniform(0, 300, (40, 2))
    found = fit(points, transformed(true, points), rng.uniform(0.5, 1, 40))
    np.testing.assert_allclose(transformed(found, points), transformed(true, points), atol=1e-3)
