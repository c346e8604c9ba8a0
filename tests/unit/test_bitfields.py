"""BMPs with masks, in orders that Pillow does not read."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from likeness.pixels.bitfields import bitfields
from tests.pictures import encoded, picture

PHOTO = np.asarray(picture(1, 7, 5))
Masks = tuple[int, int, int, int]
ORDERS: list[Masks] = [
    (0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000),
    (0x000000FF, 0x0000FF00, 0x00FF0000, 0xFF000000),
    (0x0000FF00, 0x00FF0000, 0xFF000000, 0x000000FF),
    (0x00FF0000, 0xFF000000, 0x000000FF, 0x0000FF00),
    (0x000003FF, 0x000FFC00, 0x3FF00000, 0xC0000000),  # ten bits each, two of alpha
]


def bmp(masks: Masks, alpha: int = 255, header: int = 124, top_down: bool = False) -> bytes:
    """PHOTO as a BMP with 32 bits per pixel."""
    channels = [*np.moveaxis(PHOTO, 2, 0), np.full(PHOTO.shape[:2], alpha, np.uint8)]
    stored = np.zeros(PHOTO.shape[:2], np.uint64)
    for values, mask in zip(channels, masks, strict=True):
        if mask:
            lowest = mask & -mask
            stored |= np.round(values / 255 * (mask // lowest)).astype(np.uint64) * lowest
    height, width = stored.shape
    fields = struct.pack(
        "<IiiHHIIiiII", header, width, height * (-1) ** top_down, 1, 32, 3, *[0] * 5
    )
    shown = masks if header > 52 else masks[:3]
    fields += struct.pack(f"<{len(shown)}I", *shown)
    fields += bytes(max(0, header - len(fields)))
    pixels = (stored if top_down else stored[::-1]).astype("<u4").tobytes()
    start = 14 + len(fields)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + fields + pixels


def read(data: bytes) -> NDArray[np.int16]:
    layout = bitfields(data)
    assert layout is not None
    return np.asarray(layout.read(data)).astype(np.int16)


@pytest.mark.parametrize("top_down", [False, True])
@pytest.mark.parametrize("header", [40, 52, 56, 108, 124])
@pytest.mark.parametrize("masks", ORDERS)
def test_every_order_gives_the_same_picture(masks: Masks, header: int, top_down: bool) -> None:
    found = read(bmp(masks, header=header, top_down=top_down))
    assert np.abs(found[:, :, :3] - PHOTO).max() <= 1
    assert found.shape[2] == (4 if header > 52 else 3)


def test_pillow_reads_the_first_order_the_same() -> None:
    data = bmp(ORDERS[0], alpha=200)
    np.testing.assert_array_equal(read(data), np.asarray(Image.open(io.BytesIO(data))))


def test_alphas_of_zero_are_an_opaque_picture() -> None:
    np.testing.assert_array_equal(read(bmp(ORDERS[0], alpha=0)), PHOTO)


def test_a_channel_without_a_mask_is_zero() -> None:
    found = read(bmp((0xFF, 0, 0xFF00, 0)))
    assert found.shape[2] == 3
    assert not found[:, :, 1].any()


@pytest.mark.parametrize("length", [0, 20, 69, 200])
def test_too_few_bytes_are_an_error_or_another_kind(length: int) -> None:
    data = bmp(ORDERS[0])[:length]
    layout = bitfields(data)
    if layout:
        with pytest.raises(ValueError, match="buffer"):
            layout.read(data)
    else:
        assert length < 70


def test_other_bmps_are_left_to_pillow() -> None:
    assert bitfields(encoded(picture(1), "BMP")) is None
