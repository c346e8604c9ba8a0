"""Bytes → upright RGB image or thumbnail. The only place that opens images, with all limits.

The limits on headers are in image_headers.py. Order (decision 0014): byte limit → signature →
allowed formats → headers → pixel limit → first frame only → scaled decode → EXIF orientation → RGB.

What a file's pixels are depends on the version of the preprocessing, which a model's bundle names
(decision 0110). Where no model is concerned, the newest version shows a picture to people.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable
from functools import partial
from importlib import import_module

import numpy as np
from numpy.typing import NDArray
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
from likeness.model import NEWEST_PREPROCESSING
from likeness.pixels.bitfields import Bitfields, bitfields
from likeness.pixels.frames import representative
from likeness.pixels.ground import on_ground
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
_OPTIONAL_FORMATS = {"HEIF", "AVIF"}

# libjpeg scales by powers of two in the transform domain. At 1.5 times the model's input or more,
# the embedding stays the same to cos ≥ .995 (benchmarks/embed.py measures it). Pillow's usual
# factor of 2 takes half as long again, and gains .0001 (decision 0041).
_DRAFT_FACTOR = 1.5

# The maximum of JPEG. Decoders keep a pointer for each row: a PNG of 243 kB, one pixel wide and 50
# million high, took 2.3 GB.
_MAX_SIDE = 65_535

_THUMBNAIL_QUALITY = 80

# EXIF 2.32, 4.6.4 A, tag 274: what makes the stored image upright.
_ORIENTATION_TAG = 274
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = {_TRANSPOSITIONS[tag] for tag in (5, 6, 7, 8)}


def sniff(data: bytes) -> str | None:
    """The format by the first bytes, in Pillow's naming; None for an unknown one."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return "AVIF" if brand in _AVIF_BRANDS else "HEIF" if brand in _HEIF_BRANDS else None
    return None


def decode(
    data: bytes, limits: Limits, short_side: int, version: int = NEWEST_PREPROCESSING
) -> tuple[Image.Image, ImageInfo]:
    """The image as RGB, upright, and its metadata.

    A large JPEG is reduced while decoding, to a short side of at least 1.5 × `short_side` pixels.
    The info has the full, upright width and height. Transparency is composited onto white, only
    the first frame of an animation is read, ICC profiles are ignored. From `version` 2 of the
    preprocessing, what would vanish on white is laid on a dark ground, and an animation that begins
    with blank frames is represented by a later one. Raises a subclass of ImageError.
    """
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(
            f"the file has {len(data) / MIB:.1f} MiB; maximum is {limits.max_bytes / MIB:.1f} MiB"
        )
    name = _allowed_format(data, limits)
    image_headers.check(data, name)
    if version > 1 and name == "BMP" and (layout := bitfields(data)):
        image = _read_bitfields(data, layout, limits)
    else:
        image = _open(data, name, limits)
        image_headers.check_run_length(data, name, *image.size)
    full_width, full_height = image.size
    if name == "JPEG":
        image.draft(None, (math.ceil(_DRAFT_FACTOR * short_side),) * 2)
    _load(image)
    transposition = _orientation(image, name, version)
    if transposition in _QUARTER_TURNS:
        full_width, full_height = full_height, full_width
    if version == 1:
        upright = _rgb(image)
    else:
        to_rgb = partial(_rgb_of_version_2, depth=_grey_depth(data, name))
        upright = representative(image, to_rgb, limits.max_pixels)
    if transposition is not None:
        upright = upright.transpose(transposition)
    return upright, ImageInfo(name, full_width, full_height, hashlib.sha256(data).hexdigest())


def thumbnail(data: bytes, limits: Limits, side: int) -> bytes:
    """An upright JPEG of at most `side` × `side` pixels, without EXIF or comments.

    Raises a subclass of ImageError.
    """
    image, _ = decode(data, limits, math.ceil(side / _DRAFT_FACTOR))
    image.thumbnail((side, side))
    image.info.clear()  # or Pillow would copy the original's comment
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_THUMBNAIL_QUALITY)
    return out.getvalue()


def _allowed_format(data: bytes, limits: Limits) -> str:
    if not data:
        raise NotAnImage("the file is empty")
    name = sniff(data)
    supported = ", ".join(limits.formats)
    if name is None:
        raise NotAnImage(f"no image signature found; supported formats: {supported}")
    if name not in limits.formats:
        hint = ""
        if name in _OPTIONAL_FORMATS:
            hint = f"; LIKENESS_EXTRA_FORMATS={name.lower()} enables {name}"
        raise UnsupportedFormat(f"{name} is not supported; supported formats: {supported}{hint}")
    return name


def _open(data: bytes, name: str, limits: Limits) -> Image.Image:
    """Read only the header, and check the image's size before any pixel is decoded."""
    decoder = _decoder(name)
    try:
        image = decoder(io.BytesIO(data))
        width, height = image.size
    except Image.DecompressionBombError as error:  # a frame larger than its canvas
        raise TooManyPixels("the file has more pixels than allowed") from error
    except MemoryError:
        raise
    # A hostile header makes Pillow's parsers raise nearly any exception.
    except Exception as error:
        raise NotAnImage(f"not a readable {name} file") from error
    _check_size(width, height, limits)
    return image


def _read_bitfields(data: bytes, layout: Bitfields, limits: Limits) -> Image.Image:
    _check_size(layout.width, layout.height, limits)
    try:
        return layout.read(data)
    except ValueError as error:
        raise TruncatedImage("the image data ends early or is damaged") from error


def _check_size(width: int, height: int, limits: Limits) -> None:
    if max(width, height) > _MAX_SIDE:
        raise TooManyPixels(f"{width} × {height} pixels; maximum is {_MAX_SIDE} on each side")
    if width * height > limits.max_pixels:
        raise TooManyPixels(
            f"{width} × {height} pixels; maximum is {limits.max_pixels / 1e6:.0f} megapixels"
        )


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except MemoryError:
        raise
    # Decoders too raise nearly any exception for a file that ends early or is damaged.
    except Exception as error:
        raise TruncatedImage("the image data ends early or is damaged") from error


def _orientation(image: Image.Image, name: str, version: int) -> Image.Transpose | None:
    """What makes the image upright: its EXIF says so, and in version 1 also XMP and text chunks,
    which browsers ignore.

    libheif has already turned what it decodes. Of an AVIF, the EXIF that Pillow returns has the
    container's orientation, whatever the file's own EXIF says.
    """
    exif = image.info.get("exif") or b""
    # parsing arrays in large EXIF takes seconds
    if len(exif) > image_headers.MAX_EXIF_BYTES or (version > 1 and name == "HEIF"):
        return None
    try:
        tags = image.getexif() if version == 1 else _exif_tags(exif)
        return _TRANSPOSITIONS.get(tags.get(_ORIENTATION_TAG, 1))
    # An image with broken EXIF is still usable: it keeps its stored orientation.
    except Exception:  # noqa: BLE001
        return None


def _exif_tags(exif: bytes) -> Image.Exif:
    tags = Image.Exif()
    tags.load(exif)
    return tags


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        # Pillow clips these to 255 instead of scaling them.
        high = np.clip(np.asarray(image).astype(np.float32) / 257, 0, 255)
        return Image.fromarray(high.round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        # the same pixels as alpha_composite gives, without its copies of 200 MB each
        if image.mode != "RGBA":
            image = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image.convert("RGB")


def _rgb_of_version_2(image: Image.Image, depth: int) -> Image.Image:
    """`depth`: bits per pixel of a grey PNG."""
    if image.mode in ("1", "L", "I;16"):
        grey = np.asarray(image.convert("L") if image.mode == "1" else image)
        # Pillow scales pixels of one, two or four bits to eight, but not the transparent value.
        transparent = image.info.get("transparency")
        if isinstance(transparent, int) and depth in (2, 4):
            transparent *= 255 // (2**depth - 1)
        scaled = grey if grey.dtype == np.uint8 else _eight_bits(grey)
        image = Image.fromarray(scaled)
        if isinstance(transparent, int):
            image.putalpha(Image.fromarray(np.uint8(255) * (grey != transparent)))
    if image.has_transparency_data:
        return on_ground(image if image.mode == "RGBA" else image.convert("RGBA"))
    return _rgb(image)


def _eight_bits(grey: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Sixteen bits may hold ten or twelve, as cameras and scanners write them."""
    highest = next(top for top in (1023, 4095, 65_535) if grey.max(initial=0) <= top)
    return np.asarray((grey * np.float32(255 / highest)).round(), np.uint8)


def _grey_depth(data: bytes, name: str) -> int:
    """Bits per pixel as a PNG's header has them (PNG 3, 11.2.1); 0 for other formats."""
    return data[24] if name == "PNG" else 0


def _decoder(name: str) -> Callable[[io.BytesIO], Image.Image]:
    """Pillow's decoder class of a format. Image.open would import all of Pillow's decoders."""
    module, attribute = _DECODERS[name]
    try:
        decoder: Callable[[io.BytesIO], Image.Image] = getattr(import_module(module), attribute)
    except ImportError as error:
        raise ConfigurationError(
            f"{name} is enabled, but the module {module} is missing"
        ) from error
    return decoder
