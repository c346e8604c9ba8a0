"""What a file's pixels are in version 1 of the preprocessing, and in version 2."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, features

from likeness.images import decode
from likeness.settings import Limits
from tests.pictures import encoded

LIMITS = replace(Limits(), formats=(*Limits().formats, "AVIF", "HEIF"))


def pixels(data: bytes, version: int) -> NDArray[np.int16]:
    image, _ = decode(data, LIMITS, 224, version)
    return np.asarray(image).astype(np.int16)


# Orientation

WIDE = Image.linear_gradient("L").resize((60, 40)).convert("RGB")
ORIENTATION = 274
TURNED = 6  # upright once it is turned clockwise
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{TURNED}"/></rdf:RDF>'
    "</x:xmpmeta>"
)


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[ORIENTATION] = orientation
    return tags.tobytes()


def with_xmp(format: str) -> bytes:
    if format != "PNG":
        return encoded(WIDE, format, xmp=XMP.encode())
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP)
    return encoded(WIDE, pnginfo=text)


def upright_size(data: bytes, version: int) -> tuple[int, int]:
    image, info = decode(data, LIMITS, 224, version)
    assert image.size == (info.width, info.height)
    return image.size


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_version_1_turns_an_image_by_its_xmp_and_version_2_does_not(format: str) -> None:
    data = with_xmp(format)
    assert (upright_size(data, 1), upright_size(data, 2)) == ((40, 60), (60, 40))


def test_version_1_turns_a_png_by_exif_in_its_text_and_version_2_does_not() -> None:
    """ImageMagick writes such text; browsers do not read it."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\n\nexif\n{exif(TURNED).hex()}")
    data = encoded(WIDE, pnginfo=text)
    assert (upright_size(data, 1), upright_size(data, 2)) == ((40, 60), (60, 40))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_exif_overrules_xmp(format: str, version: int) -> None:
    data = encoded(WIDE, format, xmp=XMP.encode(), exif=exif(3))
    assert upright_size(data, version) == (60, 40)
    upside_down = np.asarray(WIDE)[::-1].astype(np.int16)
    assert np.abs(pixels(data, version) - upside_down).mean() < 3


def heif(turned: bool, more: bytes = b"", xmp: str = "") -> bytes:
    """A HEIC whose container turns it, with EXIF of its own."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra `heif` is not installed")
    file = pillow_heif.from_pillow(WIDE)
    out = io.BytesIO()
    file.save(out, exif=exif(TURNED) if turned else (more or None), xmp=xmp.encode() or None)
    return out.getvalue()


def avif(turned: bool, more: bytes = b"", xmp: str = "") -> bytes:
    if not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    options = {"xmp": xmp.encode()} if xmp else {}
    return encoded(WIDE, "AVIF", exif=exif(TURNED) if turned else more, **options)


def exif_that_says_turned(tag: int) -> bytes:
    field = struct.pack("<HHII", tag, 3, 1, TURNED)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + field + bytes(4)


def with_exif_beside_the_container(make: Callable[..., bytes]) -> bytes:
    """Encoders move the orientation into the container, so it is written under another tag."""
    another = 0x9999
    data = make(turned=False, more=exif_that_says_turned(another))
    found = exif_that_says_turned(another)[6:]
    assert data.count(found) == 1
    return data.replace(found, exif_that_says_turned(ORIENTATION)[6:])


@pytest.mark.parametrize("make", [heif, avif])
def test_the_container_of_heic_and_avif_turns_an_image_once(make: Callable[..., bytes]) -> None:
    assert upright_size(make(turned=True), 2) == (40, 60)
    top_down = np.asarray(WIDE.transpose(Image.Transpose.ROTATE_270)).astype(np.int16)
    assert np.abs(pixels(make(turned=True), 2) - top_down).mean() < 3


@pytest.mark.parametrize("make", [heif, avif])
def test_exif_and_xmp_turn_no_heic_and_no_avif(make: Callable[..., bytes]) -> None:
    assert upright_size(with_exif_beside_the_container(make), 2) == (60, 40)
    hidden = XMP.replace("Orientation", "OrientatioN")  # or pillow-heif's encoder would obey it
    data = make(turned=False, xmp=hidden).replace(b"OrientatioN", b"Orientation")
    assert XMP.encode() in data
    assert upright_size(data, 2) == (60, 40)
