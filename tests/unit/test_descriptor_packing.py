"""Packed descriptors: what comes back, how near it is, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from likeness.descriptor_packing import cell_positions, first_descriptors, pack, unpack
from likeness.proof.geometry import verify


def local(seed: int, dim: int = 64) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(196, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def salience(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(196, np.float32)


def test_the_most_salient_spots_come_back_at_their_places() -> None:
    descriptors, best = local(1), salience(1)
    [found], [at] = unpack([pack(descriptors, best)], 14, 64)
    kept = np.argsort(-best)[:64]
    np.testing.assert_array_equal(at, cell_positions(14)[kept])
    assert (found * descriptors[kept]).sum(axis=1).min() > 0.98
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kept", [0, 5, 64, 100, 196])
def test_the_first_of_many_are_those_that_fewer_would_be(kept: int) -> None:
    packed = pack(local(1), salience(1), keep=kept)
    assert first_descriptors(packed, 64) == pack(local(1), salience(1), keep=min(kept, 64))


def test_an_image_takes_2112_bytes() -> None:
    assert len(pack(local(1), salience(1))) == 64 * (1 + 32) == 2112


def test_images_with_fewer_spots_are_filled_with_rows_that_match_nothing() -> None:
    found, at = unpack([pack(local(1), keep=5), pack(local(2), keep=9), b""], 14, 64)
    assert found.shape == (3, 9, 64)
    assert at.shape == (3, 9, 2)
    assert not found[0, 5:].any()
    assert not found[2].any()


def test_no_images_is_no_error() -> None:
    found, at = unpack([], 14, 64)
    assert (found.shape, at.shape) == ((0, 0, 64), (0, 0, 2))


def test_bytes_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="2113 bytes are not descriptors of 64 values"):
        unpack([pack(local(1)) + b"x"], 14, 64)


def test_a_cell_beyond_the_map_is_refused() -> None:
    with pytest.raises(ValueError, match="outside a map of 7 × 7"):
        unpack([pack(local(1), salience(1))], 7, 64)


def test_geometry_finds_on_packed_descriptors_what_it_finds_on_whole_ones() -> None:
    # not the query's own seed: the noise would be a multiple of the query
    rng = np.random.default_rng([3, 1])
    query, at = local(3), cell_positions(14)
    noisy = query + rng.normal(0, 0.05, query.shape).astype(np.float32)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    images = [noisy, local(4), local(5)]
    packed, packed_at = unpack([pack(image, salience(3)) for image in images], 14, 64)
    score = verify(query, at, packed, packed_at).score
    kept = np.argsort(-salience(3))[:64]
    whole = verify(query, at, noisy[None, kept], at[None, kept]).score
    assert score[0] == pytest.approx(whole[0], rel=0.05)
    assert score[0] > 20 * score[1:].max()
