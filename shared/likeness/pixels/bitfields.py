"""BMPs of 32 bits per pixel with masks for their channels, in any order and of any width.

Pillow reads a few orders only, and takes an alpha channel of zeros for a transparent image; writers
leave that byte empty. Layout: Microsoft, BITMAPINFOHEADER, BITMAPV4HEADER and BITMAPV5HEADER.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_INFO_HEADER = 40
_BITFIELDS, _ALPHA_BITFIELDS = 3, 6
_MASKS_AT, _ALPHA_MASK_AT = 54, 66
_HEADER_WITH_ALPHA = 56


class Bitfields(NamedTuple):
    """`height` is positive; rows are stored bottom up unless `top_down`. Masks: R, G, B, alpha."""

    width: int
    height: int
    top_down: bool
    offset: int
    masks: tuple[int, int, int, int]

    def read(self, data: bytes) -> Image.Image:
        """RGB, or RGBA where some pixel is not transparent. Raises ValueError for too few bytes."""
        count = self.width * self.height
        stored = np.frombuffer(data, "<u4", count, self.offset).reshape(self.height, self.width)
        if not self.top_down:
            stored = stored[::-1]
        channels = [_channel(stored, mask) for mask in self.masks if mask or mask in self.masks[:3]]
        if len(channels) == 4 and not channels[3].any():
            channels.pop()
        return Image.fromarray(np.dstack(channels[:4]))


def bitfields(data: bytes) -> Bitfields | None:
    """Of a BMP; None for other kinds."""
    if len(data) < _ALPHA_MASK_AT + 4:
        return None
    offset, header, width, height = struct.unpack_from("<IIii", data, 10)
    bits, compression = struct.unpack_from("<HI", data, 28)
    if header < _INFO_HEADER or bits != 32 or compression not in (_BITFIELDS, _ALPHA_BITFIELDS):
        return None
    if width < 1 or height == 0:
        return None
    red, green, blue, alpha = struct.unpack_from("<IIII", data, _MASKS_AT)
    if header < _HEADER_WITH_ALPHA and compression != _ALPHA_BITFIELDS:
        alpha = 0
    return Bitfields(width, abs(height), height < 0, offset, (red, green, blue, alpha))


def _channel(stored: NDArray[np.uint32], mask: int) -> NDArray[np.uint8]:
    """0 to 255, whatever the width of the mask; 0 without one."""
    if mask == 0:
        return np.zeros(stored.shape, np.uint8)
    lowest = mask & -mask
    values = (stored & np.uint32(mask)) // np.uint32(lowest)
    return np.asarray(np.round(values * (255 / (mask // lowest))), np.uint8)
