"""What a picture's file may hold beside its pixels, looked at before a decoder reads any of it.

Pillow reads headers in Python, adds pieces of EXIF up one by one and unpacks what is packed;
libjpeg passes over the whole picture once for each scan. Small files took minutes (decision 0014).
"""

from __future__ import annotations

import re

import numpy as np

from likeness.errors import NotAnImage, TooManyPixels, UnsupportedFormat
from likeness.settings import MIB

# Cameras and editors write some dozens of parts, and EXIF has at most 64 kB.
_MAX_PARTS = 1000
MAX_EXIF_BYTES = MIB
_MAX_GAP_BYTES = 65_536

# Encoders write about ten.
_MAX_JPEG_SCANS = 64
# ITU-T T.81, B.1.1: markers that a length comes after, and the image's beginning and end. Others
# stand alone: D0 to D7 inside entropy-coded data, and what is below C0, which decoders pass over.
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_JPEG_SCAN, _JPEG_APP1 = b"\xff\xda", b"\xff\xe1"
_EXIF = b"Exif\0\0"
_JPEG_ENDS = (b"\xff\xd8", b"\xff\xd9")
# A scan of these takes no bytes where all is one colour.
_JPEG_ARITHMETIC = {bytes([0xFF, code]) for code in (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)}

_PNG_PIXELS = {b"IDAT", b"fdAT", b"fcTL"}

# Pillow decodes run-length BMPs in Python, byte by byte: one kilobyte took 6 s at 50 megapixels.
_MAX_RUN_LENGTH_PIXELS = 4_000_000
_OS2_HEADER = (12).to_bytes(4, "little")
_BMP_RUN_LENGTHS = {b"\x01", b"\x02"}


def check(data: bytes, name: str) -> None:
    """Raises NotAnImage or UnsupportedFormat for what would take long to read, though small.

    `name` is the format's, as Pillow has it.
    """
    if name == "JPEG":
        _check_jpeg(data)
        if _has_too_many_scans(data):
            raise NotAnImage(f"a JPEG of more than {_MAX_JPEG_SCANS} scans")
    elif name == "PNG":
        _check_png(data)


def check_run_length(data: bytes, name: str, width: int, height: int) -> None:
    """Raises TooManyPixels, or NotAnImage for codes that make no pixels."""
    if name != "BMP" or data[14:18] == _OS2_HEADER or data[30:31] not in _BMP_RUN_LENGTHS:
        return
    if width * height > _MAX_RUN_LENGTH_PIXELS:
        raise TooManyPixels(f"{width} × {height} pixels of a run-length BMP")
    if len(data) > 2 * (width + 1) * height + _MAX_GAP_BYTES:
        raise NotAnImage("a run-length BMP that is longer than its pixels can be")


def _check_jpeg(data: bytes) -> None:
    """Up to the first scan, segment by segment, as decoders read it."""
    at, gap_bytes, exif_bytes = len(_JPEG_SCAN), 0, 0
    for _ in range(_MAX_PARTS):
        marker = _JPEG_MARKER.search(data, at)
        gap_bytes += (marker.start() if marker else len(data)) - at
        if gap_bytes > _MAX_GAP_BYTES:
            raise NotAnImage("a JPEG with gaps between its segments")
        if marker is None or marker[0] == _JPEG_SCAN:
            return
        if marker[0] in _JPEG_ENDS:
            raise NotAnImage("a JPEG that ends before its first scan")
        if marker[0] in _JPEG_ARITHMETIC:
            raise UnsupportedFormat("JPEG is not taken in arithmetic coding")
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        # XMP stands in the same segments, and may hold a depth map of megabytes
        if marker[0] == _JPEG_APP1 and data.startswith(_EXIF, marker.end() + 2):
            exif_bytes += length
        if exif_bytes > MAX_EXIF_BYTES:
            raise NotAnImage("a JPEG with more than a megabyte of EXIF")
        at = marker.end() + length
    raise NotAnImage(f"a JPEG of more than {_MAX_PARTS} segments before its first scan")


def _has_too_many_scans(data: bytes) -> bool:
    """Count the scans of the first image, marker by marker.

    The two bytes also occur by chance in metadata, and in the video that phones append.
    """
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw[1:] == _JPEG_SCAN[1])  # several times as fast as to count the pair
    if np.count_nonzero(raw[ends] == _JPEG_SCAN[0]) <= _MAX_JPEG_SCANS:
        return False
    scans, at = 0, len(_JPEG_SCAN)
    while scans <= _MAX_JPEG_SCANS and (marker := _JPEG_MARKER.search(data, at)):
        if marker[0] in _JPEG_ENDS:
            break
        scans += marker[0] == _JPEG_SCAN
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        at = marker.end() + length
    return scans > _MAX_JPEG_SCANS


def _check_png(data: bytes) -> None:
    at, parts = len(b"\x89PNG\r\n\x1a\n"), 0
    while at < len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if name == b"IEND":
            return
        parts += name not in _PNG_PIXELS
        if parts > _MAX_PARTS:
            raise NotAnImage(f"a PNG of more than {_MAX_PARTS} chunks beside its pixels")
        if name == b"eXIf" and length > MAX_EXIF_BYTES:
            raise NotAnImage("a PNG with more than a megabyte of EXIF")
        at += 12 + length  # itself, the name and a checksum
