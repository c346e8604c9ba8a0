"""Small random ONNX networks with the inputs and outputs of known architectures, and bundles.

`Network` builds others.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

Shape = list[int | str | None]
FLOAT = TensorProto.FLOAT
UINT8 = TensorProto.UINT8
INT32 = TensorProto.INT32
INT64 = TensorProto.INT64
WORDS = (
    *("<pad>", "<s>", "</s>", "<unk>", "a", "photo", "of"),
    *("mug", "lamp", "chair", "shirt", "bag", "bottle"),
)


class Network:
    """A chain of ONNX nodes from one tensor, an image, to one output, with random weights.

    `beside` and `giving` add further inputs and outputs.
    """

    def __init__(self, shape: Shape, kind: int = FLOAT, name: str = "image") -> None:
        self._inputs = [helper.make_tensor_value_info(name, kind, shape)]
        self._outputs: list[Any] = []
        self.output = name
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._random = np.random.default_rng(5)

    def constant(self, values: NDArray[Any]) -> str:
        name = f"constant{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(values, name))
        return name

    def weights(self, *shape: int) -> str:
        return self.constant(self._random.normal(size=shape).astype(np.float32))

    def then(self, operator: str, *others: str, **attributes: Any) -> Network:
        output = f"value{len(self._nodes)}"
        inputs = [self.output, *others]
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        self.output = output
        return self

    def patches(self, dim: int, patch: int) -> Network:
        """(N, dim, H / patch, W / patch)"""
        weights = self.weights(dim, 3, patch, patch)
        return self.then("Conv", weights, kernel_shape=[patch] * 2, strides=[patch] * 2)

    def tokens(self, dim: int, count: int) -> Network:
        """The map of `patches` as (N, count, dim)."""
        self.then("Reshape", self.constant(np.array([0, dim, count])))
        return self.then("Transpose", perm=[0, 2, 1])

    def behind_a_class_token(self) -> Network:
        """(N, T, dim) → (N, 1 + T, dim)"""
        tokens = self.output
        self.then("ReduceMax", axes=[1], keepdims=1)
        return self.then("Concat", tokens, axis=1)

    def times(self, rows: int, columns: int) -> Network:
        """A product with a matrix of rows × columns."""
        return self.then("MatMul", self.weights(rows, columns))

    def embedded(self, words: int, dim: int) -> Network:
        """Token ids (N, T) → (N, T, dim)"""
        tokens, self.output = self.output, self.weights(words, dim)
        return self.then("Gather", tokens)

    def beside(self, name: str, shape: Shape, kind: int = FLOAT) -> Network:
        """A further input."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return self

    def giving(self, name: str, shape: Shape, value: str | None = None) -> Network:
        """A further output: the chain's current value, or another one."""
        self._nodes.append(helper.make_node("Identity", [value or self.output], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, FLOAT, shape))
        return self

    def average(self) -> Network:
        return self.then("GlobalAveragePool").then("Flatten")

    def model(self, shape: Shape | None, name: str = "embedding", extra: bool = False) -> Any:
        """The whole network; `extra` adds an unused input."""
        self.then("Identity")
        self._nodes[-1].output[0] = name
        if extra:
            self.beside("text", ["N", 77])
            self._nodes.append(helper.make_node("Identity", ["text"], ["text_again"]))
        outputs = [helper.make_tensor_value_info(name, FLOAT, shape), *self._outputs]
        graph = helper.make_graph(self._nodes, "g", self._inputs, outputs, self._constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def clip(batch: int | str = "N", dim: int = 512) -> Any:
    return Network([batch, 3, 224, 224]).patches(dim, 32).average().model([batch, dim])


def siglip() -> Any:
    return Network(["N", 3, 224, 224]).patches(768, 16).average().model(["N", 768])


def dinov2(batch: int | str = "N") -> Any:
    network = Network([batch, 3, 224, 224]).patches(384, 14).tokens(384, 256)
    return network.behind_a_class_token().model([batch, 257, 384])


def resnet() -> Any:
    network = Network(["N", 3, "H", "W"]).patches(64, 32).then("Relu")
    return network.model(["N", 64, "h", "w"])


def mobilenet(batch: int | str = "N") -> Any:
    network = Network([batch, 64, 64, 3], UINT8).then("Cast", to=FLOAT)
    return network.then("Transpose", perm=[0, 3, 1, 2]).patches(40, 16).average().model([batch, 40])


def text_encoder(
    dim: int = 512,
    length: int | str = 77,
    kind: int = INT64,
    mask: bool = False,
    tokens: str = "input_ids",
    name: str = "text_embeds",
    batch: int | str = "N",
    words: int = len(WORDS),
) -> Any:
    """Token ids → the mean of their vectors; with a mask, of the unmasked ones."""
    network = Network([batch, length], kind, tokens).embedded(words, dim)
    if mask:
        vectors = network.beside("attention_mask", [batch, length], kind).output
        network.output = "attention_mask"
        network.then("Cast", to=FLOAT).then("Unsqueeze", network.constant(np.array([2])))
        network.then("Mul", vectors)
    return network.then("ReduceMean", axes=[1], keepdims=0).model([batch, dim], name)


def tokenizer() -> Tokenizer:
    """One id for each word, <s> before and </s> after; unknown words are <unk>."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    made = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    ends = [(end, vocabulary[end]) for end in ("<s>", "</s>")]
    made.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return made


def transformer(name: str = "image", output: str = "image_embeds", batch: int | str = "N") -> Any:
    """CLIP's shape, with nearly all weights in matrices, as in a transformer."""
    network = Network([batch, 3, 224, 224], name=name).patches(24, 32).tokens(24, 49)
    network.times(24, 512).times(512, 512).then("ReduceMean", axes=[1], keepdims=0)
    return network.model([batch, 512], output)


def write_bundle(folder: Path, files: dict[str, bytes], **fields: Any) -> Path:
    """A bundle of 512 dimensions from 224 × 224 pixels, with further fields of model.json."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = {
        "name": "random",
        "version": "1",
        "licence": "none",
        "source": "here",
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "input": {"name": "image", "height": 224, "width": 224},
        "resize": {"rule": "crop"},
        "normalise": {},
        "embedding": {"name": "embedding", "dim": 512},
    }
    (folder / "model.json").write_text(json.dumps(manifest | fields))
    return folder
