"""Any ONNX file → a bundle: what it takes and gives is found out by looking and by running it."""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from likeness.embedding import Network, TensorInfo, pool, unit_rows
from likeness.errors import ModelBundleError
from likeness.model import (
    MANIFEST,
    Input,
    ModelSpec,
    Normalise,
    Output,
    Resize,
    TextEncoder,
)
from likeness.preprocessing import tensor
from likeness.records import Vector

from .registry import PresetName

IMAGE_FILE, TEXT_FILE, TOKENIZER_FILE = "image.onnx", "text.onnx", "tokenizer.json"
Pooling = Literal["none", "cls", "mean", "gem"]
# What exporters call an embedding, the likeliest first.
_IMAGE_OUTPUTS = ("image_embeds", "image_embedding", "embedding", "embeddings", "pooler_output")
_TEXT_OUTPUTS = ("text_embeds", "text_embedding", "embedding", "embeddings", "pooler_output")
_INTEGERS = ("tensor(int64)", "tensor(int32)")


class Words(Struct, frozen=True):
    """How a family's text encoders want their tokens: how many, and what fills up short texts."""

    length: int
    pad: int


class Preset(Struct, frozen=True):
    """How a family of networks wants its pictures, where the file does not tell.

    `margin`: the short side is scaled to so much of the input before the centre is cut out.
    """

    normalise: Normalise
    rule: Literal["crop", "squash"] = "crop"
    filter: Literal["bilinear", "bicubic"] = "bicubic"
    size: int = 224
    margin: float = 1.0
    words: Words | None = None


_IMAGENET = Normalise(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CLIP = Normalise(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)
# As the families' own preprocessors do it: CLIP's `_transform`, Hugging Face's
# preprocessor_config.json of SigLIP and DINOv2, torchvision's ImageClassification.
PRESETS: Mapping[PresetName, Preset] = {
    "clip": Preset(_CLIP, words=Words(length=77, pad=0)),
    "siglip": Preset(
        Normalise(mean=(0.5,) * 3, std=(0.5,) * 3), rule="squash", words=Words(length=64, pad=1)
    ),
    "dinov2": Preset(_IMAGENET, margin=256 / 224),
    "imagenet": Preset(_IMAGENET, filter="bilinear", margin=256 / 224),
}


class About(Struct, frozen=True):
    """What no file tells of itself."""

    name: str
    version: str
    licence: str
    source: str


class Choice(Struct, frozen=True):
    """What the user decides where the network leaves it open; None: what it suggests."""

    output: str | None = None
    pooling: Pooling | None = None
    size: int | None = None


class Text(Struct, frozen=True):
    """The files of a text encoder."""

    network: bytes
    tokenizer: bytes


def spec_of(
    about: About, preset: Preset, choice: Choice, image: bytes, text: Text | None = None
) -> ModelSpec:
    """The model.json of an ONNX file. Raises ModelBundleError that says what cannot be told."""
    network = _opened(image, IMAGE_FILE)
    entry, raw = _image_input(network, preset, choice)
    files = {IMAGE_FILE: image}
    if text:
        files |= {TEXT_FILE: text.network, TOKENIZER_FILE: text.tokenizer}
    embedding = _embedding(raw, choice)
    short_side = round(min(entry.height, entry.width) * preset.margin)
    return ModelSpec(
        **msgspec.structs.asdict(about),
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        input=entry,
        resize=Resize(
            preset.rule,
            preset.filter,
            short_side if preset.rule == "crop" and entry.height == entry.width else None,
        ),
        normalise=preset.normalise if entry.dtype == "float32" else Normalise(),
        embedding=embedding,
        text=_tower(text.network, preset, embedding.dim) if text else None,
    )


def _opened(data: bytes, name: str) -> Network:
    try:
        return Network(data, name)
    except ModelBundleError as error:
        if "external data" not in str(error).lower():
            raise
        raise ModelBundleError(
            "its weights are in a second file: make one of both, as onnx.save(onnx.load(FILE), NEW)"
            " does"
        ) from error


def _image_input(
    network: Network, preset: Preset, choice: Choice
) -> tuple[Input, dict[str, NDArray[np.float32]]]:
    """The image input, and what the network gives for one random picture."""
    port = _only_image(network.inputs)
    dtype: Literal["float32", "uint8"] = "uint8" if port.type == "tensor(uint8)" else "float32"
    fault: ModelBundleError | None = None
    for layout in _layouts(port):
        height, width = _size(port, layout, preset, choice)
        entry = Input(port.name, height, width, layout, dtype)
        try:
            return entry, network.run({port.name: _noise(entry)})
        except ModelBundleError as error:
            fault = error
    raise fault or ModelBundleError(f"input {port.name} is {port.shape}: that is no RGB picture")


def _only_image(inputs: Sequence[TensorInfo]) -> TensorInfo:
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs)
        raise ModelBundleError(
            f"the network takes {names}: export the image network alone (vision_model.onnx), "
            "a text encoder goes into --text"
        )
    [port] = inputs
    if port.type not in ("tensor(float)", "tensor(uint8)"):
        raise ModelBundleError(f"the network takes {port.type}: export it as float32 or uint8")
    if len(port.shape) != 4 or port.shape[0] not in (1, *_free(port.shape[0])):
        raise ModelBundleError(
            f"input {port.name} is {port.shape}: export it with four axes, the first one free or 1"
        )
    return port


def _free(axis: int | str | None) -> tuple[str | None, ...]:
    return () if isinstance(axis, int) else (axis,)


def _layouts(port: TensorInfo) -> list[Literal["NCHW", "NHWC"]]:
    """Where the three channels can be: where the shape says 3, else where it says nothing."""
    axes: dict[Literal["NCHW", "NHWC"], int | str | None] = {
        "NCHW": port.shape[1],
        "NHWC": port.shape[3],
    }
    said = [layout for layout, axis in axes.items() if axis == 3]
    return said or [layout for layout, axis in axes.items() if _free(axis)]


def _size(port: TensorInfo, layout: str, preset: Preset, choice: Choice) -> tuple[int, int]:
    """Height and width: as the network fixes them, else as the user or the preset says."""
    axes = port.shape[2:4] if layout == "NCHW" else port.shape[1:3]
    wanted = choice.size or preset.size
    height, width = (axis if isinstance(axis, int) else wanted for axis in axes)
    if choice.size and (height, width) != (choice.size, choice.size):
        raise ModelBundleError(f"--size {choice.size}: the network takes {height} x {width} only")
    return height, width


def _noise(entry: Input) -> NDArray[Any]:
    shape = (3, entry.height, entry.width)
    if entry.layout == "NHWC":
        shape = (entry.height, entry.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    return pixels if entry.dtype == "uint8" else (pixels / np.float32(127.5) - 1).astype(np.float32)


def _embedding(raw: Mapping[str, NDArray[np.float32]], choice: Choice) -> Output:
    name = choice.output or _named(raw, _IMAGE_OUTPUTS)
    if name not in raw:
        raise ModelBundleError(f"there is no output {name}, but {_listed(raw)}")
    shape = raw[name].shape
    if len(shape) == 2 or shape[2:] == (1, 1):
        if choice.pooling not in (None, "none"):
            raise ModelBundleError(f"{name} {shape} is one vector: there is nothing to pool")
        return Output(name, shape[1])
    if len(shape) == 3:
        return _token_output(name, shape, choice.pooling)
    if len(shape) == 4 and shape[1] == shape[2] != shape[3]:
        raise ModelBundleError(f"output {name} is {shape}: a map must have its channels first")
    if len(shape) == 4:
        return Output(name, shape[1], choice.pooling or "mean")
    raise ModelBundleError(f"output {name} is {shape}: neither a vector, nor tokens, nor a map")


def _token_output(name: str, shape: tuple[int, ...], pooling: Pooling | None) -> Output:
    """Tokens are a square of patches, and what leads them: a class token, registers."""
    _, count, dim = shape
    leading = count - math.isqrt(count) ** 2
    chosen = pooling or ("cls" if leading else "mean")
    return Output(name, dim, chosen, leading if chosen in ("mean", "gem") else 0)


def _named(raw: Mapping[str, NDArray[np.float32]], names: Sequence[str]) -> str:
    """The only output, or the one that is called as embeddings are, or the only token output."""
    if len(raw) == 1:
        return next(iter(raw))
    tokens = [name for name, value in raw.items() if value.ndim == 3]
    for name in names:
        if name in raw:
            return name
    if len(tokens) == 1:
        return tokens[0]
    raise ModelBundleError(f"which output is the embedding? --output names it: {_listed(raw)}")


def _listed(raw: Mapping[str, NDArray[np.float32]]) -> str:
    return ", ".join(f"{name} {value.shape}" for name, value in raw.items()) or "none of floats"


def _tower(network: bytes, preset: Preset, dim: int) -> TextEncoder:
    if preset.words is None:
        raise ModelBundleError("--text: networks of this preset share no space with words")
    text = _opened(network, TEXT_FILE)
    tokens, mask = _token_inputs(text.inputs)
    fixed = tokens.shape[-1]
    length = fixed if isinstance(fixed, int) else preset.words.length
    feed = {
        port.name: np.ones((1, length), np.int32 if port.type == "tensor(int32)" else np.int64)
        for port in (tokens, mask)
        if port
    }
    vectors = {name: value for name, value in text.run(feed).items() if value.shape == (1, dim)}
    if not vectors:
        raise ModelBundleError(f"--text: no output has the {dim} dimensions of the image network")
    output = _named(vectors, _TEXT_OUTPUTS)
    return TextEncoder(
        length,
        TEXT_FILE,
        TOKENIZER_FILE,
        tokens.name,
        mask.name if mask else None,
        output,
        preset.words.pad,
    )


def _token_inputs(inputs: Sequence[TensorInfo]) -> tuple[TensorInfo, TensorInfo | None]:
    masks = [port for port in inputs if "mask" in port.name]
    tokens = [port for port in inputs if port not in masks and port.type in _INTEGERS]
    if len(tokens) != 1 or len(masks) > 1 or len(inputs) != len(tokens) + len(masks):
        names = ", ".join(port.name for port in inputs)
        raise ModelBundleError(f"--text: takes {names}, not token numbers and at most a mask")
    return tokens[0], masks[0] if masks else None


def check_place(target: Path, replace: bool) -> None:
    """Raises FileExistsError unless a bundle can be written there. Only what holds what `write`
    writes, and nothing else, is replaced.
    """
    if not target.exists():
        return
    names = {path.name for path in target.iterdir()} if target.is_dir() else set()
    if MANIFEST not in names:
        raise FileExistsError(f"{target} is there already, and is no bundle: take another name")
    if foreign := sorted(names - {MANIFEST, IMAGE_FILE, TEXT_FILE, TOKENIZER_FILE}):
        raise FileExistsError(
            f"{target} is there already, and {foreign[0]} in it would be lost: move that away, or "
            "take another name"
        )
    if not replace:
        raise FileExistsError(f"{target} is there already: take another name, or --force")


def write(
    target: Path, spec: ModelSpec, files: Mapping[str, bytes], check: Callable[[Path], None]
) -> None:
    """Make a bundle folder, in place of one that is there; or change nothing.

    `check` is given the finished folder and raises where it is no good.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for name, data in files.items():
            (new / name).write_bytes(data)
        manifest = msgspec.json.format(msgspec.json.encode(spec, order="deterministic"), indent=2)
        (new / MANIFEST).write_bytes(manifest + b"\n")
        check(new)
        put_in_place(new, target, mode=0o755)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def put_in_place(new: Path, target: Path, mode: int) -> None:
    """Make a finished folder beside `target` be it; what was there goes only after that."""
    old = new.with_name(f"{new.name}.old")
    new.chmod(mode)
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def agreement(spec: ModelSpec, one: bytes, other: bytes, pictures: Sequence[Any]) -> float:
    """The lowest cosine between two networks' vectors of the same upright RGB pictures."""
    vectors = [_vectors(spec, network, pictures) for network in (one, other)]
    return float((vectors[0] * vectors[1]).sum(axis=1).min())


def _vectors(spec: ModelSpec, data: bytes, pictures: Sequence[Any]) -> Vector:
    network = Network(data, IMAGE_FILE)
    runs = (network.run({spec.input.name: tensor(picture, spec)}) for picture in pictures)
    raw = np.concatenate([run[spec.embedding.name] for run in runs])
    return unit_rows(pool(raw, spec.embedding))
