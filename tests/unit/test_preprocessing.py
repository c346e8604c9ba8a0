"""Picture → tensor: geometry, order of axes and channels, arithmetic, and flat pictures.

`LIKENESS_WRITE_GOLDEN=1 pytest tests/unit/test_preprocessing.py` writes the golden tensors again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image

from likeness.errors import NoDetail
from likeness.model import Input, ModelSpec, Normalise, Output, Resize
from likeness.preprocessing import (
    COLOURS,
    cropped,
    decode_size,
    input_box,
    prepare,
    resized,
    seen_box,
)
from likeness.records import WHOLE, Box
from tests.pictures import picture

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "tensors.npz"
PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "retina.jpg")
IMAGENET = Normalise(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CLIP = Normalise(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
RULES = ("crop", "squash", "pad")


def to_tensor(image: Image.Image, of: ModelSpec) -> NDArray[Any]:
    return prepare(image, of).tensor


def spec(
    resize: Resize, height: int = 24, width: int = 32, normalise: Normalise | None = None, **of: Any
) -> ModelSpec:
    """A bundle of which only the preprocessing counts; `of` are fields of its input."""
    return ModelSpec(
        name="a model",
        version="1",
        licence="none",
        source="here",
        files={"image.onnx": "0" * 64},
        input=Input("image", height, width, **of),
        resize=resize,
        normalise=normalise or Normalise(),
        embedding=Output("embedding", 8),
    )


def waves(width: int, height: int) -> Image.Image:
    """Red runs from left to right, green from top to bottom, blue in circles."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    blue = 0.5 + 0.5 * np.sin(12 * np.hypot(x - 0.3, y - 0.6))
    return Image.fromarray((np.stack((x, y, blue), axis=-1) * 255).astype(np.uint8))


def stripes(colours: list[str], width: int, height: int) -> Image.Image:
    """Vertical stripes of equal width."""
    image = Image.new("RGB", (width, height))
    step = width // len(colours)
    for i, colour in enumerate(colours):
        image.paste(colour, (i * step, 0, (i + 1) * step, height))
    return image


def photo(name: str) -> Image.Image:
    """A photo that ships inside scikit-image."""
    skimage = pytest.importorskip("skimage")
    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        return image.convert("RGB")


def raw(image: Image.Image, resize: Resize, **of: Any) -> NDArray[np.int16]:
    """uint8 pixels as (height, width, 3), in a type that can be subtracted."""
    return to_tensor(image, spec(resize, layout="NHWC", dtype="uint8", **of))[0].astype(np.int16)


# Geometry


def test_crop_keeps_the_middle_and_its_aspect_ratio() -> None:
    image = stripes(["black", "red", "lime", "black"], 128, 32)
    shown = raw(image, Resize("crop", "box"), height=32, width=64)
    np.testing.assert_array_equal(shown[:, :32], np.full((32, 32, 3), (255, 0, 0)))
    np.testing.assert_array_equal(shown[:, 32:], np.full((32, 32, 3), (0, 255, 0)))


def test_crop_of_a_tall_picture_keeps_the_middle_too() -> None:
    image = stripes(["black", "red", "lime", "black"], 128, 32).transpose(Image.Transpose.TRANSPOSE)
    shown = raw(image, Resize("crop", "box"), height=64, width=32)
    assert (shown[:32] == (255, 0, 0)).all()
    assert (shown[32:] == (0, 255, 0)).all()


def test_crop_with_a_larger_short_side_cuts_off_a_border_on_all_four_sides() -> None:
    image = Image.new("RGB", (64, 64), "black")
    image.paste(stripes(["red", "lime"], 56, 56), (4, 4))
    shown = raw(image, Resize("crop", "box", short_side=32), height=28, width=28)
    assert (shown[:, :14] == (255, 0, 0)).all()
    assert (shown[:, 14:] == (0, 255, 0)).all()


def test_squash_shows_the_whole_picture_without_its_aspect_ratio() -> None:
    image = stripes(["red", "lime", "blue", "white"], 128, 32)
    shown = raw(image, Resize("squash", "box"), height=32, width=32)
    for i, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]):
        assert (shown[:, 8 * i : 8 * i + 8] == colour).all()


def test_pad_fits_the_whole_picture_into_the_top_left_corner() -> None:
    shown = raw(stripes(["red", "lime"], 128, 32), Resize("pad", "box"), height=64, width=64)
    assert (shown[:16, :32] == (255, 0, 0)).all()
    assert (shown[:16, 32:] == (0, 255, 0)).all()
    assert (shown[16:] == 114).all()


def test_pad_of_a_tall_image_fills_the_right_side_with_the_fill_colour() -> None:
    image = stripes(["red", "lime"], 32, 128)
    shown = raw(image, Resize("pad", "box", fill=7), height=64, width=64)
    assert (shown[:, :8] == (255, 0, 0)).all()
    assert (shown[:, 8:16] == (0, 255, 0)).all()
    assert (shown[:, 16:] == 7).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("resampling", ["bilinear", "bicubic", "lanczos", "box"])
def test_a_picture_of_the_right_size_stays_as_it_is(rule: Any, resampling: Any) -> None:
    image = waves(32, 24)
    np.testing.assert_array_equal(raw(image, Resize(rule, resampling)), np.asarray(image))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(32, 24), (7, 5), (500, 333), (333, 500), (2000, 24), (2, 2)])
def test_every_picture_gets_the_size_of_the_input(rule: Any, size: tuple[int, int]) -> None:
    assert resized(waves(*size), Input("image", 24, 32), Resize(rule)).size == (32, 24)


@pytest.mark.parametrize("rule", RULES)
def test_the_picture_itself_is_not_changed(rule: Any) -> None:
    image = waves(90, 70)
    before = image.tobytes()
    to_tensor(image, spec(Resize(rule)))
    assert image.tobytes() == before


@pytest.mark.parametrize("rule", ["crop", "squash"])
def test_a_large_picture_is_reduced_first_and_still_comes_out_the_same(rule: Any) -> None:
    large, target = waves(1950, 1300), Input("image", 64, 64)
    shown = np.asarray(resized(large, target, Resize(rule)), np.int16)
    box = (325, 0, 1625, 1300) if rule == "crop" else None
    exact = large.resize((64, 64), Image.Resampling.BICUBIC, box)
    assert np.abs(shown - np.asarray(exact)).max() <= 2


# CLIP's rule, as open_clip and torchvision have it


def clip_in_two_steps(image: Image.Image, side: int) -> NDArray[np.int16]:
    """Resize the short side to `side`, then cut out the centre: torchvision's arithmetic."""
    width, height = image.size
    short = min(width, height)
    size = (int(side * width / short), int(side * height / short))
    scaled = image.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    return np.asarray(scaled.crop((left, top, left + side, top + side)), np.int16)


def apart_from_clip(image: Image.Image) -> NDArray[np.int16]:
    rule = Resize("crop", "bicubic", short_side=224)
    return np.abs(raw(image, rule, height=224, width=224) - clip_in_two_steps(image, 224))


@pytest.mark.parametrize("name", PHOTOS)
# Sizes whose scaled long side and margins are whole numbers: CLIP has nothing to round.
@pytest.mark.parametrize("size", [(448, 448), (600, 400), (400, 600), (448, 900), (1680, 1120)])
def test_crop_gives_the_pixels_of_clips_two_steps_to_5_levels_of_255(
    name: str, size: tuple[int, int]
) -> None:
    assert apart_from_clip(photo(name).resize(size)).max() <= 5


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("size", [(451, 300), (640, 427), (427, 640), (1411, 1000)])
def test_crop_equals_clips_where_clip_rounds(name: str, size: tuple[int, int]) -> None:
    """CLIP cuts at whole pixels of a whole size, and so do we."""
    assert apart_from_clip(photo(name).resize(size)).max() <= 12


# Arithmetic


def test_the_default_only_divides_by_255() -> None:
    image = waves(32, 24)
    expected = np.asarray(image).transpose(2, 0, 1)[np.newaxis] / 255
    np.testing.assert_allclose(to_tensor(image, spec(Resize("squash"))), expected, atol=1e-6)


@pytest.mark.parametrize(
    "rule",
    [
        IMAGENET,
        CLIP,
        Normalise(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        Normalise(scale=1.0),
        Normalise(scale=1.0, mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395)),
        Normalise(scale=1 / 127.5, mean=(1.0, 1.0, 1.0)),
    ],
    ids=["ImageNet", "CLIP", "SigLIP", "raw", "Caffe", "TensorFlow"],
)
@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_value_is_pixel_times_scale_less_mean_over_std(
    layout: str, channels: str, rule: Normalise
) -> None:
    image = waves(32, 24)
    actual = to_tensor(
        image, spec(Resize("squash"), normalise=rule, layout=layout, channels=channels)
    )
    order = [2, 1, 0] if channels == "BGR" else [0, 1, 2]
    pixels = np.asarray(image, np.float64)[:, :, order]
    expected = (pixels * rule.scale - np.array(rule.mean)) / np.array(rule.std)
    if layout == "NCHW":
        expected = np.moveaxis(expected, 2, 0)
    np.testing.assert_allclose(actual[0], expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize(("layout", "shape"), [("NCHW", (1, 3, 24, 32)), ("NHWC", (1, 24, 32, 3))])
def test_the_tensor_has_the_shape_and_type_that_the_network_takes(
    layout: str, shape: tuple[int, ...], dtype: str
) -> None:
    made = to_tensor(waves(90, 50), spec(Resize("crop"), layout=layout, dtype=dtype))
    assert (made.shape, made.dtype) == (shape, np.dtype(dtype))
    assert made.flags.c_contiguous


def test_uint8_is_not_normalised() -> None:
    image = waves(32, 24)
    made = to_tensor(
        image, spec(Resize("squash"), normalise=IMAGENET, dtype="uint8", channels="BGR")
    )
    np.testing.assert_array_equal(made[0], np.asarray(image)[:, :, ::-1].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("resize", "expected"),
    [
        (Resize("crop"), 32),
        (Resize("squash"), 32),
        (Resize("pad"), 32),
        (Resize("crop", short_side=40), 40),
    ],
)
def test_the_decode_size_is_the_size_that_images_are_scaled_to(
    resize: Resize, expected: int
) -> None:
    assert decode_size(spec(resize)) == expected


# Golden tensors: the same on every machine and with every later version


def golden_cases() -> dict[str, NDArray[Any]]:
    """Name → tensor; uint8 for geometry, float32 for the arithmetic."""
    wide, tall = waves(333, 200), waves(61, 143)
    whole: dict[str, Any] = {"dtype": "uint8", "layout": "NHWC"}
    return {
        "crop wide bicubic": to_tensor(wide, spec(Resize("crop"), **whole)),
        "crop tall bilinear": to_tensor(tall, spec(Resize("crop", "bilinear"), **whole)),
        "crop short side": to_tensor(wide, spec(Resize("crop", short_side=40), **whole)),
        "squash wide lanczos": to_tensor(wide, spec(Resize("squash", "lanczos"), **whole)),
        "squash tall box": to_tensor(tall, spec(Resize("squash", "box"), **whole)),
        "pad wide bilinear": to_tensor(wide, spec(Resize("pad", "bilinear"), **whole)),
        "pad tall bicubic BGR": to_tensor(tall, spec(Resize("pad"), channels="BGR", **whole)),
        "CLIP": to_tensor(wide, spec(Resize("crop", short_side=16), 16, 16, CLIP)),
        "ImageNet": to_tensor(tall, spec(Resize("crop", "bilinear", 20), 16, 16, IMAGENET)),
    }


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    if os.environ.get("LIKENESS_WRITE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        np.savez_compressed(GOLDEN, **golden_cases())
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", golden_cases())
def test_a_picture_gives_the_golden_tensor(name: str, golden: dict[str, NDArray[Any]]) -> None:
    """To one grey level of 255, which is .018 after ImageNet's division."""
    expected, actual = golden[name], golden_cases()[name]
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    level = 1 if actual.dtype == np.uint8 else 0.018
    assert np.abs(actual.astype(np.float64) - expected).max() <= level


def test_the_golden_tensors_are_small_and_all_are_compared(
    golden: dict[str, NDArray[Any]],
) -> None:
    assert GOLDEN.stat().st_size < 50_000
    assert set(golden) == set(golden_cases())


# Flat pictures


def nearly_flat(step: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Half of it is `step` grey levels lighter than the other half."""
    image = Image.new("RGB", size, (100, 100, 100))
    image.paste((100, 100 + step, 100), (0, 0, size[0] // 2, size[1]))
    return image


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("colour", ["black", "white", "#727272", "crimson"])
@pytest.mark.parametrize("size", [(64, 64), (300, 20), (20, 300), (1, 1)])
def test_one_flat_colour_has_no_detail(rule: Any, colour: str, size: tuple[int, int]) -> None:
    with pytest.raises(NoDetail, match="a single flat colour"):
        to_tensor(Image.new("RGB", size, colour), spec(Resize(rule)))


@pytest.mark.parametrize("rule", RULES)
def test_two_grey_levels_are_noise_and_three_are_detail(rule: Any) -> None:
    with pytest.raises(NoDetail):
        to_tensor(nearly_flat(2), spec(Resize(rule, "box")))
    assert to_tensor(nearly_flat(3), spec(Resize(rule, "box"))).size


def test_detail_counts_where_only_one_channel_has_it() -> None:
    image = Image.merge(
        "RGB", [Image.new("L", (64, 64), 9)] * 2 + [Image.linear_gradient("L").resize((64, 64))]
    )
    assert to_tensor(image, spec(Resize("squash"))).size


# Extreme aspect ratios


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (2, 5000), (5000, 2)])
@pytest.mark.parametrize("rule", ["squash", "pad"])
def test_a_line_of_pixels_is_shown_whole(rule: Any, size: tuple[int, int]) -> None:
    made = to_tensor(waves(*size), spec(Resize(rule)))
    assert made.shape == (1, 3, 24, 32)
    assert np.isfinite(made).all()
    assert np.ptp(made[0, 0 if size[0] > size[1] else 1]) > 0.4


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1)])
def test_the_middle_of_a_line_of_pixels_is_one_flat_colour(size: tuple[int, int]) -> None:
    with pytest.raises(NoDetail):
        to_tensor(waves(*size), spec(Resize("crop")))


@pytest.mark.parametrize("size", [(40, 3000), (3000, 40)])
@pytest.mark.parametrize("short_side", [None, 32, 64])
def test_the_middle_of_a_ribbon_is_a_picture(short_side: int | None, size: tuple[int, int]) -> None:
    made = to_tensor(waves(*size), spec(Resize("crop", short_side=short_side)))
    assert np.isfinite(made).all()


# The layout of colours


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (64, 64), (500, 20)])
def test_colours_are_the_means_of_all_that_the_network_sees(
    rule: Any, size: tuple[int, int]
) -> None:
    """Of a pad's border too: the network's map, by which geometry aligns two pictures, has it."""
    side, picture = 4 * COLOURS, waves(*size)
    of = spec(Resize(rule), side, side, layout="NHWC", dtype="uint8")
    shown, colours, *_ = prepare(picture, of)
    blocks = shown[0].astype(float).reshape(COLOURS, 4, COLOURS, 4, 3)
    assert (colours.shape, colours.dtype) == ((COLOURS, COLOURS, 3), np.uint8)
    assert np.abs(colours - blocks.mean(axis=(1, 3))).max() <= 1


def test_colours_are_plain_rgb_whatever_the_network_takes() -> None:
    of = spec(Resize("squash"), 64, 64, IMAGENET, channels="BGR")
    colours = prepare(stripes(["red", "lime", "blue", "white"], 128, 32), of).colours
    quarter = COLOURS // 4
    for i, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]):
        # a bicubic filter mixes the first and the last column a little
        middle = colours[:, i * quarter + 1 : (i + 1) * quarter - 1]
        assert middle.size
        assert np.abs(middle.astype(int) - colour).max() <= 2


# Parts of a picture


def test_a_part_is_cut_out_where_its_box_says() -> None:
    picture = waves(100, 50)
    part = cropped(picture, Box(0.1, 0.2, 0.6, 1.0))
    np.testing.assert_array_equal(np.asarray(part), np.asarray(picture)[10:50, 10:60])
    np.testing.assert_array_equal(np.asarray(cropped(picture, WHOLE)), np.asarray(picture))


def test_a_part_has_all_pixels_that_its_box_touches() -> None:
    part = cropped(waves(10, 10), Box(0.25, 0.25, 0.61, 0.61))
    np.testing.assert_array_equal(np.asarray(part), np.asarray(waves(10, 10))[2:7, 2:7])


ENDS = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@given(width=st.integers(1, 60), height=st.integers(1, 60), across=ENDS, down=ENDS)
def test_every_part_has_a_pixel_and_none_from_outside_the_picture(
    width: int, height: int, across: list[float], down: list[float]
) -> None:
    part = cropped(
        Image.new("L", (width, height), 255), Box(across[0], down[0], across[1], down[1])
    )
    assert part.getextrema() == (255, 255)  # what lies outside would be black
    shares = (across[1] - across[0], down[1] - down[0])
    for size, whole, share in zip(part.size, (width, height), shares, strict=True):
        assert 1 <= size <= whole
        assert share * whole - 1e-6 <= size <= share * whole + 2


# What the network sees of a picture


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        ("squash", (640, 480), (0, 0, 1, 1)),
        ("crop", (400, 200), (0.25, 0, 0.75, 1)),
        ("crop", (200, 400), (0, 0.25, 1, 0.75)),
        ("crop", (64, 64), (0, 0, 1, 1)),
        ("pad", (400, 200), (0, 0, 1, 2)),
        ("pad", (200, 800), (0, 0, 4, 1)),
        ("pad", (64, 64), (0, 0, 1, 1)),
    ],
)
def test_the_input_box_is_in_fractions_of_the_image(
    rule: Any, size: tuple[int, int], expected: tuple[float, ...]
) -> None:
    assert input_box(size, spec(Resize(rule), 64, 64)) == pytest.approx(expected)


def test_a_larger_short_side_leaves_out_a_border() -> None:
    found = input_box((512, 256), spec(Resize("crop", short_side=256), 224, 224))
    assert found == pytest.approx((144 / 512, 16 / 256, 368 / 512, 240 / 256))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [(300, 200), (200, 300), (190, 200), (333, 200)])
@pytest.mark.parametrize("target", [(64, 64), (48, 96)])
def test_a_spot_is_in_the_tensor_where_the_input_box_puts_it(
    rule: Any, size: tuple[int, int], target: tuple[int, int]
) -> None:
    """A white spot on black: its middle in the picture, and in what the network gets."""
    middle = round(0.45 * size[0]), round(0.6 * size[1])
    picture = Image.new("RGB", size, "black")
    picture.paste("white", (middle[0] - 8, middle[1] - 8, middle[0] + 8, middle[1] + 8))
    rows, columns = target
    shown = raw(picture, Resize(rule, fill=0), height=rows, width=columns)[..., 0]
    box = input_box(size, spec(Resize(rule, fill=0), rows, columns))
    ends = ((box.left, box.right, columns, 0), (box.top, box.bottom, rows, 1))
    for place, whole, (least, most, cells, axis) in zip(middle, size, ends, strict=True):
        at = float((np.arange(cells) + 0.5) @ shown.sum(axis=axis) / shown.sum()) / cells
        assert least + at * (most - least) == pytest.approx(place / whole, abs=0.004)


@given(
    width=st.integers(1, 5000),
    height=st.integers(1, 5000),
    rule=st.sampled_from(RULES),
    target=st.sampled_from([(24, 32), (224, 224), (1, 1)]),
)
def test_the_input_box_begins_inside_the_image_and_is_not_empty(
    width: int, height: int, rule: Any, target: tuple[int, int]
) -> None:
    box = input_box((width, height), spec(Resize(rule), *target))
    assert 0 <= box.left < box.right
    assert 0 <= box.top < box.bottom
    if rule == "pad":
        assert box.left == box.top == 0
        assert 1 <= max(box.right, box.bottom) <= max(target)
    else:
        assert max(box.right, box.bottom) <= 1


@pytest.mark.parametrize("rule", RULES)
def test_version_2_sees_what_is_between_the_bars(rule: Any) -> None:
    photo = picture(3, 240, 160)
    barred = Image.new("RGB", (240, 300))
    barred.paste(photo, (0, 80))
    of = spec(Resize(rule), 96, 96)
    newest = replace(of, preprocessing=2)
    found = prepare(barred, newest)
    assert found.content == pytest.approx((0, 80 / 300, 1, 240 / 300), abs=0.01)
    assert found.seen == pytest.approx(seen_box(barred.size, newest, found.content), abs=0.01)
    assert found.tensor.shape == prepare(photo, of).tensor.shape
    assert np.abs(found.tensor - prepare(cropped(barred, found.content), of).tensor).max() == 0
    older = prepare(barred, of)
    assert (older.content, older.seen) == (WHOLE, input_box(barred.size, of))
    assert prepare(photo, newest).seen == input_box(photo.size, newest)


def test_version_2_sees_the_part_of_a_box_that_is_between_the_bars() -> None:
    barred = Image.new("RGB", (240, 320))
    barred.paste(picture(3, 240, 160), (0, 80))
    newest = replace(spec(Resize("squash"), 64, 64), preprocessing=2)
    assert prepare(barred, newest, Box(0, 0, 0.5, 1)).seen == pytest.approx(
        (0, 0.25, 1, 0.75), abs=0.01
    )
    inside = Box(0.2, 0.3, 0.7, 0.6)
    assert prepare(barred, newest, inside).seen == WHOLE
    with pytest.raises(NoDetail):
        prepare(barred, newest, Box(0, 0, 1, 0.2))
