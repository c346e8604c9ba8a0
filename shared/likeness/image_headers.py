"""Limits on image headers, checked before a decoder reads the file.

Pillow parses headers in Python, concatenates EXIF piece by piece and decompresses chunks; libjpeg
processes the whole image once for each scan. Small files took minutes (decision 0014).
"""

from __future__ import annotations

import re

import numpy as np

from likeness.errors import NotAnImage, TooManyPixels, UnsupportedFormat
from likeness.settings import MIB

# Cameras and editors write a few dozen segments or chunks, and EXIF of at most 64 kB.
_MAX_SEGMENTS = 1000
MAX_EXIF_BYTES = MIB
_MAX_GAP_BYTES = 65_536

# Encoders write about ten.
_MAX_JPEG_SCANS = 64
# ITU-T T.81, B.1.1: markers that are followed by a length, and those of the image's start and end.
# Others stand alone: D0 to D7 inside entropy-coded data, and those below C0, which decoders skip.
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_JPEG_SCAN, _JPEG_APP1 = b"\xff\xda", b"\xff\xe1"
_EXIF = b"Exif\0\0"
_JPEG_ENDS = (b"\xff\xd8", b"\xff\xd9")
# Arithmetic coding: a scan of a single colour needs no bytes.
_JPEG_ARITHMETIC = {bytes([0xFF, code]) for code in (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)}

_PNG_PIXELS = {b"IDAT", b"fdAT", b"fcTL"}

# Pillow decodes run-length BMPs in Python, byte by byte: a file of 1 kB with 50 MP took 6 s.
_MAX_RUN_LENGTH_PIXELS = 4_000_000
_OS2_HEADER = (12).to_bytes(4, "little")
_BMP_RUN_LENGTHS = {b"\x01", b"\x02"}


def check(data: bytes, name: str) -> None:
    """Raises NotAnImage or UnsupportedFormat for a file that is small but slow to read.

    `name` is Pillow's name of the format.
    """
    if name == "JPEG":
        _check_jpeg(data)
        if _has_too_many_scans(data):
            raise NotAnImage(f"the JPEG has more than {_MAX_JPEG_SCANS} scans")
    elif name == "PNG":
        _check_png(data)


def check_run_length(data: bytes, name: str, width: int, height: int) -> None:
    """For run-length BMPs: raises TooManyPixels, or NotAnImage for more data than pixels."""
    if name != "BMP" or data[14:18] == _OS2_HEADER or data[30:31] not in _BMP_RUN_LENGTHS:
        return
    if width * height > _MAX_RUN_LENGTH_PIXELS:
        raise TooManyPixels(
            f"{width} × {height} pixels in a run-length BMP; "
            f"maximum is {_MAX_RUN_LENGTH_PIXELS / 1e6:.0f} megapixels"
        )
    if len(data) > 2 * (width + 1) * height + _MAX_GAP_BYTES:
        raise NotAnImage("the run-length BMP has more data than its pixels need")


def _check_jpeg(data: bytes) -> None:
    """Check the segments before the first scan, as a decoder would read them."""
    position, gap_bytes, exif_bytes = len(_JPEG_SCAN), 0, 0
    for _ in range(_MAX_SEGMENTS):
        marker = _JPEG_MARKER.search(data, position)
        gap_bytes += (marker.start() if marker else len(data)) - position
        if gap_bytes > _MAX_GAP_BYTES:
            raise NotAnImage("the JPEG has gaps between its segments")
        if marker is None or marker[0] == _JPEG_SCAN:
            return
        if marker[0] in _JPEG_ENDS:
            raise NotAnImage("the JPEG ends before its first scan")
        if marker[0] in _JPEG_ARITHMETIC:
            raise UnsupportedFormat("JPEG with arithmetic coding is not supported")
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        # XMP uses the same segments, and may contain a depth map of several megabytes
        if marker[0] == _JPEG_APP1 and data.startswith(_EXIF, marker.end() + 2):
            exif_bytes += length
        if exif_bytes > MAX_EXIF_BYTES:
            raise NotAnImage("the JPEG has more than one megabyte of EXIF")
        position = marker.end() + length
    raise NotAnImage(f"the JPEG has more than {_MAX_SEGMENTS} segments before its first scan")


def _has_too_many_scans(data: bytes) -> bool:
    """Whether the first image has too many scans, counted marker by marker.

    A scan marker's two bytes also occur by chance in metadata and in videos that phones append.
    """
    raw = np.frombuffer(data, np.uint8)
    # several times faster than searching for both bytes
    ends = np.flatnonzero(raw[1:] == _JPEG_SCAN[1])
    if np.count_nonzero(raw[ends] == _JPEG_SCAN[0]) <= _MAX_JPEG_SCANS:
        return False
    scans, position = 0, len(_JPEG_SCAN)
    while scans <= _MAX_JPEG_SCANS and (marker := _JPEG_MARKER.search(data, position)):
        if marker[0] in _JPEG_ENDS:
            break
        scans += marker[0] == _JPEG_SCAN
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        position = marker.end() + length
    return scans > _MAX_JPEG_SCANS


def _check_png(data: bytes) -> None:
    position, chunks = len(b"\x89PNG\r\n\x1a\n"), 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        if name == b"IEND":
            return
        chunks += name not in _PNG_PIXELS
        if chunks > _MAX_SEGMENTS:
            raise NotAnImage(f"the PNG has more than {_MAX_SEGMENTS} chunks besides its pixels")
        if name == b"eXIf" and length > MAX_EXIF_BYTES:
            raise NotAnImage("the PNG has more than one megabyte of EXIF")
        position += 12 + length  # length, name and checksum have 4 bytes each
