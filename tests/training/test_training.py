"""The training's own parts that can be checked without its data: splits, views, the student.

What needs torch is skipped where torch is not installed; nothing else in the repository needs it.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.pictures import picture

TRAINING = Path(__file__).resolve().parents[2] / "training"
BUNDLED = TRAINING.parent / "layers" / "model" / "image.onnx"
NO_TORCH = "torch is not installed: training/requirements.txt"


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


def torch_script(name: str) -> ModuleType:
    pytest.importorskip("torch", reason=NO_TORCH)
    return script(name)


def batch(images: list[Image.Image]) -> Any:
    """Photos as the training packs them: uint8 (N, 192, 192, 3)."""
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    return torch.from_numpy(np.stack([np.asarray(image.resize((192, 192))) for image in images]))


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
    varied = {"label": "logo", "instance": "", "source": "a/b", "licence": "MIT", "kind": "logo"}
    write_labels(tmp_path / "data" / "varied", [{"path": "images/0.jpg"} | varied])
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


def test_varied_pictures_are_split_by_source_and_share_alike_only_judges(tmp_path: Path) -> None:
    rows = [
        {"path": f"images/{n}.jpg", "label": "painting", "instance": "", "kind": "art"}
        | {"source": f"museum/{n % 60}", "licence": "CC-BY-SA 4.0" if n % 60 < 6 else "CC0 1.0"}
        for n in range(600)
    ]
    write_labels(tmp_path / "varied", rows)
    parts: dict[str, set[str]] = {}
    for row, photo in zip(rows, script("listing").varied(tmp_path / "varied"), strict=True):
        parts.setdefault(row["source"], set()).add(photo.part)
    assert all(len(found) == 1 for found in parts.values())
    assert all(parts[f"museum/{n}"] == {"test"} for n in range(6))
    assert {"train"} in parts.values()
    assert {"validation"} in parts.values()


def test_homographies_take_four_points_to_four_others() -> None:
    augmentation = torch_script("augmentation")
    target = np.array([[[0.1, 0.2], [0.9, 0.1], [1.1, 0.8], [0.0, 1.0]]])
    matrix = augmentation.homographies(augmentation.UNIT_SQUARE[None], target)[0]
    moved = np.column_stack([augmentation.UNIT_SQUARE, np.ones(4)]) @ matrix.T
    np.testing.assert_allclose(moved[:, :2] / moved[:, 2:], target[0], atol=1e-9)


def test_a_view_shows_each_spot_of_the_photo_where_its_homography_says() -> None:
    """A red dot on grey, found again in the views after all turns, crops and pastes."""
    augmentation = torch_script("augmentation")
    at, side = np.array([0.45, 0.55]), 192
    photo = Image.new("RGB", (side, side), (128, 128, 128))
    x, y = at * side
    ImageDraw.Draw(photo).ellipse((x - 6, y - 6, x + 6, y + 6), fill=(255, 0, 0))
    views = augmentation.make_views(batch([photo] * 40), side, np.random.default_rng(0))
    seen = 0
    for pixels, to_photo in zip(views.plain.numpy(), views.to_photo.numpy(), strict=True):
        moved = np.linalg.inv(to_photo) @ np.append(at, 1)
        expected = moved[:2] / moved[2] * side
        if not ((expected > 8) & (expected < side - 8)).all():
            continue  # cropped away
        red = (pixels[0] - pixels[1] > 0.3) & (pixels[2] < 0.35)
        # the scene of a pasted photo may show its dot too
        found = np.argwhere(red)[:, ::-1]
        near = found[np.linalg.norm(found - expected, axis=1) < 20]
        np.testing.assert_allclose(near.mean(axis=0), expected, atol=4)
        seen += 1
    assert seen >= 20


def test_views_are_the_same_for_the_same_seed_and_differ_for_another() -> None:
    make_views, photos = torch_script("augmentation").make_views, batch([picture(1), picture(2)])

    def pixels(seed: int) -> bytes:
        return make_views(photos, 64, np.random.default_rng(seed)).images.numpy().tobytes()

    assert pixels(3) == pixels(3)
    assert pixels(3) != pixels(4)


def test_edits_keep_the_range_and_change_each_image_in_some_batch() -> None:
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    augmentation = torch_script("augmentation")
    photos = batch([picture(n) for n in range(16)])
    changed = torch.zeros(16, dtype=torch.bool)
    for seed in range(4):
        views = augmentation.make_views(photos, 64, np.random.default_rng(seed))
        assert views.images.min() >= 0
        assert views.images.max() <= 1
        changed |= ((views.images - views.plain).abs() > 0.01).flatten(1).any(dim=1)
    assert changed.all()


def test_the_student_has_heads_of_the_promised_sizes_and_few_weights() -> None:
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    network = script("network").Network().eval()
    with torch.no_grad():
        found = network(torch.zeros(2, 3, 224, 224))
    assert found.classes.shape == (2, 128)
    assert found.instance.shape == (2, 128)
    assert found.coarse.shape == (2, 128, 7, 7)
    assert found.local.shape == (2, 64, 14, 14)
    assert found.salience.shape == (2, 14, 14)
    assert sum(weights.numel() for weights in network.parameters()) < 5_000_000


def test_the_bundled_network_is_restored_for_further_training() -> None:
    """Local descriptors, which export does not change, before and after: int8 is what differs."""
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    pytest.importorskip("onnx", reason="onnx is not installed: training/requirements.txt")
    import onnxruntime as ort

    network = script("network")
    images = network.to_images(batch([picture(n) for n in range(8)]), 224)
    restored = script("restore").restore(BUNDLED, images)
    [expected] = ort.InferenceSession(BUNDLED).run(
        ["local"], {"image": images.contiguous().numpy()}
    )
    with torch.no_grad():
        local = restored(images).local.flatten(2).transpose(1, 2)
    found = torch.nn.functional.normalize(local, dim=2).numpy()
    assert (found * expected).sum(axis=2).mean() > 0.995


def test_the_same_spots_of_two_views_lower_the_spot_loss() -> None:
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    spots = script("losses")._spots
    torch.manual_seed(0)
    local = torch.nn.functional.normalize(torch.randn(1, 64, 14, 14), dim=1)
    same = torch.cat([local, local])
    placed = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    other = torch.nn.functional.normalize(torch.randn(2, 64, 14, 14), dim=1)
    aligned = torch.tensor([True])
    assert spots(same, placed, aligned) < 0.1
    assert spots(other, placed, aligned) > 3
    assert spots(same, placed, ~aligned) == 0


def test_a_pair_that_agrees_lowers_the_instance_loss_and_its_kin_does_not_count() -> None:
    torch = pytest.importorskip("torch", reason=NO_TORCH)
    losses = script("losses")
    vectors = torch.eye(128)[[0, 0, 1, 1, 2, 2]]

    def loss(groups: list[int], kin: list[int]) -> float:
        numbers, whole = np.array(groups), np.ones(6)
        shown = losses.Batch(
            *(numbers, numbers, np.array(kin), numbers, np.arange(6), whole),
            *(torch.zeros(6, 2816), torch.eye(3).repeat(6, 1, 1)),
        )
        return float(losses._instance(vectors, shown))

    assert loss([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]) < 0.01
    assert loss([0, 1, 1, 2, 2, 0], [0, 1, 1, 2, 2, 0]) > 5
    # a photo that may show the same thing neither attracts nor repels
    near = torch.nn.functional.normalize(torch.eye(128)[[0, 0, 0, 0, 2, 2]] + 0.1, dim=1)
    vectors = near
    assert loss([0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 2, 2]) < 0.1
    assert loss([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2]) > 0.5


def test_whitening_at_full_strength_gives_equal_variance_in_all_directions() -> None:
    pytest.importorskip("torch", reason=NO_TORCH)
    half = script("export").Half
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5000, 6)) * [3, 2, 1.5, 1, 0.8, 0.5]
    whitening = half(values.mean(axis=0), np.cov(values, rowvar=False)).whitening(1.0)
    covariance = np.cov(values @ whitening, rowvar=False)
    np.testing.assert_allclose(covariance, covariance[0, 0] * np.eye(6), atol=1e-6)
