"""Pretrained networks of others work with the same loader: only their model.json differs."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from likeness.embedding import Embedder

MODELS = Path(__file__).resolve().parents[2].parent / "shared" / "models"
PHOTOS = (
    "astronaut.png",
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "retina.jpg",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "color.png",
)
FLOAT: dict[str, Any] = {
    "input": {"name": "image", "height": 224, "width": 224},
    "normalise": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
QUANTISED: dict[str, Any] = {
    "input": {"name": "input", "height": 224, "width": 224, "layout": "NHWC", "dtype": "uint8"},
    "normalise": {},
}
NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "mobilenetv2_fp32": (1280, FLOAT),
    "mobilenetv2_int8": (1280, QUANTISED),
    "mobilenetv1_int8": (1024, QUANTISED),
    "squeezenet1.1_fp32": (512, FLOAT),
}


def write(folder: Path, network: Path) -> Path:
    """A minimal bundle folder: the network and model.json."""
    dim, fields = NETWORKS[network.stem]
    data = network.read_bytes()
    (folder / network.name).write_bytes(data)
    manifest = fields | {
        "name": network.stem,
        "version": "1",
        "licence": "Apache-2.0",
        "source": "the models folder",
        "files": {network.name: hashlib.sha256(data).hexdigest()},
        "image_file": network.name,
        "resize": {"rule": "crop", "short_side": 224},
        "embedding": {"name": "embedding", "dim": dim},
    }
    (folder / "model.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module", params=NETWORKS)
def embedder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    network = MODELS / f"{request.param}.onnx"
    if not network.is_file():
        pytest.skip(f"the network is not here: ../shared/models/{network.name}")
    return Embedder(write(tmp_path_factory.mktemp("bundle"), network))


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    skimage = pytest.importorskip("skimage")
    folder = Path(skimage.__file__).parent / "data"
    return [Image.open(folder / name).convert("RGB") for name in PHOTOS]


@pytest.fixture(scope="module")
def vectors(embedder: Embedder, photos: list[Image.Image]) -> NDArray[np.float32]:
    return embed(embedder, photos)


def embed(embedder: Embedder, images: list[Image.Image]) -> NDArray[np.float32]:
    return embedder.embed([embedder.to_tensor(image) for image in images])


def edited_copy(photo: Image.Image) -> Image.Image:
    """A tenth less of each side, saved as a JPEG of quality 50."""
    width, height = photo.size
    part = photo.crop((width // 20, height // 20, width - width // 20, height - height // 20))
    buffer = io.BytesIO()
    part.save(buffer, "JPEG", quality=50)
    return Image.open(buffer).convert("RGB")


def test_a_real_network_gives_unit_vectors_of_its_size(
    embedder: Embedder, vectors: NDArray[np.float32]
) -> None:
    assert vectors.shape == (len(PHOTOS), NETWORKS[embedder.spec.name][0])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_batch_of_a_real_network_is_the_same_as_one_picture_at_a_time(
    embedder: Embedder, photos: list[Image.Image], vectors: NDArray[np.float32]
) -> None:
    single = np.concatenate([embed(embedder, [photo]) for photo in photos])
    assert (single * vectors).sum(axis=1).min() >= 0.9999


def test_an_edited_copy_is_nearer_to_its_photo_than_any_other_photo(
    embedder: Embedder, photos: list[Image.Image], vectors: NDArray[np.float32]
) -> None:
    cosines = embed(embedder, [edited_copy(photo) for photo in photos]) @ vectors.T
    same = cosines.diagonal()
    others = np.where(np.eye(len(photos), dtype=bool), -1, cosines).max(axis=1)
    assert (same - others).min() > 0.1
    assert same.min() > 0.7


def test_a_mirrored_photo_is_nearer_to_itself_than_any_other_photo(
    embedder: Embedder, photos: list[Image.Image], vectors: NDArray[np.float32]
) -> None:
    mirrored = [photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for photo in photos]
    cosines = embed(embedder, mirrored) @ vectors.T
    assert cosines.argmax(axis=1).tolist() == list(range(len(photos)))
