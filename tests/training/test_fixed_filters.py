"""The bundled baseline model: reproducible, and close where pictures are the same."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from likeness.embedding import Embedder

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = REPOSITORY / "tests" / "models" / "fixed-filters"
# These ship inside scikit-image; others would be downloaded.
PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(BUNDLE)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    skimage = pytest.importorskip("skimage")
    folder = Path(skimage.__file__).parent / "data"
    photos = [Image.open(folder / name).convert("RGB") for name in PHOTOS]
    return [*photos, drawing("crimson", 60), drawing("seagreen", 120)]


@pytest.fixture(scope="module")
def vectors(embedder: Embedder, pictures: list[Image.Image]) -> NDArray[np.float32]:
    return embed(embedder, pictures)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    pytest.importorskip("onnx")
    path = REPOSITORY / "training" / "fixed_filters.py"
    spec = importlib.util.spec_from_file_location("fixed_filters", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawing(colour: str, size: int) -> Image.Image:
    """A shape on a sky-to-ground gradient."""
    image = ImageOps.colorize(Image.linear_gradient("L"), "lightblue", "tan")
    box = (40, 200 - size, 40 + size, 200)
    ImageDraw.Draw(image).ellipse(box, fill=colour, outline="black", width=4)
    return image


def embed(embedder: Embedder, pictures: list[Image.Image]) -> NDArray[np.float32]:
    return embedder.embed([embedder.to_tensor(picture) for picture in pictures])


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def nearest_other(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each picture the highest cosine to any other."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    return np.asarray(cosines.max(axis=1))


def test_running_the_script_again_gives_the_committed_bytes(
    script: ModuleType, tmp_path: Path
) -> None:
    script.write(tmp_path)
    for name in ("image.onnx", "model.json"):
        assert (tmp_path / name).read_bytes() == (BUNDLE / name).read_bytes()


def test_the_model_is_small(embedder: Embedder) -> None:
    assert embedder.dim <= 512
    assert (BUNDLE / "image.onnx").stat().st_size <= 1_000_000


def test_the_network_itself_gives_unit_vectors(
    embedder: Embedder, pictures: list[Image.Image]
) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        BUNDLE / "image.onnx", providers=["CPUExecutionProvider"]
    )
    batch = np.concatenate([embedder.to_tensor(picture) for picture in pictures])
    [raw] = session.run(["embedding"], {"image": batch})
    np.testing.assert_allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-5)


def test_a_batch_gives_the_same_vectors_as_one_picture_at_a_time(
    embedder: Embedder, pictures: list[Image.Image], vectors: NDArray[np.float32]
) -> None:
    single = np.concatenate([embed(embedder, [picture]) for picture in pictures])
    assert (single * vectors).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_flat_picture_gives_finite_values(embedder: Embedder, level: float) -> None:
    side = embedder.spec.input.height
    flat = np.full((1, 3, side, side), level, np.float32)
    assert np.isfinite(embedder.embed([flat])).all()


def test_a_picture_saved_as_a_coarse_jpeg_stays_far_closer_than_any_other(
    embedder: Embedder, pictures: list[Image.Image], vectors: NDArray[np.float32]
) -> None:
    saved = embed(embedder, [as_jpeg(picture, quality=40) for picture in pictures])
    same = (saved * vectors).sum(axis=1)
    assert same.min() >= 0.95
    assert (same - nearest_other(vectors)).min() >= 0.15


def test_a_resized_picture_stays_far_closer_than_any_other(
    embedder: Embedder, pictures: list[Image.Image], vectors: NDArray[np.float32]
) -> None:
    smaller = [ImageOps.scale(picture, 0.4) for picture in pictures]
    same = (embed(embedder, smaller) * vectors).sum(axis=1)
    assert same.min() >= 0.95
    assert (same - nearest_other(vectors)).min() >= 0.15


@pytest.mark.parametrize(
    "turn",
    [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180],
)
def test_the_colour_histogram_survives_flips_and_quarter_turns(
    script: ModuleType,
    embedder: Embedder,
    pictures: list[Image.Image],
    vectors: NDArray[np.float32],
    turn: Image.Transpose,
) -> None:
    turned = embed(embedder, [picture.transpose(turn) for picture in pictures])
    before, after = (
        block / np.linalg.norm(block, axis=1, keepdims=True)
        for block in (vectors[:, -script.HISTOGRAM_DIM :], turned[:, -script.HISTOGRAM_DIM :])
    )
    assert (before * after).sum(axis=1).min() >= 0.995
