"""Optional parts of a bundle: a text encoder, and maps of local descriptors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from likeness.embedding import Embedder, TextEmbedder
from likeness.errors import ModelBundleError
from tests.networks import (
    FLOAT,
    INT32,
    INT64,
    WORDS,
    Network,
    clip,
    text_encoder,
    tokenizer,
    write_bundle,
)
from tests.pictures import picture

LENGTH = 8
PAD, START, END, UNKNOWN = (WORDS.index(word) for word in ("<pad>", "<s>", "</s>", "<unk>"))
SIDE, DIM = 4, 6


# Words


def with_words(folder: Path, tower: Any, dim: int = 512, **text: Any) -> TextEmbedder:
    network = clip(dim=dim).SerializeToString()
    words = tokenizer().to_str().encode()
    files = {"image.onnx": network, "text.onnx": tower.SerializeToString(), "tokenizer.json": words}
    embedding = {"name": "embedding", "dim": dim}
    return TextEmbedder(
        write_bundle(folder, files, embedding=embedding, text={"length": LENGTH} | text)
    )


def echo(of: str = "input_ids", kind: int = INT64) -> Any:
    """A tower whose vector is one of its inputs."""
    other = "attention_mask" if of == "input_ids" else "input_ids"
    network = Network(["N", LENGTH], kind, of).then("Cast", to=FLOAT)
    return network.beside(other, ["N", LENGTH], kind).model(["N", LENGTH], "text_embeds")


def tokens_of(vector: NDArray[np.float32], first: int) -> list[int]:
    """The numbers that were scaled to length 1, from the first of them."""
    return [round(value) for value in vector / vector[0] * first]


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("kind", [INT32, INT64])
def test_texts_become_unit_vectors_of_the_images_size(
    tmp_path: Path, kind: int, mask: bool
) -> None:
    tower = text_encoder(length=LENGTH, kind=kind, mask=mask)
    words = with_words(tmp_path, tower, mask="attention_mask" if mask else None)
    vectors = words.embed(["a mug", "a photo of a lamp"])
    assert (vectors.shape, vectors.dtype) == ((2, 512), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] < 0.99
    np.testing.assert_allclose(words.embed(["a mug"])[0], vectors[0], atol=1e-6)


def test_short_texts_are_padded_and_long_ones_truncated(tmp_path: Path) -> None:
    words = with_words(tmp_path, echo(), dim=LENGTH, mask="attention_mask", pad=PAD)
    short, long = words.embed(["a spaceship", "mug " * 20])
    a, mug = WORDS.index("a"), WORDS.index("mug")
    assert tokens_of(short, START) == [START, a, UNKNOWN, END, PAD, PAD, PAD, PAD]
    assert tokens_of(long, START) == [START, *[mug] * (LENGTH - 2), END]


def test_the_bundle_chooses_the_padding_token(tmp_path: Path) -> None:
    words = with_words(tmp_path, echo(), dim=LENGTH, mask="attention_mask", pad=END)
    [vector] = words.embed(["mug"])
    assert tokens_of(vector, START)[3:] == [END] * (LENGTH - 3)


def test_the_mask_tells_tokens_from_padding(tmp_path: Path) -> None:
    words = with_words(tmp_path, echo("attention_mask"), dim=LENGTH, mask="attention_mask")
    [vector] = words.embed(["a mug"])
    assert tokens_of(vector, 1) == [1, 1, 1, 1, 0, 0, 0, 0]


def test_a_bundle_without_a_text_encoder_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path, {"image.onnx": clip().SerializeToString()})
    with pytest.raises(ModelBundleError, match="random has no text encoder"):
        TextEmbedder(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"input": "ids"}, "inputs are"),
        ({"mask": "attention_mask"}, "inputs are"),
        ({"output": "nothing"}, "no output 'nothing'"),
        ({"tokenizer": "image.onnx"}, "image.onnx is not a valid tokenizer"),
        ({"file": "tokenizer.json"}, "cannot load tokenizer.json"),
        ({"file": "other.onnx"}, "files does not list other.onnx"),
    ],
    ids=str,
)
def test_a_text_encoder_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, text: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelBundleError, match=words):
        with_words(tmp_path, text_encoder(length=LENGTH), **text)


def test_a_text_encoder_of_another_space_is_refused_at_the_first_text(tmp_path: Path) -> None:
    words = with_words(tmp_path, text_encoder(dim=384, length=LENGTH))
    with pytest.raises(ModelBundleError, match=r"\(1, 384\), not \(N, 512\)"):
        words.embed(["a mug"])


def test_a_text_encoder_does_not_change_image_vectors(tmp_path: Path) -> None:
    """An index stays valid when its model learns words."""
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    with_words(tmp_path / "with", text_encoder(length=LENGTH))
    write_bundle(tmp_path / "without", {"image.onnx": clip().SerializeToString()})
    fingerprints = {Embedder(tmp_path / name).fingerprint for name in ("with", "without")}
    assert len(fingerprints) == 1


# Local descriptors


def with_maps(batch: int | str = "N") -> Any:
    """An embedding, a map of unit descriptors, and how salient each spot is."""
    network = Network([batch, 3, 224, 224]).patches(DIM, 224 // SIDE)
    network.tokens(DIM, SIDE**2).then("LpNormalization", axis=2)
    network.giving("map", [batch, SIDE**2, DIM])
    tokens = network.output
    salience = network.then("ReduceMax", axes=[2], keepdims=0).output
    network.giving("salience", [batch, SIDE**2], salience)
    network.output = tokens
    return network.then("ReduceMean", axes=[1], keepdims=0).times(DIM, 512).model([batch, 512])


def bundle_with_maps(folder: Path, model: Any, **maps: Any) -> Embedder:
    return Embedder(write_bundle(folder, {"image.onnx": model.SerializeToString()}, **maps))


MAP = {"name": "map", "side": SIDE, "dim": DIM}


@pytest.mark.parametrize("batch", ["N", 1])
def test_one_pass_returns_the_vector_and_both_maps(tmp_path: Path, batch: int | str) -> None:
    local = MAP | {"salience": "salience"}
    embedder = bundle_with_maps(tmp_path, with_maps(batch), patches=MAP, local=local)
    tensors = [embedder.to_tensor(picture(seed)) for seed in range(3)]
    told = embedder.extract(tensors)
    np.testing.assert_allclose(told.vectors, embedder.embed(tensors), atol=1e-6)
    assert told.patches is not None and told.local is not None and told.salience is not None
    assert told.patches.shape == told.local.shape == (3, SIDE**2, DIM)
    np.testing.assert_allclose(np.linalg.norm(told.local, axis=2), 1, atol=1e-5)
    np.testing.assert_allclose(told.salience, told.local.max(axis=2), atol=1e-6)


def test_outputs_that_a_model_does_not_have_are_none(tmp_path: Path) -> None:
    embedder = bundle_with_maps(tmp_path, with_maps(), patches=MAP)
    told = embedder.extract([embedder.to_tensor(picture(1))])
    assert told.patches is not None
    assert (told.local, told.salience) == (None, None)


@pytest.mark.parametrize(
    "local", [MAP | {"name": "nothing"}, MAP | {"salience": "nothing"}], ids=["map", "salience"]
)
def test_a_map_that_the_network_does_not_have_is_refused_at_once(
    tmp_path: Path, local: dict[str, Any]
) -> None:
    with pytest.raises(ModelBundleError, match="no output 'nothing'"):
        bundle_with_maps(tmp_path, with_maps(), local=local)


def test_a_map_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    embedder = bundle_with_maps(tmp_path, with_maps(), local=MAP | {"side": 5})
    with pytest.raises(ModelBundleError, match=r"'map' gives \(1, 16, 6\).*\(1, 25, 6\)"):
        embedder.extract([embedder.to_tensor(picture(1))])
