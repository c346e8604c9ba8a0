"""Embedder: networks of the known architectures' shapes, pooling, batches, refused bundles.

The networks are random and tiny inside; what counts is what they take and give.
`LIKENESS_WRITE_GOLDEN=1 pytest tests/unit/test_embedding.py` writes the golden vectors anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from likeness.embedding import Embedder, pool, unit_rows
from likeness.errors import ModelBundleError, NoDetail
from likeness.model import Output
from tests.networks import Network, clip, dinov2, mobilenet, resnet, siglip

Bundle = Callable[..., Path]
REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLED = REPOSITORY / "layers" / "model"
GOLDEN = REPOSITORY / "tests" / "golden" / "vectors.npz"
PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png")


CLIP: dict[str, Any] = {
    "input": {"name": "image", "height": 224, "width": 224},
    "resize": {"rule": "crop", "filter": "bicubic", "short_side": 224},
    "normalise": {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
    },
    "embedding": {"name": "embedding", "dim": 512},
}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
DINOV2: dict[str, Any] = CLIP | {
    "resize": {"rule": "crop", "short_side": 256},
    "normalise": IMAGENET,
    "embedding": {"name": "embedding", "dim": 384, "pooling": "cls"},
}
DINOV2_MEAN = DINOV2 | {
    "embedding": {"name": "embedding", "dim": 384, "pooling": "mean", "skip_tokens": 1}
}
SIGLIP = CLIP | {
    "resize": {"rule": "squash"},
    "normalise": {"mean": [0.5] * 3, "std": [0.5] * 3},
    "embedding": {"name": "embedding", "dim": 768},
}
RESNET_MEAN = DINOV2 | {"embedding": {"name": "embedding", "dim": 64, "pooling": "mean"}}
RESNET_GEM = DINOV2 | {"embedding": {"name": "embedding", "dim": 64, "pooling": "gem"}}
MOBILENET: dict[str, Any] = {
    "input": {"name": "image", "height": 64, "width": 64, "layout": "NHWC", "dtype": "uint8"},
    "resize": {"rule": "crop"},
    "normalise": {},
    "embedding": {"name": "embedding", "dim": 40},
}
ARCHITECTURES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "CLIP": (clip, CLIP),
    "SigLIP": (siglip, SIGLIP),
    "DINOv2 cls": (dinov2, DINOV2),
    "DINOv2 mean": (dinov2, DINOV2_MEAN),
    "ResNet mean": (resnet, RESNET_MEAN),
    "ResNet gem": (resnet, RESNET_GEM),
    "MobileNet uint8": (mobilenet, MOBILENET),
}


def write(folder: Path, model: Any, fields: dict[str, Any]) -> Path:
    """A bundle folder; `model` is an onnx.ModelProto or the file's bytes."""
    data = model if isinstance(model, bytes) else model.SerializeToString()
    (folder / "image.onnx").write_bytes(data)
    about = {"name": "random", "version": "1", "licence": "none", "source": "here"}
    files = {"image.onnx": hashlib.sha256(data).hexdigest()}
    (folder / "model.json").write_text(json.dumps(about | {"files": files} | fields))
    return folder


def raw_output(folder: Path, tensor: NDArray[Any]) -> NDArray[np.float32]:
    """The network's own output, without the library."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    path = folder / "image.onnx"
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    [raw] = session.run(["embedding"], {"image": tensor})
    return np.asarray(raw)


# Pictures


def pictures(count: int = 3) -> list[Image.Image]:
    """Colour blobs, each unlike the others."""
    random = np.random.default_rng(11)
    small = random.integers(0, 256, (count, 6, 8, 3), np.uint8)
    return [Image.fromarray(pixels).resize((320, 240)) for pixels in small]


def embed(embedder: Embedder, images: list[Image.Image]) -> NDArray[np.float32]:
    return embedder.embed([embedder.to_tensor(image) for image in images])


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    skimage = pytest.importorskip("skimage")
    folder = Path(skimage.__file__).parent / "data"
    return [Image.open(folder / name).convert("RGB") for name in PHOTOS]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bundle of each architecture."""
    make, fields = ARCHITECTURES[request.param]
    return write(tmp_path_factory.mktemp("bundle"), make(), fields)


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    return Embedder(folder)


# Every architecture


def test_every_architecture_gives_unit_vectors_of_its_size(embedder: Embedder) -> None:
    vectors = embed(embedder, pictures())
    assert (vectors.shape, vectors.dtype) == ((3, embedder.dim), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_batch_gives_the_same_vectors_as_one_picture_at_a_time(embedder: Embedder) -> None:
    together = embed(embedder, pictures())
    single = np.concatenate([embed(embedder, [picture]) for picture in pictures()])
    np.testing.assert_allclose(together, single, atol=1e-5)


def test_the_vector_is_what_the_network_gives_pooled_to_length_1(
    folder: Path, embedder: Embedder
) -> None:
    [image] = pictures(1)
    raw = raw_output(folder, embedder.to_tensor(image)).astype(np.float64)
    match embedder.spec.embedding.pooling:
        case "none":
            expected = raw[0]
        case "cls":
            expected = raw[0, 0]
        case "mean" if raw.ndim == 3:
            expected = raw[0, 1:].mean(axis=0)
        case "mean":
            expected = raw[0].mean(axis=(1, 2))
        case _:
            expected = (np.maximum(raw[0], 1e-6) ** 3).mean(axis=(1, 2)) ** (1 / 3)
    expected = expected / np.linalg.norm(expected)
    np.testing.assert_allclose(embed(embedder, [image])[0], expected, atol=1e-5)


def test_different_pictures_have_different_vectors(embedder: Embedder) -> None:
    vectors = embed(embedder, pictures())
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_no_pictures_give_no_vectors(embedder: Embedder) -> None:
    vectors = embedder.embed([])
    assert (vectors.shape, vectors.dtype) == ((0, embedder.dim), np.float32)


def test_a_flat_picture_is_refused_before_the_network_sees_it(embedder: Embedder) -> None:
    with pytest.raises(NoDetail):
        embedder.to_tensor(Image.new("RGB", (300, 300), "teal"))


def test_the_embedder_has_its_bundles_properties(embedder: Embedder) -> None:
    assert embedder.dim == embedder.spec.embedding.dim
    assert embedder.fingerprint == embedder.spec.fingerprint
    assert embedder.decode_size == (embedder.spec.resize.short_side or embedder.spec.input.height)


# Batches and threads


@pytest.mark.parametrize(
    ("model", "fields"),
    [(clip(batch=1), CLIP), (dinov2(batch=1), DINOV2), (mobilenet(batch=1), MOBILENET)],
    ids=["CLIP", "DINOv2", "MobileNet"],
)
def test_a_network_without_a_batch_axis_receives_images_one_by_one(
    model: Any, fields: dict[str, Any], tmp_path: Path
) -> None:
    embedder = Embedder(write(tmp_path, model, fields))
    together = embed(embedder, pictures())
    assert together.shape == (3, embedder.dim)
    single = np.concatenate([embed(embedder, [picture]) for picture in pictures()])
    np.testing.assert_array_equal(together, single)


def test_a_network_with_a_batch_axis_receives_all_images_at_once(tmp_path: Path) -> None:
    """This one subtracts the mean of the batch: pictures that come alone would all be zero."""
    network = Network(["N", 3, 224, 224]).patches(512, 32).average()
    vectors = network.output
    centred = network.then("ReduceMean", axes=[0], keepdims=1).then("Neg").then("Add", vectors)
    embedder = Embedder(write(tmp_path, centred.model(["N", 512]), CLIP))
    first, second = embed(embedder, pictures(2))
    np.testing.assert_allclose(first, -second, atol=1e-4)
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-4)


def test_an_output_map_of_one_pixel_is_a_vector(tmp_path: Path) -> None:
    network = Network(["N", 3, 224, 224]).patches(512, 32).then("GlobalAveragePool")
    folder = write(tmp_path, network.model(["N", 512, 1, 1]), CLIP)
    assert embed(Embedder(folder), pictures()).shape == (3, 512)


def test_one_embedder_serves_several_threads(tmp_path: Path) -> None:
    embedder = Embedder(write(tmp_path, clip(), CLIP))
    images = pictures(4)
    expected = embed(embedder, images)
    found: dict[int, NDArray[np.float32]] = {}

    def work(i: int) -> None:
        for _ in range(3):
            found[i] = embed(embedder, [images[i]])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        np.testing.assert_allclose(found[i][0], expected[i], atol=1e-5)


def test_more_threads_give_the_same_vectors(tmp_path: Path) -> None:
    folder = write(tmp_path, dinov2(), DINOV2)
    one, two = (embed(Embedder(folder, threads=n), pictures(2)) for n in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-5)


# Pooling, as plain functions


def test_mean_pooling_of_a_map_and_of_its_tokens_is_the_same() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 8, 3, 5)).astype(np.float32)
    tokens = maps.reshape(2, 8, 15).transpose(0, 2, 1)
    for pooling in ("mean", "gem"):
        output = Output("embedding", 8, pooling)
        np.testing.assert_allclose(pool(maps, output), pool(tokens, output), rtol=1e-5)


def test_skipped_tokens_do_not_count() -> None:
    tokens = np.random.default_rng(0).normal(size=(2, 9, 4)).astype(np.float32)
    spoiled = tokens.copy()
    spoiled[:, :2] = 1e6
    output = Output("embedding", 4, "mean", skip_tokens=2)
    np.testing.assert_array_equal(pool(spoiled, output), pool(tokens, output))


def test_gem_lies_between_the_mean_and_the_maximum_and_moves_with_its_exponent() -> None:
    maps = np.random.default_rng(0).uniform(0.1, 1, size=(2, 8, 7, 7)).astype(np.float32)
    mean, gem3, gem9 = (pool(maps, Output("embedding", 8, "gem", gem_p=p)) for p in (1.0, 3.0, 9.0))
    np.testing.assert_allclose(mean, maps.mean(axis=(2, 3)), rtol=1e-5)
    assert (mean < gem3).all()
    assert (gem3 < gem9).all()
    assert (gem9 < maps.max(axis=(2, 3))).all()


def test_gem_of_a_map_without_any_activation_is_finite() -> None:
    dead = pool(np.full((1, 8, 7, 7), -1, np.float32), Output("embedding", 8, "gem"))
    assert np.isfinite(dead).all()


def test_a_row_of_zeros_stays_zero() -> None:
    rows = unit_rows(np.array([[0, 0], [3, 4]], np.float32))
    np.testing.assert_allclose(rows, [[0, 0], [0.6, 0.8]], atol=1e-7)


def test_very_small_and_very_large_rows_get_length_1() -> None:
    rows = unit_rows(np.array([[3e-9, 4e-9], [3e15, 4e15]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8]] * 2, rtol=1e-5)


# Bundles that are refused


def with_input(**fields: Any) -> dict[str, Any]:
    return CLIP | {"input": CLIP["input"] | fields}


def with_output(**fields: Any) -> dict[str, Any]:
    return CLIP | {"embedding": CLIP["embedding"] | fields}


def refusal(folder: Path) -> str:
    with pytest.raises(ModelBundleError) as refused:
        Embedder(folder)
    return str(refused.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (with_input(name="pixel_values"), ["image", "pixel_values", "inputs"]),
        (with_input(dtype="uint8"), ["tensor(float)", "tensor(uint8)", "model.json"]),
        (with_input(layout="NHWC"), ["['N', 3, 224, 224]", "['N or 1', 224, 224, 3]"]),
        (with_input(height=192), ["192", "224"]),
        (with_input(width=160), ["160", "224"]),
        (with_output(name="pooler_output"), ["no output 'pooler_output'", "embedding"]),
        (with_output(dim=768), ["embedding", "512", "768", "none"]),
        (with_output(pooling="cls"), ["512", "cls"]),
        (with_output(pooling="mean"), ["512", "mean"]),
        (with_output(pooling="gem"), ["512", "gem"]),
    ],
    ids=lambda value: None if isinstance(value, dict) else "-".join(value[:2]),
)
def test_the_error_for_a_manifest_that_does_not_fit_names_both_sides(
    fields: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    fields = fields | {"resize": {"rule": "squash"}}
    message = refusal(write(tmp_path, clip(), fields))
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("model", "fields", "words"),
    [
        (dinov2(), CLIP, ["257", "'none'"]),
        (dinov2(), DINOV2 | {"embedding": {"name": "embedding", "dim": 257}}, ["384"]),
        (dinov2(), with_output(dim=768, pooling="cls"), ["384", "768"]),
        (resnet(), RESNET_MEAN | {"embedding": RESNET_GEM["embedding"] | {"dim": 63}}, ["63"]),
        (clip(batch=4), CLIP, ["[4, 3, 224, 224]"]),
        (Network([3, 224, 224]).then("Identity").model([3, 224, 224]), CLIP, ["[3, 224, 224]"]),
        (clip().graph.SerializeToString(), CLIP, ["cannot load image.onnx"]),
        (b"", CLIP, ["cannot load image.onnx"]),
        (b"not a network", CLIP, ["cannot load image.onnx"]),
        (clip().SerializeToString()[:-100], CLIP, ["cannot load image.onnx"]),
    ],
    ids=[
        "tokens, not pooled",
        "tokens, not pooled, of that count",
        "tokens of another size",
        "map of another size",
        "batches of four",
        "no batch axis",
        "only a graph",
        "empty",
        "text",
        "cut off",
    ],
)
def test_a_network_that_cannot_be_used_is_refused_at_once(
    model: Any, fields: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    message = refusal(write(tmp_path, model, fields))
    assert [word for word in words if word not in message] == []


def test_a_dynamic_axis_of_the_wrong_size_is_refused_at_the_first_image(tmp_path: Path) -> None:
    """A map of free height and width that is not pooled may be 1 × 1, until it is 7 × 7."""
    embedder = Embedder(write(tmp_path, resnet(), with_output(dim=64)))
    with pytest.raises(ModelBundleError, match=r"gives \(1, 3136\), not \(N, 64\)"):
        embed(embedder, pictures(1))


def test_a_network_with_a_second_input_is_refused_by_its_name(tmp_path: Path) -> None:
    model = Network(["N", 3, 224, 224]).patches(512, 32).average().model(["N", 512], extra=True)
    assert "text" in refusal(write(tmp_path, model, CLIP))


def test_a_network_of_another_hash_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    write(tmp_path, clip(), CLIP)
    (tmp_path / "image.onnx").write_bytes(dinov2().SerializeToString())
    assert "image.onnx is damaged or was replaced" in refusal(tmp_path)


# The bundled model


@pytest.fixture(scope="module")
def golden(photos: list[Image.Image]) -> dict[str, NDArray[Any]]:
    if os.environ.get("LIKENESS_WRITE_GOLDEN"):
        bundled = Embedder(BUNDLED)
        found = bundled.extract([bundled.to_tensor(photo) for photo in photos])
        assert found.patches is not None
        assert found.local is not None
        assert found.salience is not None
        GOLDEN.parent.mkdir(exist_ok=True)
        np.savez_compressed(
            GOLDEN,
            fingerprint=np.array(bundled.fingerprint),
            vectors=found.vectors,
            patches=found.patches[0].astype(np.float16),
            local=found.local[0].astype(np.float16),
            salience=found.salience[0].astype(np.float16),
        )
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def test_the_bundled_model_gives_the_golden_vectors_and_descriptors(
    golden: dict[str, NDArray[Any]], photos: list[Image.Image]
) -> None:
    """Tolerance: cosine .9999; half floats round a unit row's cosine by less than .0002."""
    bundled = Embedder(BUNDLED)
    assert bundled.fingerprint == golden["fingerprint"], "another model: write the vectors anew"
    found = bundled.extract([bundled.to_tensor(photo) for photo in photos])
    assert found.patches is not None
    assert found.local is not None
    assert found.salience is not None
    assert (found.vectors * golden["vectors"]).sum(axis=1).min() >= 0.9999
    assert (found.patches[0] * golden["patches"]).sum(axis=1).min() >= 0.9995
    assert (found.local[0] * golden["local"]).sum(axis=1).min() >= 0.9995
    np.testing.assert_allclose(found.salience[0], golden["salience"], atol=0.002)
    assert GOLDEN.stat().st_size < 60_000
