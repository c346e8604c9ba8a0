"""Edits are what their names and levels say, whatever the picture."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from console.demo.sample_images import photographs, products
from console.evaluation.edits import EDITS, Edit
from likeness.images import decode
from likeness.proof.verdicts import Level
from likeness.settings import Limits
from tests.pictures import picture

BY_NAME = {edit.name: edit for edit in EDITS}
COPIES = [edit for edit in EDITS if edit.level == Level.COPY]
EDITED = [edit for edit in EDITS if edit.level == Level.EDITED]
PHOTOGRAPHS = ("astronaut", "camera", "chelsea", "clock_motion", "coffee", "motorcycle_left")
SEEDS = range(6)
# Of 255: what layouts of copies differ by on average, at most.
SAME_COLOURS = 3.5
CLEAR = 11.0

ODD = {
    "8 × 8": picture(1, 8, 8),
    "1 × 500": picture(2, 1, 500),
    "500 × 1": picture(3, 500, 1),
    "grey": picture(4, 60, 90).convert("L").convert("RGB"),
    "flat": Image.new("RGB", (50, 40), "white"),
    "large": picture(5, 2000, 600),
}


@cache
def pictures() -> dict[str, Image.Image]:
    """Real photographs, one of them grey, and two drawn ones: 400 pixels or less a side."""
    items = {item.key: item.image for item in photographs()}
    found = {name: items[f"photos/{name}.jpg"] for name in PHOTOGRAPHS}
    found |= {item.key: item.image for item in list(products())[:2]}
    for image in found.values():
        image.thumbnail((400, 400))
    return found


def shown(data: bytes) -> Image.Image:
    return decode(data, Limits(), 2048)[0]


def make(edit: Edit | str, image: Image.Image, seed: int) -> Image.Image:
    edit = BY_NAME[edit] if isinstance(edit, str) else edit
    return shown(edit.make(image, lambda: picture(99, 160, 120), np.random.default_rng(seed)))


def difference(image: Image.Image, other: Image.Image, cells: int = 12) -> NDArray[np.float64]:
    """Of the mean colours on a grid: (cells, cells), 0 to 255."""
    mine, its = (
        np.asarray(i.resize((cells, cells), Image.Resampling.BOX), float) for i in (image, other)
    )
    return np.abs(mine - its).mean(axis=2)


def sharpness(image: Image.Image) -> float:
    """Mean step from pixel to pixel."""
    return float(np.abs(np.diff(np.asarray(image.convert("L"), float), axis=1)).mean())


def ids(edits: list[Edit] | tuple[Edit, ...]) -> list[str]:
    return [edit.name for edit in edits]


def test_no_name_stands_for_two_edits_and_every_level_has_one() -> None:
    assert len(BY_NAME) == len(EDITS)
    assert {edit.level for edit in EDITS} == {Level.COPY, Level.EDITED}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("edit", EDITS, ids=ids(EDITS))
def test_any_picture_can_be_edited_and_is_left_as_it_is(edit: Edit, name: str) -> None:
    image, scene = ODD[name].copy(), ODD[name].copy()
    for seed in SEEDS:
        found = shown(edit.make(image, lambda: scene, np.random.default_rng(seed)))
        assert max(found.size) <= 1024 * 1.4  # more only by a frame or by turning
    assert image.tobytes() == scene.tobytes() == ODD[name].tobytes()


@pytest.mark.parametrize("edit", EDITS, ids=ids(EDITS))
def test_the_same_seed_gives_the_same_file_and_others_give_others(edit: Edit) -> None:
    image = picture(6, 160, 120)
    files = [
        edit.make(image, lambda: picture(7), np.random.default_rng(seed)) for seed in (*range(8), 0)
    ]
    assert files[-1] == files[0]
    assert len(set(files)) >= 6  # encoders have few strengths: two may be alike


@pytest.mark.parametrize("edit", COPIES, ids=ids(COPIES))
def test_a_copy_keeps_shape_and_colours(edit: Edit) -> None:
    for name, image in pictures().items():
        for seed in SEEDS:
            copy = make(edit, image, seed)
            assert copy.width / copy.height == pytest.approx(image.width / image.height, rel=0.02)
            assert difference(copy, image).mean() < SAME_COLOURS, (name, seed)


@pytest.mark.parametrize("edit", ["smaller", "smaller twice"])
def test_scaling_keeps_three_to_nine_tenths_and_leaves_small_pictures_their_pixels(
    edit: str,
) -> None:
    widths = [make(edit, picture(13, 600, 500), seed).width / 600 for seed in range(40)]
    assert 0.29 < min(widths) < 0.4
    assert 0.8 < max(widths) < 0.91
    assert all(min(make(edit, picture(13, 150, 100), seed).size) >= 96 for seed in range(40))


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_an_edited_picture_differs_more_than_any_copy_somewhere_or_all_over(name: str) -> None:
    image = pictures()[name]

    def differences(edit: Edit) -> NDArray[np.float64]:
        found = np.array([difference(make(edit, image, seed), image, 24) for seed in SEEDS])
        return np.stack([found.max(axis=(1, 2)), found.mean(axis=(1, 2))], axis=1)

    copies = np.concatenate([differences(edit) for edit in COPIES]).max(axis=0)
    for edit in EDITED:
        if edit.name not in ("blurred", "noisy"):  # these change detail alone: see below
            assert (differences(edit) > copies * (1, 2)).any(axis=1).all(), edit.name


@pytest.mark.parametrize("name", sorted(set(PHOTOGRAPHS) - {"clock_motion"}))  # blurred as it is
def test_blur_and_noise_change_detail_more_than_any_copy_does(name: str) -> None:
    image = pictures()[name]
    least = image.resize((image.width * 3 // 10, image.height * 3 // 10)).resize(image.size)
    coarsest = make("jpeg", image, 0)
    for seed in SEEDS:
        assert sharpness(make("blurred", image, seed)) < 0.8 * sharpness(least)
        assert sharpness(make("noisy", image, seed)) > 1.3 * sharpness(coarsest)


@pytest.mark.parametrize("edit", ["recoloured", "grey", "strong"])
@pytest.mark.parametrize("shade", ["grey", "nearly black", "nearly white"])
def test_colours_change_clearly_where_there_are_few(edit: str, shade: str) -> None:
    image = picture(8, 120, 90).convert("L").convert("RGB")
    if shade != "grey":
        image = Image.blend(Image.new("RGB", image.size, shade.split()[1]), image, 0.1)
    for seed in SEEDS:
        assert difference(make(edit, image, seed), image).mean() > CLEAR


def test_grey_is_without_colour() -> None:
    channels = np.asarray(make("grey", picture(9), 0), int)
    assert np.ptp(channels, axis=2).max() <= 2


def test_a_crop_keeps_forty_to_ninety_per_cent_of_each_side() -> None:
    image = picture(10, 200, 100)
    sizes = np.array([make("cropped", image, seed).size for seed in range(60)])
    assert (sizes >= (80, 40)).all()
    assert (sizes <= (180, 90)).all()
    assert (np.ptp(sizes, axis=0) > (80, 40)).all()


def test_zoom_keeps_the_size_and_shows_half_to_seven_tenths() -> None:
    ramp = Image.linear_gradient("L").resize((200, 300)).convert("RGB")
    for seed in SEEDS:
        zoomed = make("zoomed", ramp, seed)
        assert zoomed.size == ramp.size
        rows = np.asarray(zoomed.convert("L"), float).mean(axis=1)
        assert 0.48 < np.ptp(rows) / 255 < 0.72


def test_mirroring_twice_gives_the_picture_back() -> None:
    image = pictures()["chelsea"]
    twice = ImageOps.mirror(make("mirrored", image, 0))
    assert difference(twice, image).mean() < SAME_COLOURS


def test_a_mirrored_symmetric_picture_is_no_copy() -> None:
    half = picture(11, 60, 90)
    whole = Image.new("RGB", (120, 90))
    whole.paste(half)
    whole.paste(ImageOps.mirror(half), (60, 0))
    for seed in SEEDS:
        assert difference(make("mirrored", whole, seed), whole).max() > CLEAR


@pytest.mark.parametrize("edit", ["quarter turn", "half turn"])
def test_a_turned_symmetric_picture_is_no_copy(edit: str) -> None:
    rings = Image.radial_gradient("L").resize((120, 120)).convert("RGB")
    for seed in SEEDS:
        assert difference(make(edit, rings, seed), rings).max() > CLEAR


def test_turning_back_gives_the_picture_back() -> None:
    image = pictures()["chelsea"]
    halved = make("half turn", image, 0).transpose(Image.Transpose.ROTATE_180)
    assert difference(halved, image).mean() < SAME_COLOURS
    quarters = [make("quarter turn", image, seed) for seed in SEEDS]
    back = [
        q.transpose(t)
        for q in quarters
        for t in (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270)
    ]
    closest = [difference(turned, image).mean() for turned in back]
    assert sum(found < SAME_COLOURS for found in closest) == len(quarters)


def test_a_crop_holds_its_share_of_what_the_picture_shows() -> None:
    page = Image.new("RGB", (400, 400), "white")
    page.paste(picture(14, 120, 120), (20, 20))
    for seed in range(20):
        assert (
            difference(make("cropped", page, seed), Image.new("RGB", (1, 1), "white")).max() > CLEAR
        )


def test_bars_surround_the_whole_picture_on_two_sides() -> None:
    image = picture(15, 200, 160)
    for seed in SEEDS:
        boxed = make("letterboxed", image, seed)
        assert (boxed.width == 200) != (boxed.height == 160)
        left, top = (boxed.width - 200) // 2, (boxed.height - 160) // 2
        inside = boxed.crop((left, top, left + 200, top + 160))
        assert difference(inside, image).mean() < SAME_COLOURS


def test_a_hue_shift_changes_colours_and_leaves_brightness_to_the_hue() -> None:
    image = pictures()["coffee"]
    for seed in SEEDS:
        shifted = np.asarray(make("hue", image, seed).convert("HSV"), int)
        before = np.asarray(image.convert("HSV"), int)
        assert np.abs(shifted[..., 2] - before[..., 2]).mean() < 8


def test_one_of_a_collage_is_the_picture_itself() -> None:
    image = picture(16, 160, 120)
    for seed in SEEDS:
        sheet = make("collage", image, seed)
        cells = [
            sheet.crop((x, y, x + sheet.width // 2, y + sheet.height // 2))
            for x in (0, sheet.width // 2)
            for y in (0, sheet.height // 2)
        ]
        found = sorted(float(difference(cell, image).mean()) for cell in cells)
        assert found[0] < 20 < found[1]


def test_a_screenshot_shows_the_picture_on_half_to_four_fifths_of_its_width() -> None:
    red = Image.new("RGB", (300, 200), "red")
    shares = []
    for seed in range(20):
        pixels = np.asarray(make("screenshot", red, seed), int)
        columns = (pixels[..., 0] - pixels[..., 1] > 150).any(axis=0)
        shares.append(float(columns.mean()))
    assert 0.48 < min(shares) < 0.6
    assert 0.7 < max(shares) < 0.82


def test_a_frame_widens_the_picture_and_leaves_its_middle() -> None:
    image = picture(12, 160, 120)
    for seed in SEEDS:
        framed = make("framed", image, seed)
        margin = (framed.width - image.width) // 2
        assert 0.04 * 138 - 1 < margin < 0.15 * 139 + 1  # of √(160 × 120)
        inside = framed.crop((margin, margin, framed.width - margin, framed.height - margin))
        assert inside.size == image.size
        assert difference(inside, image).mean() < SAME_COLOURS


def test_corners_that_are_cut_away_do_not_show() -> None:
    white = Image.new("RGB", (200, 150), "white")
    turned = [make("rotated", white, seed) for seed in range(40)]
    cut = [image for image in turned if image.width < 200]
    filled = [image for image in turned if image.width >= 200]
    assert len(cut) >= 5
    assert all(np.asarray(image).min() > 240 for image in cut)
    assert any(np.asarray(image).min() < 200 for image in filled)


def test_a_logo_covers_five_to_twenty_five_per_cent() -> None:
    white = Image.new("RGB", (300, 200), "white")
    shares = [
        (np.asarray(make("logo", white, seed), int).min(axis=2) < 220).mean() for seed in range(40)
    ]
    assert 0.04 < min(shares) < 0.09
    assert 0.2 < max(shares) < 0.27


def test_in_a_scene_the_picture_spans_a_third_to_two_thirds() -> None:
    black, scene = Image.new("RGB", (200, 150)), Image.new("RGB", (300, 400), "white")
    spans = []
    for seed in range(40):
        data = BY_NAME["in a scene"].make(black, lambda: scene, np.random.default_rng(seed))
        image = shown(data)
        assert image.width / image.height == pytest.approx(3 / 4, rel=0.02)
        rows, columns = np.nonzero(np.asarray(image.convert("L")) < 128)
        spans.append(max(np.ptp(columns) / image.width, np.ptp(rows) / image.height))
    assert 0.33 < min(spans) < 0.45
    assert 0.6 < max(spans) < 0.72
