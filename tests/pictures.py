"""Small pictures for tests, each different from the others and with detail."""

from __future__ import annotations

import io
import zlib

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def picture(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    """Smooth colour blobs: like a photograph unlike noise, and different for each seed."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def textured(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """Blobs with rectangles all over, as soft as in a photo: pixels can be compared everywhere."""
    rng = np.random.default_rng(seed)
    pixels = np.array(picture(seed, width, height))
    for _ in range(120):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        across, down = rng.integers(6, width // 8, 2).tolist()
        pixels[y : y + down, x : x + across] = rng.integers(0, 256, 3, np.uint8)
    return Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1))


def scene(seed: int, width: int = 400, height: int = 300) -> Image.Image:
    """Overlapping shapes of many colours on a shaded ground, different for each seed."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(60, 200, (3, 4, 3), np.uint8)
    image = Image.fromarray(ground).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        across, down = rng.uniform(8, width / 6, 2)
        box = (x, y, x + across, y + down)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape(box, fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def as_jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def png(seed: int, width: int = 96, height: int = 72) -> bytes:
    return encoded(picture(seed, width, height))


def jpeg(seed: int, width: int = 96, height: int = 72, quality: int = 90) -> bytes:
    return encoded(picture(seed, width, height), "JPEG", quality=quality)


def huge_png() -> bytes:
    """20,000 × 20,000 white pixels in some fifty kilobytes."""
    image = io.BytesIO()
    Image.new("1", (8, 8)).save(image, "PNG")
    data = bytearray(image.getvalue())
    size = (20_000).to_bytes(4, "big")
    data[16:24] = size + size
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data) + bytes(50_000)


# Files that can never be indexed, and the reason of each rejection.
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not-an-image"),
    "1 byte": (b"\xff", "not-an-image"),
    "text": (b"Dear Sir or Madam", "not-an-image"),
    "half JPEG": (jpeg(1, 640, 480)[:2000], "truncated-image"),
    "half PNG": (png(1, 640, 480)[:-500], "truncated-image"),
    "bomb": (huge_png(), "too-many-pixels"),
    "TIFF": (b"II*\x00" + bytes(100), "unsupported-format"),
    "21 MiB": (b"\xff\xd8\xff" + bytes(21 * 1024 * 1024), "image-too-large"),
    "flat": (encoded(Image.new("RGB", (64, 64), "red")), "no-detail"),
}
