"""The frame that represents an animation: the first, unless it is blank."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

# In `Image.info`: how many frames of an animation were examined, where all of them are blank.
BLANK_FRAMES = "blank_frames"

_MAX_FRAMES = 50
_SIDE = 128
# Grey levels of 255. Standard deviation of a frame with content; less may be the begin of a fade.
_BLANK_RANGE, _CONTENT = 2, 16.0


def representative(
    image: Image.Image, rgb: Callable[[Image.Image], Image.Image], max_pixels: int
) -> Image.Image:
    """The first frame of a loaded image as RGB; where it is blank, the first of the next frames
    that has content, or the one with most of it. Examines 50 frames and `max_pixels` at most.
    """
    best = rgb(image)
    if not getattr(image, "is_animated", False) or not _is_blank(best):
        return best
    most, examined = 0.0, 1
    while examined < _MAX_FRAMES and (examined + 1) * image.width * image.height <= max_pixels:
        try:
            image.seek(examined)
            if image.size != best.size:  # a GIF's canvas grows with a larger frame
                break
            image.load()
        except MemoryError:
            raise
        # the end; or a damaged frame, whose decoder may raise nearly any exception
        except Exception:  # noqa: BLE001
            break
        examined += 1
        frame = rgb(image)
        content = _content(frame)
        if content > most:
            best, most = frame, content
        if content >= _CONTENT:
            break
    if _is_blank(best):
        best.info[BLANK_FRAMES] = examined
    return best


def _is_blank(image: Image.Image) -> bool:
    extrema = [band.getextrema() for band in image.split()]
    return all(high - low <= _BLANK_RANGE for low, high in extrema)  # type: ignore[operator]


def _content(image: Image.Image) -> float:
    if _is_blank(image):
        return 0.0
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    return max(1e-3, float(np.asarray(small, np.float32).std(axis=(0, 1)).max()))
