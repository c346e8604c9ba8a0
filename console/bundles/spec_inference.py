"""Infers a bundle's model.json from its ONNX files: from their declared shapes and a test run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from likeness.embedding import Network, TensorInfo
from likeness.errors import ModelBundleError
from likeness.model import (
    NEWEST_PREPROCESSING,
    Input,
    ModelSpec,
    Normalise,
    Output,
    Resize,
    TextEncoder,
)

from .bundle_folder import IMAGE_FILE, TEXT_FILE, TOKENIZER_FILE
from .presets import Preset

Pooling = Literal["none", "cls", "mean", "gem"]
# Names that exporters give to an embedding, the most likely first.
_IMAGE_OUTPUTS = ("image_embeds", "image_embedding", "embedding", "embeddings", "pooler_output")
_TEXT_OUTPUTS = ("text_embeds", "text_embedding", "embedding", "embeddings", "pooler_output")
_INTEGERS = ("tensor(int64)", "tensor(int32)")


class Provenance(Struct, frozen=True):
    """What an ONNX file does not contain: what the model is called and where it comes from."""

    name: str
    version: str
    licence: str
    source: str


class Overrides(Struct, frozen=True):
    """What the user decides instead of what is inferred; None means inferred."""

    output: str | None = None
    pooling: Pooling | None = None
    size: int | None = None


class TextFiles(Struct, frozen=True):
    """The contents of a text encoder's two files."""

    network: bytes
    tokenizer: bytes


def infer_spec(
    provenance: Provenance,
    preset: Preset,
    overrides: Overrides,
    image: bytes,
    text: TextFiles | None = None,
) -> ModelSpec:
    """The contents of model.json. Raises ModelBundleError, which says what cannot be inferred."""
    network = _load(image, IMAGE_FILE)
    entry, outputs = _image_input(network, preset, overrides)
    files = {IMAGE_FILE: image}
    if text:
        files |= {TEXT_FILE: text.network, TOKENIZER_FILE: text.tokenizer}
    embedding = _embedding(outputs, overrides)
    short_side = round(min(entry.height, entry.width) * preset.margin)
    return ModelSpec(
        **msgspec.structs.asdict(provenance),
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        input=entry,
        resize=Resize(
            preset.rule,
            preset.filter,
            short_side if preset.rule == "crop" and entry.height == entry.width else None,
        ),
        normalise=preset.normalise if entry.dtype == "float32" else Normalise(),
        embedding=embedding,
        text=_text_encoder(text.network, preset, embedding.dim) if text else None,
        preprocessing=NEWEST_PREPROCESSING,
    )


def _load(data: bytes, name: str) -> Network:
    try:
        return Network(data, name)
    except ModelBundleError as error:
        if "external data" not in str(error).lower():
            raise
        raise ModelBundleError(
            "the weights are in a second file: merge both with onnx.save(onnx.load(FILE), NEW)"
        ) from error


def _image_input(
    network: Network, preset: Preset, overrides: Overrides
) -> tuple[Input, dict[str, NDArray[np.float32]]]:
    """The image input, and the network's outputs for one random image."""
    port = _image_port(network.inputs)
    dtype: Literal["float32", "uint8"] = "uint8" if port.type == "tensor(uint8)" else "float32"
    failure: ModelBundleError | None = None
    for layout in _layouts(port):
        height, width = _size(port, layout, preset, overrides)
        entry = Input(port.name, height, width, layout, dtype)
        try:
            return entry, network.run({port.name: _random_image(entry)})
        except ModelBundleError as error:
            failure = error
    raise failure or ModelBundleError(
        f"input {port.name} has shape {port.shape}, which is not an RGB image's"
    )


def _image_port(inputs: Sequence[TensorInfo]) -> TensorInfo:
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs)
        raise ModelBundleError(
            f"the network takes {names}: export the image network alone (vision_model.onnx), "
            "and pass a text encoder with --text"
        )
    [port] = inputs
    if port.type not in ("tensor(float)", "tensor(uint8)"):
        raise ModelBundleError(f"the network takes {port.type}: export it as float32 or uint8")
    if len(port.shape) != 4 or port.shape[0] not in (1, *_dynamic(port.shape[0])):
        raise ModelBundleError(
            f"input {port.name} has shape {port.shape}: export it with four axes, the first one "
            "dynamic or 1"
        )
    return port


def _dynamic(axis: int | str | None) -> tuple[str | None, ...]:
    """The axis if its size is not fixed, which ONNX shows as a name or None; else nothing."""
    return () if isinstance(axis, int) else (axis,)


def _layouts(port: TensorInfo) -> list[Literal["NCHW", "NHWC"]]:
    """Possible layouts: those whose channel axis is 3, else those whose channel axis is dynamic."""
    axes: dict[Literal["NCHW", "NHWC"], int | str | None] = {
        "NCHW": port.shape[1],
        "NHWC": port.shape[3],
    }
    fixed = [layout for layout, axis in axes.items() if axis == 3]
    return fixed or [layout for layout, axis in axes.items() if _dynamic(axis)]


def _size(port: TensorInfo, layout: str, preset: Preset, overrides: Overrides) -> tuple[int, int]:
    """Height and width: the network's if fixed, else the user's or the preset's."""
    axes = port.shape[2:4] if layout == "NCHW" else port.shape[1:3]
    default = overrides.size or preset.size
    height, width = (axis if isinstance(axis, int) else default for axis in axes)
    if overrides.size and (height, width) != (overrides.size, overrides.size):
        raise ModelBundleError(
            f"--size {overrides.size}: the network takes {height} x {width} only"
        )
    return height, width


def _random_image(entry: Input) -> NDArray[Any]:
    shape = (3, entry.height, entry.width)
    if entry.layout == "NHWC":
        shape = (entry.height, entry.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    return pixels if entry.dtype == "uint8" else (pixels / np.float32(127.5) - 1).astype(np.float32)


def _embedding(outputs: Mapping[str, NDArray[np.float32]], overrides: Overrides) -> Output:
    name = overrides.output or _embedding_name(outputs, _IMAGE_OUTPUTS)
    if name not in outputs:
        raise ModelBundleError(f"there is no output {name}, but {_described(outputs)}")
    shape = outputs[name].shape
    if len(shape) == 2 or shape[2:] == (1, 1):
        if overrides.pooling not in (None, "none"):
            raise ModelBundleError(f"output {name} {shape} is one vector: there is nothing to pool")
        return Output(name, shape[1])
    if len(shape) == 3:
        return _token_output(name, shape, overrides.pooling)
    if len(shape) == 4 and shape[1] == shape[2] != shape[3]:
        raise ModelBundleError(
            f"output {name} has shape {shape}: a feature map must have its channels first"
        )
    if len(shape) == 4:
        return Output(name, shape[1], overrides.pooling or "mean")
    raise ModelBundleError(
        f"output {name} has shape {shape}: neither a vector, nor tokens, nor a feature map"
    )


def _token_output(name: str, shape: tuple[int, ...], pooling: Pooling | None) -> Output:
    """Tokens are a square grid of patches, preceded by any class token and registers."""
    _, count, dim = shape
    leading = count - math.isqrt(count) ** 2
    chosen = pooling or ("cls" if leading else "mean")
    return Output(name, dim, chosen, leading if chosen in ("mean", "gem") else 0)


def _embedding_name(outputs: Mapping[str, NDArray[np.float32]], usual_names: Sequence[str]) -> str:
    """The only output, or the one with an embedding's usual name, or the only token output."""
    if len(outputs) == 1:
        return next(iter(outputs))
    tokens = [name for name, value in outputs.items() if value.ndim == 3]
    for name in usual_names:
        if name in outputs:
            return name
    if len(tokens) == 1:
        return tokens[0]
    raise ModelBundleError(
        f"cannot tell which output is the embedding; choose with --output: {_described(outputs)}"
    )


def _described(outputs: Mapping[str, NDArray[np.float32]]) -> str:
    described = ", ".join(f"{name} {value.shape}" for name, value in outputs.items())
    return described or "no float outputs"


def _text_encoder(network: bytes, preset: Preset, dim: int) -> TextEncoder:
    if preset.text is None:
        raise ModelBundleError("--text: networks of this preset have no text encoder")
    text = _load(network, TEXT_FILE)
    tokens, mask = _token_inputs(text.inputs)
    fixed = tokens.shape[-1]
    length = fixed if isinstance(fixed, int) else preset.text.length
    feed = {
        port.name: np.ones((1, length), np.int32 if port.type == "tensor(int32)" else np.int64)
        for port in (tokens, mask)
        if port
    }
    vectors = {name: value for name, value in text.run(feed).items() if value.shape == (1, dim)}
    if not vectors:
        raise ModelBundleError(f"--text: no output has {dim} dimensions, as the image network has")
    output = _embedding_name(vectors, _TEXT_OUTPUTS)
    return TextEncoder(
        length,
        TEXT_FILE,
        TOKENIZER_FILE,
        tokens.name,
        mask.name if mask else None,
        output,
        preset.text.pad,
    )


def _token_inputs(inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, TensorInfo | None]:
    masks = [port for port in inputs if "mask" in port.name]
    tokens = [port for port in inputs if port not in masks and port.type in _INTEGERS]
    if len(tokens) != 1 or len(masks) > 1 or len(inputs) != len(tokens) + len(masks):
        names = ", ".join(port.name for port in inputs)
        raise ModelBundleError(
            f"--text: the network takes {names}, not token ids and at most an attention mask"
        )
    return tokens[0], masks[0] if masks else None
