"""Keypoints: found again in a turned, scaled or mirrored picture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from likeness.proof.keypoints import find_keypoints
from tests.pictures import scene


def test_patches_are_unit_rows_of_mean_0() -> None:
    found = find_keypoints(scene(1).convert("L"))
    assert len(found.at) > 200
    np.testing.assert_allclose(np.linalg.norm(found.patches, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.patches.mean(axis=1), 0, atol=1e-5)


def test_a_mirror_image_has_the_mirrored_patches_at_mirrored_places() -> None:
    image = scene(2).convert("L")
    one, other = find_keypoints(image), find_keypoints(ImageOps.mirror(image))
    cosines = one.mirrored_patches() @ other.patches.T
    nearest = cosines.argmax(axis=1)
    sure = cosines.max(axis=1) > 0.98
    assert sure.sum() > 50
    moved = other.at[nearest[sure]] - one.at[sure] * (-1, 1) - (image.width - 1, 0)
    assert np.median(np.abs(moved)) < 1


def test_a_quarter_turn_turns_the_angles_and_keeps_the_patches() -> None:
    image = scene(3).convert("L")
    one, other = find_keypoints(image), find_keypoints(image.transpose(Image.Transpose.ROTATE_270))
    cosines = one.patches @ other.patches.T
    sure = cosines.max(axis=1) > 0.98
    turns = other.angle[cosines.argmax(axis=1)[sure]] - one.angle[sure]
    assert sure.sum() > 50
    assert abs(float(np.angle(np.exp(1j * turns).mean())) - np.pi / 2) < 0.05


def test_flat_tiny_and_very_long_pictures_have_no_keypoints_and_raise_nothing() -> None:
    for size in ((300, 200), (1, 1), (2, 500), (30, 3)):
        assert len(find_keypoints(Image.new("L", size, 128)).at) == 0


def test_corners_come_from_all_parts_of_a_picture() -> None:
    image = scene(4).convert("L")
    faint = image.point(lambda level: level // 4)
    image.paste(faint.crop((200, 0, 400, 300)), (200, 0))  # weak corners on the right
    x = find_keypoints(image).at[:, 0]
    assert 0.3 < (x > 200).mean() < 0.7
