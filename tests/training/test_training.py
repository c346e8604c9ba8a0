"""The training's own parts that can be checked without its data: splits, views, the student.

What needs torch is skipped where torch is not installed; nothing else in the repository needs it.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.pictures import picture

TRAINING = Path(__file__).resolve().parents[2] / "training"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The scripts import each other by their plain names, as when they are run."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(TRAINING)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(TRAINING)):
            del sys.modules[name]


def script(name: str) -> ModuleType:
    import importlib

    return importlib.import_module(name)


def write_labels(folder: Path, rows: list[dict[str, str]]) -> None:
    folder.mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    garments = [
        {"path": f"images/{n}.jpg", "label": f"type {n % 5}", "instance": "", "split": split}
        | {"sender_id": str(sender)}
        for n in range(600)
        for sender in [rng.integers(40)]
        for split in ["test" if sender < 4 and n % 2 else "train"]
    ]
    objects = [
        {"path": f"images/{n}.jpg", "label": f"kind {n % 20}", "instance": "", "split": "train"}
        for n in range(400)
    ]
    write_labels(tmp_path / "data" / "clothing", garments)
    write_labels(tmp_path / "data" / "caltech101", objects)
    monkeypatch.setattr(sys, "argv", ["listing", str(tmp_path / "data"), str(tmp_path / "work")])
    script("listing").main()
    return tmp_path


def test_no_instance_is_on_both_sides_of_the_split(listed: Path) -> None:
    photos = script("listing").read(listed / "work")
    sides = {
        part: {p.instance if p.source == "clothing" else p.label for p in photos if p.part == part}
        for part in ("train", "validation")
    }
    assert sides["train"]
    assert sides["validation"]
    assert not sides["train"] & sides["validation"]


def test_contributors_of_the_benchmark_are_in_no_part(listed: Path) -> None:
    photos = script("listing").read(listed / "work")
    assert not {f"clothing/{sender}" for sender in range(4)} & {p.instance for p in photos}


def test_the_listing_is_the_same_at_every_run(listed: Path) -> None:
    first = (listed / "work" / "photos.csv").read_bytes()
    script("listing").main()
    assert (listed / "work" / "photos.csv").read_bytes() == first


def test_a_homography_takes_four_points_to_four_others() -> None:
    views = script("views")
    target = np.array([[0.1, 0.2], [0.9, 0.1], [1.1, 0.8], [0.0, 1.0]])
    matrix = views.homography(views.UNIT_SQUARE, target)
    moved = np.column_stack([views.UNIT_SQUARE, np.ones(4)]) @ matrix.T
    np.testing.assert_allclose(moved[:, :2] / moved[:, 2:], target, atol=1e-9)


def test_a_view_shows_each_spot_of_the_photo_where_its_homography_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A red dot on grey, found again in the view after all turns, crops and pastes."""
    views = script("views")
    monkeypatch.setattr(views, "_retouched", lambda image, rng: image)
    at = np.array([0.45, 0.55])
    photo = Image.new("RGB", (200, 160), (128, 128, 128))
    x, y = at * photo.size
    ImageDraw.Draw(photo).ellipse((x - 6, y - 6, x + 6, y + 6), fill=(255, 0, 0))
    grey = Image.new("RGB", (160, 200), (90, 90, 90))
    seen = 0
    for seed in range(40):
        view = views.make_view(photo, lambda: grey, np.random.default_rng(seed))
        moved = np.linalg.inv(view.to_photo) @ np.append(at, 1)
        expected = moved[:2] / moved[2] * views.SIDE
        if not ((expected > 8) & (expected < views.SIDE - 8)).all():
            continue  # cropped away
        pixels = np.asarray(view.image).astype(int)
        red = (pixels[..., 0] - pixels[..., 1] > 80) & (pixels[..., 2] < 90)
        np.testing.assert_allclose(np.argwhere(red)[:, ::-1].mean(axis=0), expected, atol=4)
        seen += 1
    assert seen >= 20


def test_views_are_the_same_for_the_same_seed_and_differ_for_another() -> None:
    make_view, photo = script("views").make_view, picture(1)

    def pixels(seed: int) -> bytes:
        return make_view(photo, lambda: picture(2), np.random.default_rng(seed)).image.tobytes()

    assert pixels(3) == pixels(3)
    assert pixels(3) != pixels(4)


def test_the_student_has_heads_of_the_promised_sizes_and_few_weights() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: training/requirements.txt")
    network = script("network").Network().eval()
    with torch.no_grad():
        found = network(torch.zeros(2, 3, 224, 224))
    assert found.embedding.shape == (2, 256)
    assert found.coarse.shape == (2, 256, 7, 7)
    assert found.local.shape == (2, 64, 14, 14)
    assert found.salience.shape == (2, 14, 14)
    assert sum(weights.numel() for weights in network.parameters()) < 5_000_000


def test_the_same_spots_of_two_views_lower_the_spot_loss() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: training/requirements.txt")
    spots = script("train")._spots
    torch.manual_seed(0)
    local = torch.nn.functional.normalize(torch.randn(1, 64, 14, 14), dim=1)
    same = torch.cat([local, local])
    placed = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    other = torch.nn.functional.normalize(torch.randn(2, 64, 14, 14), dim=1)
    assert spots(same, placed, False) < 0.1
    assert spots(other, placed, False) > 3


def test_whitening_at_full_strength_gives_equal_variance_in_all_directions() -> None:
    pytest.importorskip("torch", reason="torch is not installed: training/requirements.txt")
    whitening = script("export").whitening
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5000, 6)) * [3, 2, 1.5, 1, 0.8, 0.5]
    covariance = np.cov(values @ whitening(np.cov(values, rowvar=False), 1.0), rowvar=False)
    np.testing.assert_allclose(covariance, covariance[0, 0] * np.eye(6), atol=1e-6)
