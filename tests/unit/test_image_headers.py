"""Files that are small, or have few pixels, and would need seconds to minutes to read."""

from __future__ import annotations

import io
import struct
import time
import zlib

import pytest
from PIL import Image

from likeness.errors import ImageError, NotAnImage, TooManyPixels, UnsupportedFormat
from likeness.images import decode
from likeness.settings import Limits
from tests.pictures import encoded, picture

JPEG = encoded(picture(1), "JPEG")
PROGRESSIVE = encoded(picture(1), "JPEG", progressive=True)
START, SIGNATURE = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
EXIF = b"Exif\0\0MM\0*"


def segment(code: int, body: bytes = b"") -> bytes:
    return bytes([0xFF, code]) + struct.pack(">H", len(body) + 2) + body


def chunk(name: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def begun(*segments: bytes) -> bytes:
    """A whole JPEG with segments before its own."""
    return START + b"".join(segments) + JPEG[2:]


def png(width: int, height: int, *chunks: bytes) -> bytes:
    """Grey, with chunks before its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes((1 + width) * height), 9))
    return SIGNATURE + head + b"".join(chunks) + pixels + chunk(b"IEND")


def run_length_bmp(side: int, codes: bytes) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(codes), 0, 0, 256, 0)
    palette = bytes(1024)
    start = 14 + len(info) + len(palette)
    head = b"BM" + struct.pack("<IHHI", start + len(codes), 0, 0, start)
    return head + info + palette + codes


def long_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = "a description " * 4500
    return exif


LAST_SCAN = PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") : -2]
MEGABYTE = zlib.compress(bytes(1 << 20), 9)
COSTLY: dict[str, tuple[bytes, type[ImageError]]] = {
    "JPEG that ends before scans that nobody counts": (
        START + b"\xff\xd9" + PROGRESSIVE[:-2] + LAST_SCAN * 400 + b"\xff\xd9",
        NotAnImage,
    ),
    "JPEG that begins twice": (START + JPEG, NotAnImage),
    "JPEG in arithmetic coding": (JPEG.replace(b"\xff\xc0", b"\xff\xc9", 1), UnsupportedFormat),
    "JPEG with EXIF in a million pieces": (
        begun(*[segment(0xE1, EXIF)] * 400_000),
        NotAnImage,
    ),
    "JPEG with megabytes of EXIF": (begun(*[segment(0xE1, EXIF + bytes(65_000))] * 17), NotAnImage),
    "JPEG with a million comments": (begun(*[segment(0xFE)] * 1_000_000), NotAnImage),
    "JPEG with megabytes of fill bytes": (begun(b"\xff" * 5_000_000), NotAnImage),
    "JPEG with megabytes of nothing": (START + bytes(5_000_000), NotAnImage),
    "PNG with thousands of profiles": (
        png(8, 8, *[chunk(b"iCCP", b"a\0\0" + MEGABYTE)] * 2000),
        NotAnImage,
    ),
    "PNG with thousands of texts without a key": (
        png(8, 8, *[chunk(b"zTXt", b"\0\0" + MEGABYTE)] * 2000),
        NotAnImage,
    ),
    "PNG with a million empty chunks": (png(8, 8, *[chunk(b"zzCd")] * 1_000_000), NotAnImage),
    "PNG with megabytes of EXIF": (png(8, 8, chunk(b"eXIf", bytes(2_000_000))), NotAnImage),
    "PNG that is a line of pixels": (png(1, 1_000_000), TooManyPixels),
    "PNG that is a line across": (png(1_000_000, 1), TooManyPixels),
    "BMP of codes without pixels": (run_length_bmp(64, b"\0\0" * 500_000), NotAnImage),
}


@pytest.mark.parametrize(("data", "error"), COSTLY.values(), ids=COSTLY)
def test_a_file_that_is_slow_to_read_is_refused(data: bytes, error: type[ImageError]) -> None:
    start_s = time.process_time()
    with pytest.raises(error):
        decode(data, Limits(), 224)
    assert time.process_time() - start_s < 0.5  # the mildest of them took longer


HONEST = {
    "JPEG with a profile in as many parts as there can be": begun(
        *(segment(0xE2, b"ICC_PROFILE\0" + bytes([n, 255]) + bytes(9)) for n in range(1, 256))
    ),
    "JPEG with as much EXIF as a segment holds": encoded(picture(1), "JPEG", exif=long_exif()),
    "JPEG with a depth map in its XMP": begun(
        *[segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(65_000))] * 60
    ),
    "JPEG with some fill bytes": begun(b"\xff" * 100),
    "JPEG with a second image behind it": JPEG + JPEG,
    "PNG with many texts": png(64, 48, *[chunk(b"tEXt", b"k\0v")] * 500),
    "PNG with its pixels in small pieces": encoded(picture(1), "PNG"),
    "PNG as wide as a picture may be": png(65_535, 2),
    "BMP in run lengths": run_length_bmp(8, (b"\x08\x01" + b"\0\0") * 8 + b"\0\1"),
}


@pytest.mark.parametrize("data", HONEST.values(), ids=HONEST)
def test_an_unusual_but_valid_file_is_accepted(data: bytes) -> None:
    decode(data, Limits(), 224)


def test_transparency_is_composited_onto_white_as_by_alpha_composite() -> None:
    """By a paste, which needs half the memory: the pixels must be the same."""
    rows = [bytes((v, 255 - v, v ^ a, a)) for a in range(256) for v in range(256)]
    clear = Image.frombytes("RGBA", (256, 256), b"".join(rows))
    white = Image.new("RGBA", clear.size, "white")
    white.alpha_composite(clear)
    out = io.BytesIO()
    clear.save(out, "PNG")
    assert decode(out.getvalue(), Limits(), 224)[0].tobytes() == white.convert("RGB").tobytes()
