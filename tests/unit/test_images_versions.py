"""What a file's pixels are in version 1 of the preprocessing, and in version 2."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image, ImageDraw, PngImagePlugin, features

from likeness.errors import NoDetail, TooManyPixels, TruncatedImage
from likeness.images import decode
from likeness.preprocessing import prepare
from likeness.settings import Limits
from tests.image_features import spec
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


# Transparency and depth


def ring(mode: str, ink: int | tuple[int, ...], ground: int | tuple[int, ...]) -> Image.Image:
    image = Image.new(mode, (80, 60), ground)
    ImageDraw.Draw(image).ellipse((15, 10, 65, 50), outline=ink, width=6)
    return image


def grey_png(values: NDArray[np.uint16], depth: int, transparent: int) -> bytes:
    """Pillow writes no grey PNG of two or four bits, and no tRNS for sixteen."""
    height, width = values.shape
    if depth == 16:
        rows = values.astype(">u2").view(np.uint8).reshape(height, -1)
    else:
        bits = (values[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", transparent)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_grey_png_is_white_where_it_is_transparent(depth: int) -> None:
    transparent, ink = (1, 0) if depth == 1 else (1, 2**depth // 2)
    values = np.asarray(ring("I", ink, transparent)).astype(np.uint16)
    found = pixels(grey_png(values, depth, transparent), 2)
    assert found[values == transparent].min() == 255
    expected = round(255 * ink / (2**depth - 1))
    assert np.abs(found[values == ink] - expected).max() <= 1


@pytest.mark.parametrize(
    "drawing",
    [
        encoded(ring("RGBA", (255, 255, 255, 255), (0, 0, 0, 0))),
        encoded(ring("LA", (255, 255), (0, 0))),
        encoded(ring("RGBA", (255, 255, 255, 255), (0, 0, 0, 0)), "WEBP", lossless=True),
        grey_png(np.asarray(ring("I", 15, 0)).astype(np.uint16), 4, 0),
    ],
    ids=["RGBA", "grey and alpha", "WebP", "grey with a transparent value"],
)
def test_a_white_drawing_on_transparency_vanishes_in_version_1_only(drawing: bytes) -> None:
    assert np.ptp(pixels(drawing, 2)) > 150
    if drawing[24:26] != b"\x04\x00":  # of which version 1 takes the value for another
        assert np.ptp(pixels(drawing, 1)) == 0


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_sixteen_bits_are_scaled_by_what_they_hold(bits: int) -> None:
    ramp = np.linspace(0, 2**bits - 1, 64 * 48).reshape(48, 64).astype(np.uint16)
    found = pixels(encoded(Image.fromarray(ramp)), 2)
    assert np.abs(found[:, :, 0] - ramp * (255 / (2**bits - 1))).max() <= 1


def test_an_animation_of_flat_frames_is_refused_with_their_number() -> None:
    frames = [Image.new("RGB", (60, 40), (shade, 0, 0)) for shade in (0, 60, 120)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    for version, reason in ((1, "the image has"), (2, "each of the first 3 frames has")):
        image, _ = decode(data, LIMITS, 224, version)
        with pytest.raises(NoDetail, match=f"^{reason} a single flat colour"):
            prepare(image, replace(spec(), preprocessing=version))


def test_a_bmp_with_masks_is_checked_before_it_is_read() -> None:
    data = bytearray(encoded(WIDE.convert("RGBA"), "BMP"))
    struct.pack_into("<IiiHHI", data, 14, 124, 20_000, 20_000, 1, 32, 3)
    with pytest.raises(TooManyPixels):
        decode(bytes(data), LIMITS, 224, 2)
    struct.pack_into("<ii", data, 18, 300, 300)
    with pytest.raises(TruncatedImage):
        decode(bytes(data), LIMITS, 224, 2)


CASES = Path(__file__).parents[3] / "shared" / "data" / "cases"


@pytest.mark.parametrize(
    "name", ["g16_trns.png", "b32_v5_alpha0.bmp", "gif_blackfirst.gif", "white_logo.png"]
)
def test_files_that_went_wrong_have_detail(name: str) -> None:
    if not (CASES / name).exists():
        pytest.skip(f"{name} is not in shared/data/cases")
    found = pixels((CASES / name).read_bytes(), 2)
    assert found.std() > 40
    if name == "g16_trns.png":
        assert found[0, 0].min() == 255
