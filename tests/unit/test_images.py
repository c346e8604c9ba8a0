"""Every kind of file becomes an upright RGB image, or an ImageError, in each version of the
preprocessing. test_images_versions.py has what differs between them.
"""

from __future__ import annotations

import functools
import hashlib
import io
import struct
import sys
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image, ImageCms, features

from likeness import images
from likeness.errors import (
    ConfigurationError,
    ImageError,
    ImageTooLarge,
    NotAnImage,
    TooManyPixels,
    TruncatedImage,
    UnsupportedFormat,
)
from likeness.images import sniff, thumbnail
from likeness.model import NEWEST_PREPROCESSING, PREPROCESSING
from likeness.records import ImageInfo
from likeness.settings import Limits

LIMITS = Limits()
VERSION = [NEWEST_PREPROCESSING]
LOSSLESS: dict[str, dict[str, object]] = {
    "PNG": {},
    "BMP": {},
    "WEBP": {"lossless": True, "quality": 0},
}
LOSSY: dict[str, dict[str, object]] = {
    "JPEG": {"quality": 95},
    "GIF": {},
    "WEBP": {"quality": 95},
}
# Pillow only warns of some damage: in production a warning is a line in the log, not an error.
as_in_production = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")


@pytest.fixture(scope="module", autouse=True, params=PREPROCESSING)
def version(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test of this module runs with each version."""
    VERSION.append(request.param)
    yield
    VERSION.pop()


def decode(data: bytes, limits: Limits, short_side: int) -> tuple[Image.Image, ImageInfo]:
    return images.decode(data, limits, short_side, VERSION[-1])


def picture(width: int = 64, height: int = 48) -> Image.Image:
    """Four coloured quarters under a left-to-right gradient: no rotation or flip looks the same."""
    colours = np.array([[(200, 30, 30), (30, 200, 30)], [(30, 30, 200), (200, 200, 30)]])
    pixels = np.repeat(np.repeat(colours, height // 2, axis=0), width // 2, axis=1)
    return Image.fromarray((pixels * np.linspace(0.5, 1, width)[:, None]).astype(np.uint8))


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data: bytes, short_side: int = 224, limits: Limits = LIMITS) -> NDArray[np.int16]:
    image, _ = decode(data, limits, short_side)
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int16)


def difference(data: bytes, expected: Image.Image) -> float:
    """Mean absolute difference in grey levels; the sizes must be equal."""
    actual = pixels(data)
    assert actual.shape == (expected.height, expected.width, 3)
    return float(np.abs(actual - np.asarray(expected.convert("RGB"))).mean())


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes, depth: int = 1, colour: int = 0) -> bytes:
    """A PNG file of the given chunks between IHDR and IEND; 1-bit grey by default."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join((png_chunk(b"IHDR", header), *chunks, png_chunk(b"IEND", b"")))
    return b"\x89PNG\r\n\x1a\n" + body


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(kind + struct.pack("<I", len(b)) + b for kind, b in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_canvas(width: int, height: int) -> bytes:
    """An animated WebP whose canvas is that large; its one frame is 8 × 8 pixels."""
    frame = encoded(Image.new("RGB", (8, 8), "red"), "WEBP", lossless=True)[12:]
    side = (7).to_bytes(3, "little")
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return riff(
        (b"VP8X", struct.pack("<I", 2) + size),
        (b"ANIM", bytes(6)),
        (b"ANMF", bytes(6) + side * 2 + bytes(4) + frame),
    )


def bmp_header(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1000, 0, 0, 54) + info + bytes(1000)


def gif_header(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + encoded(picture(), "GIF")[10:]


def jpeg_header(width: int, height: int) -> bytes:
    data = bytearray(encoded(picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp_header(width: int, height: int) -> bytes:
    """A lossy WebP: 14 bits each for width and height."""
    data = bytearray(encoded(picture(), "WEBP", quality=90))
    at = data.index(b"\x9d\x01\x2a") + 3
    data[at : at + 4] = struct.pack("<HH", width, height)
    return bytes(data)


# Formats


@pytest.mark.parametrize("format", LOSSLESS)
def test_a_lossless_file_keeps_every_pixel(format: str) -> None:
    assert difference(encoded(picture(), format, **LOSSLESS[format]), picture()) == 0


@pytest.mark.parametrize("format", LOSSY)
def test_a_lossy_file_keeps_the_picture(format: str) -> None:
    assert difference(encoded(picture(), format, **LOSSY[format]), picture()) < 6


def test_a_progressive_jpeg_is_the_same_picture() -> None:
    assert difference(encoded(picture(), "JPEG", quality=95, progressive=True), picture()) < 6


def test_of_two_images_in_a_jpeg_the_first_is_read() -> None:
    both = encoded(picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    image, info = decode(both, LIMITS, 224)
    assert (image.size, info.format) == ((64, 48), "JPEG")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_the_info_names_format_size_and_hash(format: str) -> None:
    data = encoded(picture(), format)
    _, info = decode(data, LIMITS, 224)
    assert (info.format, info.width, info.height) == (format, 64, 48)
    assert info.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_an_image_of_one_pixel_is_decoded(format: str) -> None:
    assert pixels(encoded(Image.new("RGB", (1, 1), "white"), format)).tolist() == [[[255] * 3]]


def test_the_format_is_determined_by_the_first_bytes() -> None:
    assert sniff(encoded(picture(), "GIF")) == "GIF"
    assert sniff(b"RIFF\x00\x00\x00\x00WAVEfmt ") is None
    assert sniff(b"\x00\x00\x00\x18ftypmp42") is None


# EXIF orientation


def as_stored(upright: Image.Image, orientation: int) -> Image.Image:
    """The rows and columns of a file with that tag, from the words of EXIF 2.32, 4.6.4 A.

    The tag says which side of the scene the first row and the first column are.
    """
    u = np.asarray(upright)
    first_row_is_the_top = {
        1: u,  # the first column is the left side
        2: u[:, ::-1],  # the right side
        3: u[::-1, ::-1],  # and from here the first row is the bottom: right side
        4: u[::-1],  # left side
    }
    if orientation in first_row_is_the_top:
        return Image.fromarray(first_row_is_the_top[orientation])
    first_row_is_a_side = {
        5: u,  # the left side, the first column is the top
        6: u[:, ::-1],  # right, top
        7: u[::-1, ::-1],  # right, bottom
        8: u[::-1],  # left, bottom
    }
    return Image.fromarray(first_row_is_a_side[orientation].transpose(1, 0, 2))


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_made_upright(orientation: int, format: str) -> None:
    stored = as_stored(picture(), orientation)
    data = encoded(stored, format, exif=tagged(orientation), **LOSSLESS[format])
    _, info = decode(data, LIMITS, 224)
    assert difference(data, picture()) == 0
    assert (info.width, info.height) == picture().size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_decoded_at_a_smaller_scale_is_upright(orientation: int) -> None:
    upright = picture(1600, 800)
    stored = as_stored(upright, orientation)
    image, info = decode(
        encoded(stored, "JPEG", quality=95, exif=tagged(orientation)), LIMITS, short_side=100
    )
    assert image.size == (400, 200)
    assert (info.width, info.height) == (1600, 800)
    apart = np.abs(np.asarray(image, np.int16) - np.asarray(upright.reduce(4)))
    assert apart.mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_unknown_orientation_changes_nothing(orientation: int) -> None:
    assert difference(encoded(picture(), exif=tagged(orientation)), picture()) == 0


def little_endian_exif(kind: int, count: int, value: bytes) -> bytes:
    """An EXIF block of one field: tag 274 (orientation) of any type."""
    field = struct.pack("<HHI4s", 274, kind, count, value)
    return b"Exif\x00\x00II*\x00" + struct.pack("<IH", 8, 1) + field + bytes(4)


BROKEN_EXIF = {
    "empty": b"",
    "one byte": b"E",
    "no TIFF header": b"Exif\x00\x00",
    "garbage": b"Exif\x00\x00" + b"garbage!" * 40,
    "an offset behind the end": b"Exif\x00\x00II*\x00\xff\xff\xff\x7f",
    "a directory that ends early": b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff",
    "a text for a number": little_endian_exif(2, 4, b"six\x00"),
    "a million values": little_endian_exif(3, 1_000_000, b"\xff\xff\xff\x7f"),
    "a fraction by zero": little_endian_exif(5, 1, b"\x1a\x00\x00\x00") + bytes(8),
    "an unknown type": little_endian_exif(99, 1, b"\x06\x00\x00\x00"),
}


@as_in_production
@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("exif", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
def test_an_image_with_broken_exif_is_decoded(exif: bytes, format: str) -> None:
    options = LOSSLESS.get(format, {"quality": 95})
    assert difference(encoded(picture(), format, exif=exif, **options), picture()) < 6


# Modes and colour profiles


def test_a_cmyk_jpeg_is_shown_in_its_colours() -> None:
    ink = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    ink.paste((255, 0, 255, 0), (16, 0, 32, 32))
    shown = pixels(encoded(ink, "JPEG", quality=95))
    assert np.abs(shown[:, 2:14] - (255, 0, 0)).max() <= 4
    assert np.abs(shown[:, 18:30] - (0, 255, 0)).max() <= 4


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "profile",
    [
        b"garbage" * 100,
        b"\x00",
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes(),
    ],
    ids=["garbage", "one byte", "of another colour space", "linear"],
)
def test_a_colour_profile_changes_nothing(profile: bytes, format: str) -> None:
    with_profile = pixels(encoded(picture(), format, icc_profile=profile))
    np.testing.assert_array_equal(with_profile, pixels(encoded(picture(), format)))


def test_a_cmyk_jpeg_with_a_broken_profile_is_shown_in_its_colours() -> None:
    ink = picture().convert("CMYK")
    data = encoded(ink, "JPEG", quality=95, icc_profile=b"garbage" * 1000)
    np.testing.assert_array_equal(pixels(data), pixels(encoded(ink, "JPEG", quality=95)))


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP"])
def test_a_palette_becomes_its_colours(format: str) -> None:
    painted = picture().quantize(16)
    assert difference(encoded(painted, format), painted) == 0


@pytest.mark.parametrize("format", ["PNG", "GIF", "JPEG", "BMP", "WEBP"])
def test_grey_becomes_three_equal_channels(format: str) -> None:
    shown = pixels(encoded(picture().convert("L"), format))
    assert np.ptp(shown, axis=2).max() <= (2 if format == "WEBP" else 0)
    assert np.ptp(shown) > 100


@pytest.mark.parametrize("format", ["PNG", "BMP"])
def test_one_bit_becomes_black_and_white(format: str) -> None:
    shown = pixels(encoded(picture().convert("1"), format))
    assert set(np.unique(shown)) == {0, 255}


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    shown = pixels(encoded(Image.fromarray(ramp)))
    np.testing.assert_array_equal(shown[..., 0], np.rint(ramp / 257))
    assert np.ptp(shown, axis=2).max() == 0


@pytest.mark.parametrize("colour", [2, 4, 6], ids=["RGB", "grey and alpha", "RGBA"])
def test_sixteen_bits_per_channel_keep_the_high_byte(colour: int) -> None:
    channels = {2: 3, 4: 2, 6: 4}[colour]
    row = b"\x00" + b"\x80\x12" * channels * 4
    body = png_chunk(b"IDAT", zlib.compress(row * 4))
    shown = pixels(png(4, 4, body, depth=16, colour=colour))
    expected = 0x80 if colour == 2 else 0x80 * 0x80 / 255 + 0x7F  # alpha .5 lets white through
    assert np.abs(shown - expected).max() <= 1


def on_white(value: int, alpha: int) -> float:
    return value * alpha / 255 + 255 - alpha


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("alpha", [0, 1, 128, 254, 255])
def test_transparent_parts_become_white(alpha: int, mode: str, format: str) -> None:
    colour = (90, alpha) if mode == "LA" else (90, 90, 90, alpha)
    image = Image.new(mode, (8, 8), colour)
    shown = pixels(encoded(image, format, **LOSSLESS[format]))
    assert np.abs(shown - on_white(90, alpha)).max() <= 1


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_becomes_white(format: str) -> None:
    painted = Image.new("P", (8, 8), 1)
    painted.putpalette([0, 0, 0, 200, 10, 10])
    painted.paste(0, (0, 0, 4, 8))
    shown = pixels(encoded(painted, format, transparency=0))
    assert (shown[:, :4] == 255).all()
    assert (shown[:, 4:] == (200, 10, 10)).all()


def test_half_transparent_palette_entries_are_blended_with_white() -> None:
    painted = Image.new("P", (8, 8), 1)
    painted.putpalette([0, 0, 0, 200, 10, 10])
    shown = pixels(encoded(painted, transparency=bytes([0, 128])))
    assert np.abs(shown - [on_white(value, 128) for value in (200, 10, 10)]).max() <= 1


@pytest.mark.parametrize(("mode", "key"), [("L", 7), ("RGB", (7, 7, 7)), ("1", 0)])
def test_a_transparent_key_colour_becomes_white(mode: str, key: int | tuple[int, ...]) -> None:
    image = Image.new(mode, (8, 8), key)
    assert (pixels(encoded(image, transparency=key)) == 255).all()


# Scaled decoding


@pytest.mark.parametrize("short_side", [64, 128, 224])
@pytest.mark.parametrize(
    "size", [(2000, 1500), (1500, 2000), (900, 897), (447, 449), (1793, 1792), (3000, 100), (8, 8)]
)
def test_a_scaled_decode_keeps_at_least_1_5_times_the_side_and_reports_the_full_size(
    size: tuple[int, int], short_side: int
) -> None:
    image, info = decode(encoded(Image.new("RGB", size), "JPEG"), LIMITS, short_side)
    assert min(image.size) >= min(1.5 * short_side, *size)
    assert (info.width, info.height) == size
    assert image.width / image.height == pytest.approx(size[0] / size[1], rel=0.02)


def test_a_large_jpeg_is_not_decoded_whole() -> None:
    image, _ = decode(encoded(Image.new("RGB", (4000, 3000)), "JPEG"), LIMITS, 224)
    assert image.size == (500, 375)


# Limits


def test_the_byte_limit_is_inclusive() -> None:
    data = encoded(picture())
    assert decode(data, replace(LIMITS, max_bytes=len(data)), 224)
    with pytest.raises(ImageTooLarge, match=r"maximum is .* MiB"):
        decode(data, replace(LIMITS, max_bytes=len(data) - 1), 224)


def test_too_many_bytes_are_refused_before_any_other_check() -> None:
    with pytest.raises(ImageTooLarge):
        decode(b"no image, but long", replace(LIMITS, max_bytes=10), 224)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_the_pixel_limit_is_inclusive(format: str) -> None:
    data = encoded(picture(), format)
    assert decode(data, replace(LIMITS, max_pixels=64 * 48), 224)
    with pytest.raises(TooManyPixels, match="64 × 48"):
        decode(data, replace(LIMITS, max_pixels=64 * 48 - 1), 224)


@functools.cache
def decompression_bomb() -> bytes:
    """20,000 × 20,000 pixels, all there, in about 50 kB."""
    squeeze = zlib.compressobj(9)
    row = bytes(1 + 20_000 // 8)
    parts = [squeeze.compress(row * 100) for _ in range(200)]
    return png(20_000, 20_000, png_chunk(b"IDAT", b"".join(parts) + squeeze.flush()))


def refuse_quickly_and_small(data: bytes, error: type[ImageError], seconds: float = 0.5) -> None:
    """Within `seconds` of processor time; only Python's own memory is traced."""
    tracemalloc.start()
    try:
        began = time.process_time()
        with pytest.raises(error):
            decode(data, LIMITS, 224)
        assert time.process_time() - began < seconds
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_bomb_of_400_megapixels_is_refused_from_its_header() -> None:
    assert len(decompression_bomb()) < 60_000
    refuse_quickly_and_small(decompression_bomb(), TooManyPixels)


def test_an_image_is_refused_from_its_header_alone() -> None:
    with pytest.raises(TooManyPixels, match="8000 × 8000"):
        decode(png(8000, 8000), LIMITS, 224)


@pytest.mark.parametrize("action", ["error", "ignore"])
@pytest.mark.parametrize(
    "data",
    [
        png(10_000, 10_000),
        png(2**31 - 1, 2**31 - 1),
        gif_header(65_535, 65_535),
        bmp_header(60_000, 60_000),
        bmp_header(10_000, -10_000),
        jpeg_header(65_000, 65_000),
        webp_canvas(16_383, 16_383),
        webp_header(16_383, 16_383),
    ],
    ids=["PNG", "huge PNG", "GIF", "BMP", "BMP upside down", "JPEG", "WebP canvas", "WebP"],
)
def test_pillows_decompression_bomb_error_becomes_too_many_pixels(data: bytes, action: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(action)  # type: ignore[arg-type]
        refuse_quickly_and_small(data, TooManyPixels)


def test_a_gif_frame_larger_than_its_canvas_counts_in_full() -> None:
    data = bytearray(encoded(picture(), "GIF"))
    at = data.index(b"\x2c\x00\x00\x00\x00")
    data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
    refuse_quickly_and_small(bytes(data), TooManyPixels)


# Animations


@functools.cache
def animation(format: str, frames: int) -> bytes:
    later = [Image.new("RGB", (64, 48), (n % 256, n // 256, 99)) for n in range(frames - 1)]
    options = LOSSLESS.get(format, {})
    return encoded(picture(), format, save_all=True, append_images=later, **options)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(format: str) -> None:
    assert difference(animation(format, 5), picture()) < 6


def test_an_animation_of_500_frames_takes_no_longer_than_its_first() -> None:
    data = animation("GIF", 500)
    began = time.process_time()
    shown = pixels(data)
    assert time.process_time() - began < 0.5
    only_the_first_frame = data[: len(animation("GIF", 1)) + 200] + b"\xaa" * 50_000
    np.testing.assert_array_equal(pixels(only_the_first_frame), shown)


# Damaged files


@pytest.mark.parametrize("data", [b"", b"\xff", b"\x89", b"G", b"hello, I am a picture\n" * 50])
def test_other_files_raise_not_an_image(data: bytes) -> None:
    with pytest.raises(NotAnImage):
        decode(data, LIMITS, 224)


def test_an_empty_file_is_reported_as_empty() -> None:
    with pytest.raises(NotAnImage, match="empty"):
        decode(b"", LIMITS, 224)


def test_the_error_for_an_unknown_file_lists_the_supported_formats() -> None:
    with pytest.raises(NotAnImage, match="supported formats: JPEG, PNG, WEBP, GIF, BMP"):
        decode(b"plain text in a file that is called holiday.jpg", LIMITS, 224)


@functools.cache
def noise(format: str) -> bytes:
    """A picture that does not compress, so that a part of the file is a part of the picture."""
    random = np.random.default_rng(7).integers(0, 256, (96, 128, 3), np.uint8)
    return encoded(Image.fromarray(random), format)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("part", [0.001, 0.01, 0.1, 0.5, 0.9, 0.98])
def test_a_file_that_ends_early_is_refused(format: str, part: float) -> None:
    data = noise(format)
    with pytest.raises((TruncatedImage, NotAnImage)):
        decode(data[: int(len(data) * part)], LIMITS, 224)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_file_that_ends_within_its_pixels_is_truncated(format: str) -> None:
    with pytest.raises(TruncatedImage, match="ends early or is damaged"):
        decode(noise(format)[:-2000], LIMITS, 224)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_cut_through_a_header_gives_an_image_error(format: str) -> None:
    data = noise(format)
    for length in range(64):
        with pytest.raises(ImageError):
            decode(data[:length], LIMITS, 224)


@pytest.mark.parametrize("size", [(0, 0), (0, 9), (9, 0)])
@pytest.mark.parametrize("make", [png, bmp_header, jpeg_header, webp_header, gif_header])
def test_a_side_of_zero_pixels_is_not_an_image(
    make: Callable[[int, int], bytes], size: tuple[int, int]
) -> None:
    data = make(*size)
    if make is gif_header:  # its frame has a separate size
        data = data.replace(b"\x2c\x00\x00\x00\x00\x40\x00\x30\x00", b"\x2c" + bytes(8))
    with pytest.raises((NotAnImage, TruncatedImage)):
        decode(data, LIMITS, 224)


def png_with(kind: bytes, body: bytes) -> bytes:
    """The usual picture with one more chunk after its header."""
    data = encoded(picture())
    return data[:33] + png_chunk(kind, body) + data[33:]


def test_a_png_with_megabytes_of_plain_text_is_decoded() -> None:
    assert difference(png_with(b"tEXt", b"Comment\x00" + b"a" * 5_000_000), picture()) == 0


@pytest.mark.parametrize(
    ("kind", "head"),
    [(b"zTXt", b"a\x00\x00"), (b"iTXt", b"a\x00\x01\x00\x00\x00"), (b"iCCP", b"a\x00\x00")],
    ids=["zTXt", "iTXt", "iCCP"],
)
def test_a_bomb_in_compressed_png_text_is_never_decompressed(kind: bytes, head: bytes) -> None:
    bomb = png_with(kind, head + zlib.compress(bytes(100_000_000), 1))
    tracemalloc.start()
    try:
        shown = pixels(bomb)
        np.testing.assert_array_equal(shown, np.asarray(picture()))
    except ImageError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 10_000_000


# The allow-list


OTHER_FORMATS = {
    "TIFF": encoded(picture(), "TIFF"),
    "ICO": encoded(picture(), "ICO"),
    "PSD": b"8BPS\x00\x01" + bytes(100),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "JPEG 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100),
    "JPEG XL": b"\xff\x0a" + bytes(100),
    "HEIF": b"\x00\x00\x00\x18ftypheic" + bytes(100),
    "AVIF": b"\x00\x00\x00\x18ftypavif" + bytes(100),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_the_error_names_an_unsupported_format(name: str) -> None:
    with pytest.raises(
        UnsupportedFormat, match=f"^{name} is not supported; supported formats: JPEG, PNG"
    ):
        decode(OTHER_FORMATS[name], LIMITS, 224)


def test_the_error_names_a_big_endian_tiff() -> None:
    with pytest.raises(UnsupportedFormat, match="TIFF"):
        decode(b"MM\x00*" + bytes(100), LIMITS, 224)


@pytest.mark.parametrize("name", ["HEIF", "AVIF"])
def test_the_error_for_an_optional_format_names_the_setting(name: str) -> None:
    with pytest.raises(UnsupportedFormat, match=f"LIKENESS_EXTRA_FORMATS={name.lower()}"):
        decode(OTHER_FORMATS[name], LIMITS, 224)


def test_the_error_for_another_format_names_no_setting() -> None:
    with pytest.raises(UnsupportedFormat) as refused:
        decode(OTHER_FORMATS["TIFF"], LIMITS, 224)
    assert "LIKENESS" not in str(refused.value)


def test_a_format_that_is_not_in_the_limits_is_refused() -> None:
    with pytest.raises(UnsupportedFormat, match="GIF is not supported; supported formats: PNG"):
        decode(encoded(picture(), "GIF"), replace(LIMITS, formats=("PNG",)), 224)


def test_a_file_is_only_passed_to_the_decoder_of_its_signature() -> None:
    tiff_behind_a_jpeg_signature = b"\xff\xd8\xff" + encoded(picture(), "TIFF")
    with pytest.raises(NotAnImage, match="not a readable JPEG file"):
        decode(tiff_behind_a_jpeg_signature, LIMITS, 224)


def test_a_decoder_without_a_signature_never_receives_a_file() -> None:
    photo_cd = b"\xff\xd8\xff".ljust(2048, b"\x00") + b"PCD_" + bytes(768 * 512 * 3)
    assert Image.open(io.BytesIO(photo_cd)).format == "PCD"
    with pytest.raises(NotAnImage, match="JPEG"):
        decode(photo_cd, LIMITS, 224)


EVERYTHING = replace(LIMITS, formats=(*LIMITS.formats, "AVIF", "HEIF"))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif_is_decoded_once_it_is_enabled() -> None:
    data = encoded(picture(), "AVIF", quality=95)
    shown, info = decode(data, EVERYTHING, 224)
    assert (info.format, info.width, info.height) == ("AVIF", 64, 48)
    assert np.abs(np.asarray(shown, np.int16) - np.asarray(picture())).mean() < 6


@functools.cache
def heif() -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra `heif` is not installed")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture()).save(buffer, quality=95)
    return buffer.getvalue()


def test_heif_is_decoded_once_it_is_enabled() -> None:
    shown, info = decode(heif(), EVERYTHING, 224)
    assert (info.format, info.width, info.height) == ("HEIF", 64, 48)
    assert np.abs(np.asarray(shown, np.int16) - np.asarray(picture())).mean() < 6


def test_heif_is_refused_by_default() -> None:
    with pytest.raises(UnsupportedFormat, match="HEIF"):
        decode(heif(), LIMITS, 224)


def test_heif_has_the_same_limits() -> None:
    with pytest.raises(TooManyPixels, match="64 × 48"):
        decode(heif(), replace(EVERYTHING, max_pixels=1000), 224)
    with pytest.raises((TruncatedImage, NotAnImage)):
        decode(heif()[: len(heif()) // 2], EVERYTHING, 224)


def test_heif_without_its_library_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        sys.modules, "pillow_heif.as_plugin", None
    )  # how Python marks what cannot be found
    with pytest.raises(ConfigurationError, match="pillow_heif"):
        decode(OTHER_FORMATS["HEIF"], EVERYTHING, 224)


# Any bytes at all

SMALL = replace(EVERYTHING, max_pixels=300_000)
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "progressive", "palette", "16 bit"]


@functools.cache
def seed(name: str) -> bytes:
    small = picture(24, 18)
    match name:
        case "progressive":
            return encoded(small, "JPEG", progressive=True, exif=tagged(6))
        case "palette":
            return encoded(small.quantize(16), transparency=3)
        case "16 bit":
            return encoded(Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160))
        case "AVIF" if not features.check("avif"):
            return OTHER_FORMATS["AVIF"]
        case "JPEG" | "PNG" | "WEBP":
            return encoded(small, name, exif=tagged(8), icc_profile=b"odd")
    return encoded(small, name)


# What to do at a place between the first byte (0) and the last (1).
EDIT = st.tuples(
    st.sampled_from(["flip", "insert", "cut"]),
    st.floats(0, 1),
    st.integers(1, 255),
    st.binary(min_size=1, max_size=8),
)


def edited(data: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    for kind, place, number, extra in edits:
        at = int(place * len(data))
        match kind:
            case "flip":
                flipped = bytes(b ^ number for b in data[at : at + 1])
                data = data[:at] + flipped + data[at + 1 :]
            case "insert":
                data = data[:at] + extra + data[at:]
            case "cut":
                data = data[:at] + data[at + number :]
    return data


def gives_an_image_or_an_image_error(data: bytes) -> None:
    try:
        image, info = decode(data, SMALL, 16)
    except ImageError as error:
        assert str(error)
    else:
        assert image.mode == "RGB"
        assert 0 < info.width * info.height <= SMALL.max_pixels
        assert min(image.size) > 0


thorough = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@as_in_production
@settings(thorough, max_examples=200)
@given(start=st.sampled_from([b"", *(seed(name)[:16] for name in FORMATS)]), rest=st.binary())
def test_random_bytes_give_an_image_or_an_image_error(start: bytes, rest: bytes) -> None:
    gives_an_image_or_an_image_error(start + rest)


@as_in_production
@settings(thorough, max_examples=500)
@given(name=st.sampled_from(FORMATS), edits=st.lists(EDIT, min_size=1, max_size=6))
def test_a_damaged_file_gives_an_image_or_an_image_error(
    name: str, edits: list[tuple[str, float, int, bytes]]
) -> None:
    gives_an_image_or_an_image_error(edited(seed(name), edits))


def test_a_large_run_length_bmp_is_refused_before_it_is_decoded() -> None:
    """50,000,000 × 1 pixels in a kilobyte: Pillow would take six seconds."""
    header = b"BM" + struct.pack("<IHHI", 1086, 0, 0, 1078)
    info = struct.pack("<IiiHHIIiiII", 40, 50_000_000, 1, 1, 8, 1, 8, 0, 0, 256, 0)
    data = header + info + bytes(1024) + b"\x01\x40\x01\x90\x00\x00\x00\x01"
    refuse_quickly_and_small(data, TooManyPixels)


def test_a_motion_photo_is_decoded_whatever_its_video_contains() -> None:
    """Phones append a video behind the image: some of its bytes look like scan markers."""
    video = b"\xff\xda\x00\x08" * 500
    assert difference(encoded(picture(), "JPEG") + video, picture()) < 12


def test_scan_markers_inside_metadata_are_not_counted() -> None:
    assert difference(encoded(picture(), "JPEG", comment=b"\xff\xda" * 500), picture()) < 12


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"", b""), (b"\xff\x01", b""), (b"", b"\xff\x02"), (b"", b"\xff\xbf"), (b"\xff\xff", b"")],
    ids=["plain", "TEM before it", "reserved after it", "reserved after it, too", "filled"],
)
def test_a_jpeg_that_repeats_its_last_scan_is_refused_before_it_is_decoded(
    before: bytes, after: bytes
) -> None:
    """400 nearly empty scans over 48 megapixels took 15 seconds. Markers without a length do not
    hide them.
    """
    whole = encoded(picture(), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    data = whole[:-2] + (before + whole[last:-2] + after) * 400 + whole[-2:]
    refuse_quickly_and_small(data, NotAnImage)
    few = whole[:-2] + whole[last:-2] * 3 + whole[-2:]
    assert difference(few, picture()) < 12


# Thumbnails


def small(data: bytes, side: int = 160) -> Image.Image:
    image = Image.open(io.BytesIO(thumbnail(data, Limits(), side)))
    assert image.format == "JPEG"
    return image


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (160, 120)),
        ((480, 640), (120, 160)),
        ((160, 160), (160, 160)),
        ((30, 20), (30, 20)),
        ((4000, 2), (160, 1)),
        ((1, 1), (1, 1)),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_thumbnail_keeps_the_proportions_and_is_never_enlarged(
    format: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert small(encoded(Image.new("RGB", size, "teal"), format)).size == expected


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_thumbnail_is_upright_and_has_no_metadata(format: str) -> None:
    exif = Image.Exif()
    exif[274], exif[271] = 6, "Camera"
    exif.get_ifd(0x8825)[1] = "N"
    secrets = {
        "exif": exif.tobytes(),
        "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "xmp": b"<x:xmpmeta/>",
        "comment": b"at home",
    }
    image = small(encoded(Image.new("RGB", (640, 480), "teal"), format, **secrets))
    assert image.size == (120, 160)
    assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert not image.getexif()
