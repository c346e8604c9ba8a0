"""Images and texts → unit vectors, with ONNX Runtime. The only onnxruntime import."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from likeness import images
from likeness.errors import ModelBundleError, NoDetail
from likeness.model import (
    Descriptors,
    ModelSpec,
    Output,
    TextEncoder,
    load_spec,
    read_file,
)
from likeness.preprocessing import Prepared, content_box, decode_size, prepare
from likeness.records import WHOLE, Box, ImageInfo, Vector
from likeness.settings import Limits

_ERRORS_ONLY = 3


class BatchFeatures(NamedTuple):
    """Outputs of one run for N images; None for those that the model does not have.

    vectors float32 (N, dim); patches and local float32 (N, side², dim), unit rows. salience
    float32 (N, side²): how well each descriptor of `local` can be found again.
    """

    vectors: Vector
    patches: NDArray[np.float32] | None
    local: NDArray[np.float32] | None
    salience: NDArray[np.float32] | None


class Embedder:
    """One ONNX session. Safe to share between threads."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load and check a bundle. Raises ModelBundleError where it is invalid."""
        self.spec = load_spec(folder)
        self.fingerprint = self.spec.fingerprint
        name = self.spec.image_file
        self._session = _open_session(read_file(folder, self.spec, name), name, threads)
        self._any_batch = _check_signature(self._session, self.spec)

    @property
    def dim(self) -> int:
        return self.spec.embedding.dim

    @property
    def decode_size(self) -> int:
        """The short side in pixels that a decoder must preserve."""
        return decode_size(self.spec)

    def decode(
        self, data: bytes, limits: Limits, share: float = 1.0
    ) -> tuple[Image.Image, ImageInfo]:
        """A file → its upright RGB image and metadata, as this model's index holds them.

        The image has enough pixels for a part with this share of its sides. Raises ImageError.
        """
        version = self.spec.preprocessing
        image, info = images.decode(data, limits, math.ceil(self.decode_size / share), version)
        if image.size != (info.width, info.height):  # reduced while decoding
            content = self.content_box(image)
            left = min(content.right - content.left, content.bottom - content.top)
            if left < 1:
                return images.decode(
                    data, limits, math.ceil(self.decode_size / share / left), version
                )
        return image, info

    def content_box(self, image: Image.Image) -> Box:
        """The part of an upright RGB image inside the bars that this model does not see."""
        return content_box(image, self.spec)

    def to_tensor(self, image: Image.Image) -> NDArray[Any]:
        """An upright RGB image as input tensor, with a batch axis of 1. Raises NoDetail."""
        return self.preprocess(image).tensor

    def preprocess(self, image: Image.Image, box: Box = WHOLE) -> Prepared:
        """Prepare an upright RGB image, or its part inside a box. Raises NoDetail."""
        return prepare(image, self.spec, box)

    def embed(self, tensors: Sequence[NDArray[Any]]) -> Vector:
        """Prepared tensors → float32 (N, dim), unit rows, in one run where batches are possible."""
        if not tensors:
            return np.empty((0, self.dim), np.float32)
        [raw] = self._run(tensors, [self.spec.embedding.name])
        return self._vectors(raw)

    def extract(self, tensors: Sequence[NDArray[Any]]) -> BatchFeatures:
        """Prepared tensors, at least one → all outputs of the model, in one pass."""
        names = _output_names(self.spec)
        found = dict(zip(names, self._run(tensors, names), strict=True))
        patches, local = (
            _descriptors(found[d.name], d, len(tensors)) if d else None
            for d in (self.spec.patches, self.spec.local)
        )
        salience = self.spec.local.salience if self.spec.local else None
        return BatchFeatures(
            self._vectors(found[self.spec.embedding.name]),
            patches,
            local,
            np.asarray(found[salience], np.float32) if salience else None,
        )

    def _run(
        self, tensors: Sequence[NDArray[Any]], outputs: list[str]
    ) -> list[NDArray[np.float32]]:
        batches = [np.concatenate(tensors)] if self._any_batch else tensors
        runs = [_checked_run(self._session, {self.spec.input.name: b}, outputs) for b in batches]
        # most calls have one batch and need no copy
        return runs[0] if len(runs) == 1 else [np.concatenate(o) for o in zip(*runs, strict=True)]

    def _vectors(self, raw: NDArray[np.float32]) -> Vector:
        output = self.spec.embedding
        try:
            vectors = pool(raw, output)
        except (ValueError, IndexError) as error:  # a shape that this rule cannot pool
            raise ModelBundleError(f"the network's output cannot be pooled: {error}") from error
        return _checked_unit_rows(vectors, output.dim)


def open_embedders(folders: Sequence[Path], threads: int = 1) -> list[Embedder]:
    """An embedder for each bundle. Raises ModelBundleError for an invalid one."""
    return [Embedder(folder, threads) for folder in folders]


class TextEmbedder:
    """A bundle's text encoder: texts → vectors comparable with those of images.

    Safe to share between threads.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Raises ModelBundleError where the bundle has no text encoder, or an invalid one."""
        spec = load_spec(folder)
        if spec.text is None:
            raise ModelBundleError(f"{spec.name} has no text encoder: text search is not available")
        self._encoder, self._dim = spec.text, spec.embedding.dim
        self._tokenizer = _open_tokenizer(read_file(folder, spec, spec.text.tokenizer), spec.text)
        network = read_file(folder, spec, spec.text.file)
        self._session = _open_session(network, spec.text.file, threads)
        inputs = {i.name: i.type for i in self._session.get_inputs()}
        if set(inputs) != set(filter(None, [spec.text.input, spec.text.mask])):
            raise ModelBundleError(f"the text encoder's inputs are {sorted(inputs)}")
        self._integer = np.int32 if inputs[spec.text.input] == "tensor(int32)" else np.int64
        if spec.text.output not in {o.name for o in self._session.get_outputs()}:
            raise ModelBundleError(f"the text encoder has no output {spec.text.output!r}")

    def embed(self, texts: Sequence[str]) -> Vector:
        """Texts, at least one → float32 (N, dim), unit rows."""
        encoded = self._tokenizer.encode_batch(list(texts))
        feed = {self._encoder.input: np.array([e.ids for e in encoded], self._integer)}
        if self._encoder.mask:
            feed[self._encoder.mask] = np.array([e.attention_mask for e in encoded], self._integer)
        [raw] = _checked_run(self._session, feed, [self._encoder.output])
        return _checked_unit_rows(raw, self._dim)


class TensorInfo(NamedTuple):
    """One input or output of a network; a dynamic axis of its shape is a name or None."""

    name: str
    type: str
    shape: list[int | str | None]


class Network:
    """An ONNX network without a bundle: its inputs and outputs, and runs of it."""

    def __init__(self, network: bytes, name: str) -> None:
        """`name` is used in messages. Raises ModelBundleError where onnxruntime cannot load it."""
        self._session = _open_session(network, name, threads=1)
        self.inputs = [TensorInfo(i.name, i.type, i.shape) for i in self._session.get_inputs()]
        self.outputs = [TensorInfo(o.name, o.type, o.shape) for o in self._session.get_outputs()]

    def run(self, feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """All float outputs by name. Raises ModelBundleError where the run fails."""
        names = [output.name for output in self.outputs if output.type == "tensor(float)"]
        return dict(zip(names, _checked_run(self._session, feed, names), strict=True))


def check_vector(vector: Vector) -> None:
    """Raises NoDetail for a vector without a direction: with NaN or infinity, or all zero."""
    if not np.isfinite(vector).all() or not vector.any():
        raise NoDetail("the model extracts no features from the image")


def pool(raw: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
    """A network's raw output → (N, dim), by the bundle's pooling rule (see model.Output)."""
    if output.pooling == "none":
        return raw.reshape(len(raw), -1)
    if output.pooling == "cls":
        return np.asarray(raw[:, 0])
    if raw.ndim == 4:
        raw = raw.reshape(*raw.shape[:2], -1).transpose(0, 2, 1)
    tokens = raw[:, output.skip_tokens :]
    if output.pooling == "mean":
        mean: NDArray[np.float32] = tokens.mean(axis=1)
        return mean
    powered = np.clip(tokens, 1e-6, None) ** output.gem_p
    return np.asarray(powered.mean(axis=1) ** (1 / output.gem_p), np.float32)


def unit_rows(vectors: NDArray[np.float32]) -> Vector:
    """Rows scaled to length 1; a row of zeros stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)


def _checked_unit_rows(vectors: NDArray[np.float32], dim: int) -> Vector:
    """Unit rows. Raises ModelBundleError unless the shape is (N, dim)."""
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ModelBundleError(f"the network gives {vectors.shape}, not (N, {dim}) values")
    return unit_rows(vectors)


def _descriptors(
    raw: NDArray[np.float32], descriptors: Descriptors, count: int
) -> NDArray[np.float32]:
    """Raises ModelBundleError unless the shape is (N, side², dim)."""
    expected = (count, descriptors.side**2, descriptors.dim)
    if raw.shape != expected:
        raise ModelBundleError(
            f"output {descriptors.name!r} gives {raw.shape}, model.json says {expected}"
        )
    return raw


def _checked_run(
    session: ort.InferenceSession, feed: dict[str, NDArray[Any]], outputs: list[str]
) -> list[NDArray[np.float32]]:
    # A network with dynamic axes may fail only when it runs. Exceptions of onnxruntime have no
    # common base class.
    try:
        return [np.asarray(raw, np.float32) for raw in session.run(outputs, feed)]
    except Exception as error:
        raise ModelBundleError(f"the network failed to run: {error}") from error


def _open_tokenizer(file: bytes, encoder: TextEncoder) -> Any:
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - only models with a text encoder need it

        tokenizer = Tokenizer.from_buffer(file)
    except ImportError as error:
        raise ModelBundleError("text search needs the package `tokenizers`") from error
    # errors of the Rust library have no class of their own
    except Exception as error:
        raise ModelBundleError(f"{encoder.tokenizer} is not a valid tokenizer: {error}") from error
    tokenizer.enable_truncation(encoder.length)
    tokenizer.enable_padding(length=encoder.length, pad_id=encoder.pad)
    return tokenizer


def _open_session(network: bytes, name: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Spinning threads compete for Lambda's fraction of a core: they doubled the latency.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # From bytes: exactly the file that was hashed; external data is refused.
    try:
        return ort.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    # onnxruntime raises a dozen exception classes, all for a file that it cannot run
    except Exception as error:
        raise ModelBundleError(f"onnxruntime cannot load {name}: {error}") from error


def _check_signature(session: ort.InferenceSession, spec: ModelSpec) -> bool:
    """Whether the network accepts batches. Raises ModelBundleError unless model.json fits it."""
    inputs = {i.name: i for i in session.get_inputs()}
    outputs = {o.name: o for o in session.get_outputs()}
    if set(inputs) != {spec.input.name}:
        raise ModelBundleError(f"the network's inputs are {sorted(inputs)}, not {spec.input.name}")
    for name in _output_names(spec):
        if name not in outputs:
            raise ModelBundleError(f"the network has no output {name!r}, but {sorted(outputs)}")
    actual = inputs[spec.input.name]
    expected_type = f"tensor({'float' if spec.input.dtype == 'float32' else 'uint8'})"
    if actual.type != expected_type:
        raise ModelBundleError(f"the network takes {actual.type}, model.json says {expected_type}")
    height, width = spec.input.height, spec.input.width
    image = [3, height, width] if spec.input.layout == "NCHW" else [height, width, 3]
    if not _fits(actual.shape, [1, *image]):  # 1 also fits a dynamic batch axis
        raise ModelBundleError(f"the network takes {actual.shape}, not {['N or 1', *image]}")
    shape = outputs[spec.embedding.name].shape
    if not any(_fits(shape, expected) for expected in _output_shapes(spec.embedding)):
        raise ModelBundleError(
            f"output {spec.embedding.name!r} is {shape}, which pooling {spec.embedding.pooling!r} "
            f"cannot turn into (N, {spec.embedding.dim})"
        )
    return not isinstance(actual.shape[0], int)


def _output_names(spec: ModelSpec) -> list[str]:
    """All outputs that the bundle declares: the embedding, then those of its maps."""
    names = [spec.embedding.name]
    for descriptors in (spec.patches, spec.local):
        if descriptors:
            names += [descriptors.name, *filter(None, [descriptors.salience])]
    return names


def _output_shapes(output: Output) -> list[list[int | None]]:
    """The shapes that the pooling rule accepts; None is any size."""
    tokens: list[int | None] = [None, None, output.dim]
    if output.pooling == "none":
        return [[None, output.dim], [None, output.dim, 1, 1]]
    return [tokens] if output.pooling == "cls" else [tokens, [None, output.dim, None, None]]


def _fits(actual: list[int | str | None], expected: list[int | None]) -> bool:
    """Whether a network's shape, with names for dynamic axes, can be the expected one."""
    return len(actual) == len(expected) and all(
        a == e or e is None or not isinstance(a, int) for a, e in zip(actual, expected, strict=True)
    )
