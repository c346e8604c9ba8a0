"""Bytes → upright RGB image, or a small one. The only Image.open; every limit lives here, or in
headers.py where a file's bytes are looked at before a decoder reads them.

Order (decision 0014): byte cap → signature → allow-list → costly headers → pixel cap from
the header → first frame only → scaled decode → EXIF orientation → RGB.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from importlib import import_module

import numpy as np
from PIL import Image

from likeness import image_headers
from likeness.errors import (
    ConfigurationError,
    ImageTooLarge,
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
    UnsupportedFormat,
)
from likeness.records import ImageInfo
from likeness.settings import MIB, Limits

_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"8BPS", "PSD"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"<svg", "SVG"),
    (b"<?xml", "SVG"),
)
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_DECODERS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIF": ("pillow_heif.as_plugin", "HeifImageFile"),
}
_EXTRAS = {"HEIF", "AVIF"}

# libjpeg scales by powers of two in the transform domain. At 1.5 times the model's input or more,
# the embedding stays the same to cos ≥ .995 (benchmarks/embed.py measures it); Pillow's customary
# twice takes half as long again, and gains .0001 (decision 0041).
_DRAFT_FACTOR = 1.5

# What a JPEG can have. Decoders keep a pointer for each row: a PNG of 243 kB, one pixel wide and 50
# million high, took 2.3 GB.
_MAX_SIDE = 65_535

_THUMBNAIL_QUALITY = 80

# EXIF 2.32, 4.6.4 A, tag 274: how the stored rows and columns must be turned to stand upright.
_ORIENTATION_TAG = 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = {_UPRIGHT[tag] for tag in (5, 6, 7, 8)}


def sniff(data: bytes) -> str | None:
    """The format that the first bytes announce, as Pillow names it; None for none we know."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return "AVIF" if brand in _AVIF_BRANDS else "HEIF" if brand in _HEIF_BRANDS else None
    return None


def decode(data: bytes, limits: Limits, short_side: int) -> tuple[Image.Image, ImageInfo]:
    """The picture as RGB, upright, with at least 1.5 × `short_side` pixels where it has them.

    The info holds the full, upright width and height. Transparent parts are laid on white; of an
    animation the first frame counts; an ICC profile is ignored.
    Raises an ImageError subclass that says what is wrong with the bytes.
    """
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(
            f"{len(data) / MIB:.1f} MiB; at most {limits.max_bytes / MIB:.1f} MiB are taken"
        )
    name = _allowed_format(data, limits)
    image_headers.check(data, name)
    image = _open(data, name, limits)
    full_width, full_height = image.size
    image_headers.check_run_length(data, name, full_width, full_height)
    if name == "JPEG":
        image.draft(None, (math.ceil(_DRAFT_FACTOR * short_side),) * 2)
    _load(image)
    turn = _orientation(image)
    if turn in _QUARTER_TURNS:
        full_width, full_height = full_height, full_width
    upright = _rgb(image if turn is None else image.transpose(turn))
    return upright, ImageInfo(name, full_width, full_height, hashlib.sha256(data).hexdigest())


def thumbnail(data: bytes, limits: Limits, side: int) -> bytes:
    """A JPEG of the picture, upright, at most `side` pixels wide and high, and nothing beside the
    pixels: no EXIF, no comment.

    Raises an ImageError subclass that says what is wrong with the bytes.
    """
    picture, _ = decode(data, limits, math.ceil(side / _DRAFT_FACTOR))
    picture.thumbnail((side, side))
    picture.info.clear()  # Pillow would write a comment of the original's
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=_THUMBNAIL_QUALITY)
    return out.getvalue()


def _allowed_format(data: bytes, limits: Limits) -> str:
    if not data:
        raise NotAnImage("the file is empty")
    name = sniff(data)
    allowed = ", ".join(limits.formats)
    if name is None:
        raise NotAnImage(f"no image signature at its start; {allowed} are taken")
    if name not in limits.formats:
        hint = ""
        if name in _EXTRAS:
            hint = f"; {name} can be switched on with LIKENESS_EXTRA_FORMATS={name.lower()}"
        raise UnsupportedFormat(f"{name} is not taken; {allowed} are{hint}")
    return name


def _open(data: bytes, name: str, limits: Limits) -> Image.Image:
    """Read the header only, and hold its size against the limit before a pixel is decoded."""
    decoder = _decoder(name)
    try:
        image = decoder(io.BytesIO(data))
        width, height = image.size
    except Image.DecompressionBombError as error:  # a frame that is larger than its canvas says
        raise TooManyPixels("the file holds more pixels than may be decoded") from error
    except MemoryError:
        raise
    # A hostile header makes Pillow's parsers raise nearly anything; all of it means one thing.
    except Exception as error:
        raise NotAnImage(f"not a readable {name} file") from error
    if max(width, height) > _MAX_SIDE:
        raise TooManyPixels(f"{width} × {height} pixels; a side may have {_MAX_SIDE}")
    if width * height > limits.max_pixels:
        raise TooManyPixels(
            f"{width} × {height} pixels; at most {limits.max_pixels / 1e6:.0f} megapixels are taken"
        )
    return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except MemoryError:
        raise
    # The same for the decoders; a file that opened but does not decode ends early or is damaged.
    except Exception as error:
        raise TruncatedImage("the image data ends early or is damaged") from error


def _orientation(image: Image.Image) -> Image.Transpose | None:
    if (
        len(image.info.get("exif") or b"") > image_headers.MAX_EXIF_BYTES
    ):  # arrays of it take seconds
        return None
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    # Broken EXIF must not cost the picture: it is shown as it is stored.
    except Exception:  # noqa: BLE001
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        # Pillow clips these to 255 instead of scaling them.
        high = np.clip(np.asarray(image).astype(np.float32) / 257, 0, 255)
        return Image.fromarray(high.round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        # the same pixels as by alpha_composite, without its copies: 200 MB each
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image.convert("RGB")


def _decoder(name: str) -> Callable[[io.BytesIO], Image.Image]:
    """The one decoder class of this format. Image.open would import every decoder Pillow has."""
    module, attribute = _DECODERS[name]
    try:
        decoder: Callable[[io.BytesIO], Image.Image] = getattr(import_module(module), attribute)
    except ImportError as error:
        raise ConfigurationError(f"{name} is switched on, but {module} is missing") from error
    return decoder
