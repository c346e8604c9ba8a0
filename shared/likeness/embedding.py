"""Embedder: images → unit vectors, through ONNX Runtime. The only onnxruntime import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from likeness.errors import ModelBundleError, NoDetail
from likeness.model import ModelSpec, Output, load_bundle
from likeness.preprocessing import decode_size, tensor
from likeness.records import Vector

_ERRORS_ONLY = 3


class Embedder:
    """One ONNX session. Safe to share between threads."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load and check a bundle. Raises ModelBundleError that says what is wrong with it."""
        self.spec, network = load_bundle(folder)
        self._session = _open_session(network, self.spec.image_file, threads)
        self._any_batch = _check_signature(self._session, self.spec)

    @property
    def fingerprint(self) -> str:
        return self.spec.fingerprint

    @property
    def dim(self) -> int:
        return self.spec.embedding.dim

    @property
    def decode_size(self) -> int:
        """The short side in pixels that a decoder must keep."""
        return decode_size(self.spec)

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """An upright RGB image as an input tensor, batch axis of 1. Raises NoDetail."""
        return tensor(image, self.spec)

    def embed(self, tensors: Sequence[NDArray[Any]]) -> Vector:
        """Prepared tensors → float32 (N, dim), unit rows, in one run where the network can."""
        if not tensors:
            return np.empty((0, self.dim), np.float32)
        batches = [np.concatenate(tensors)] if self._any_batch else tensors
        vectors: Vector = np.concatenate([self._run(batch) for batch in batches])
        return vectors

    def _run(self, batch: NDArray[Any]) -> Vector:
        output = self.spec.embedding
        # What a network with free axes does is known once it runs: onnxruntime's own errors have no
        # base class, and pooling meets shapes that it cannot pool.
        try:
            [raw] = self._session.run([output.name], {self.spec.input.name: batch})
            vectors = pooled(np.asarray(raw, np.float32), output)
        except Exception as error:
            raise ModelBundleError(f"the network does not run: {error}") from error
        if vectors.shape != (len(batch), output.dim):
            expected = (len(batch), output.dim)
            raise ModelBundleError(f"the network gives {vectors.shape}, not {expected} values")
        return unit_rows(vectors)


def check_vector(vector: Vector) -> None:
    """Raises NoDetail for a row that is no direction: NaN, infinite or all zero."""
    if not np.isfinite(vector).all() or not vector.any():
        raise NoDetail("the model finds nothing in the image")


def pooled(raw: NDArray[np.float32], output: Output) -> NDArray[np.float32]:
    """A network's raw output → (N, dim), as the bundle's pooling rule says (see model.Output)."""
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
    """Rows scaled to length 1; a row of zeros stays one."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), np.float32)


def _open_session(network: bytes, name: str, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Spinning threads fight over a Lambda's fraction of a core: it doubled the latency.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # From bytes: the file that was hashed is all there is, external data is refused.
    try:
        return ort.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    # onnxruntime raises a dozen classes of its own, all for a file that it cannot run
    except Exception as error:
        raise ModelBundleError(f"onnxruntime cannot load {name}: {error}") from error


def _check_signature(session: ort.InferenceSession, spec: ModelSpec) -> bool:
    """Whether the network takes batches. Raises ModelBundleError where model.json is wrong."""
    inputs = {i.name: i for i in session.get_inputs()}
    outputs = {o.name: o for o in session.get_outputs()}
    if set(inputs) != {spec.input.name}:
        raise ModelBundleError(f"the network's inputs are {sorted(inputs)}, not {spec.input.name}")
    if spec.embedding.name not in outputs:
        raise ModelBundleError(
            f"the network has no output {spec.embedding.name!r}, but {sorted(outputs)}"
        )
    taken = inputs[spec.input.name]
    expected_type = f"tensor({'float' if spec.input.dtype == 'float32' else 'uint8'})"
    if taken.type != expected_type:
        raise ModelBundleError(f"the network takes {taken.type}, model.json says {expected_type}")
    height, width = spec.input.height, spec.input.width
    image = [3, height, width] if spec.input.layout == "NCHW" else [height, width, 3]
    if not _fits(taken.shape, [1, *image]):  # 1 also fits a free batch axis
        raise ModelBundleError(f"the network takes {taken.shape}, not {['N or 1', *image]}")
    shape = outputs[spec.embedding.name].shape
    if not any(_fits(shape, expected) for expected in _output_shapes(spec.embedding)):
        raise ModelBundleError(
            f"output {spec.embedding.name!r} is {shape}, which pooling {spec.embedding.pooling!r} "
            f"cannot turn into (N, {spec.embedding.dim})"
        )
    return not isinstance(taken.shape[0], int)


def _output_shapes(output: Output) -> list[list[int | None]]:
    """The shapes that the pooling rule can start from; None is any size."""
    tokens: list[int | None] = [None, None, output.dim]
    if output.pooling == "none":
        return [[None, output.dim], [None, output.dim, 1, 1]]
    return [tokens] if output.pooling == "cls" else [tokens, [None, output.dim, None, None]]


def _fits(actual: list[int | str | None], expected: list[int | None]) -> bool:
    """Whether a network's shape, with names for its free axes, can be the expected one."""
    return len(actual) == len(expected) and all(
        a == e or e is None or not isinstance(a, int) for a, e in zip(actual, expected, strict=True)
    )
