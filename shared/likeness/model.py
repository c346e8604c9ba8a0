"""Model bundles: a folder with model.json and the files it names.

No code depends on a model's name: model.json declares layout, resize rule, normalisation, output
and pooling, so that exports of CLIP, SigLIP, DINOv2 or ResNet work unchanged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from likeness.errors import ModelBundleError

MANIFEST = "model.json"
GOLDEN = "golden.json"
# The known versions of how a file becomes a tensor. A change to images.py or preprocessing.py that
# gives the same file another tensor is a new version; the older ones stay as they are, because
# indexes were made with them (decision 0110).
PREPROCESSING = (1, 2)
NEWEST_PREPROCESSING = PREPROCESSING[-1]
# For the embedding and local descriptors of one view in a query_id. A query_id has at most 65,536
# characters, 49,152 bytes, for two views; 1,000 of each view's bytes are for colour layout, sha256,
# boxes and lengths.
_MAX_VIEW_BYTES = 23_576


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The network's input tensor: NCHW or NHWC, N images of height × width pixels."""

    name: str
    height: int
    width: int
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: Literal["float32", "uint8"] = "float32"
    channels: Literal["RGB", "BGR"] = "RGB"


class Resize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an image is resized to height × width pixels.

    crop: the short side is scaled to `short_side` (default: just enough), then a centre crop.
    squash: each side is scaled separately, without keeping the aspect ratio. pad: the image is
    fitted into the top left corner, the rest is `fill` (as in YOLOX, demo/onnx_inference.py).
    """

    rule: Literal["crop", "squash", "pad"]
    filter: Literal["bilinear", "bicubic", "lanczos", "box"] = "bicubic"
    short_side: int | None = None
    fill: Annotated[int, msgspec.Meta(ge=0, le=255)] = 114


class Normalise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """(pixel · scale − mean) / std per channel, in the order of `Input.channels`."""

    scale: float = 1 / 255
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which output is the embedding, and how it is pooled into one vector of `dim` values.

    none: it is already (N, dim). cls: the first token of (N, T, dim). mean and gem (generalised
    mean, p = `gem_p`; Radenović et al., arXiv 1711.02512, eq. 2): over the tokens of (N, T, dim)
    without the first `skip_tokens`, or over the map (N, dim, H, W).
    """

    name: str
    dim: int
    pooling: Literal["none", "cls", "mean", "gem"] = "none"
    skip_tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    gem_p: Annotated[float, msgspec.Meta(gt=0)] = 3.0


class Descriptors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A map of local descriptors: output (N, side², dim), unit rows, in row-major order.

    `salience`: the output (N, side²) that says how well each descriptor can be found again. A
    `local` map is stored packed: `side` is at most 16, `dim` is even, and it must fit a query_id.
    """

    name: str
    side: Annotated[int, msgspec.Meta(ge=1)]
    dim: Annotated[int, msgspec.Meta(ge=1)]
    salience: str | None = None


class TextEncoder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The network that embeds text in the images' space: token ids (N, length) → (N, dim).

    `tokenizer` is a file of Hugging Face's `tokenizers`. Texts are padded with `pad` or truncated
    to `length` tokens. `mask`: the input for the attention mask, where there is one.
    """

    length: Annotated[int, msgspec.Meta(ge=1)]
    file: str = "text.onnx"
    tokenizer: str = "tokenizer.json"
    input: str = "input_ids"
    mask: str | None = None
    output: str = "text_embeds"
    pad: Annotated[int, msgspec.Meta(ge=0)] = 0


class Adapter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The embedding is that of the model `base`, a fingerprint, mapped linearly by the network.

    `file` holds the same map, for vectors of `base` that are stored.
    """

    base: str
    file: str


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """model.json. `files` maps each file's name to its sha256.

    `patches` is a coarse, semantic map for late interaction, `local` a fine one for geometric
    verification. Both maps and the text encoder are optional. `preprocessing` is the version of how
    a file becomes the network's input, one of PREPROCESSING. `adapter`: what the bundle was adapted
    from, where it was.
    """

    name: str
    version: str
    licence: str
    source: str
    files: Mapping[str, str]
    input: Input
    resize: Resize
    normalise: Normalise
    embedding: Output
    image_file: str = "image.onnx"
    patches: Descriptors | None = None
    local: Descriptors | None = None
    text: TextEncoder | None = None
    preprocessing: int = 1
    adapter: Adapter | None = None

    @property
    def fingerprint(self) -> str:
        """16 hex digits, a hash of the weights and of all settings that affect vectors."""
        decisive = (
            self.preprocessing,
            self.files[self.image_file],
            self.input,
            self.resize,
            self.normalise,
            self.embedding,
            self.patches,
            self.local,
        )
        encoded = msgspec.json.encode(decisive, order="deterministic")
        return hashlib.sha256(encoded).hexdigest()[:16]


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image file and its unit vector (dim), computed when the bundle was packaged.

    Deployed code must compute the same vector.
    """

    model: str
    image: bytes
    vector: tuple[float, ...]


def load_golden(folder: Path, spec: ModelSpec) -> Golden:
    """The bundle's golden.json. Raises ModelBundleError if it is missing or of another model."""
    try:
        golden = msgspec.json.decode(_read(folder, GOLDEN), type=Golden)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelBundleError(f"{GOLDEN}: {error}") from error
    if (golden.model, len(golden.vector)) != (spec.fingerprint, spec.embedding.dim):
        raise ModelBundleError(
            f"{GOLDEN} is of model {golden.model} with {len(golden.vector)} dimensions, the bundle "
            f"has {spec.fingerprint} with {spec.embedding.dim}: run `likeness model package`"
        )
    return golden


def load_spec(folder: Path) -> ModelSpec:
    """Read and validate a bundle's model.json. Raises ModelBundleError naming the field."""
    spec = _decode(_read(folder, MANIFEST))
    needed = [spec.image_file, *([spec.text.file, spec.text.tokenizer] if spec.text else [])]
    needed += [spec.adapter.file] if spec.adapter else []
    if missing := [name for name in needed if name not in spec.files]:
        raise ModelBundleError(f"{MANIFEST}: files does not list {', '.join(missing)}")
    if unsafe := [name for name in spec.files if Path(name).name != name]:
        raise ModelBundleError(f"{MANIFEST}: {unsafe[0]!r} is not a plain file name")
    return spec


def read_file(folder: Path, spec: ModelSpec, name: str) -> bytes:
    """The bytes of one of the bundle's files.

    Raises ModelBundleError where it is missing or its sha256 differs from the manifest's.
    """
    data = _read(folder, name)
    actual, sha256 = hashlib.sha256(data).hexdigest(), spec.files[name]
    if actual != sha256:
        raise ModelBundleError(
            f"{folder / name} is damaged or was replaced: its sha256 is {actual[:12]}..., "
            f"{MANIFEST} says {sha256[:12]}..."
        )
    return data


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: the name contains a null byte
        reason = getattr(error, "strerror", None) or error
        raise ModelBundleError(f"cannot read {folder / name}: {reason}") from error


def _decode(manifest: bytes) -> ModelSpec:
    try:
        spec = msgspec.json.decode(manifest, type=ModelSpec)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelBundleError(f"{MANIFEST}: {error}") from error
    if spec.preprocessing not in PREPROCESSING:
        raise ModelBundleError(
            f"{MANIFEST}: preprocessing {spec.preprocessing} is unknown; this version of Likeness "
            f"knows {' and '.join(map(str, PREPROCESSING))}"
        )
    if min(spec.input.height, spec.input.width, spec.embedding.dim) < 1:
        raise ModelBundleError(f"{MANIFEST}: height, width and dim must be above zero")
    if 0.0 in spec.normalise.std:
        raise ModelBundleError(f"{MANIFEST}: normalise.std contains a zero")
    short_side = spec.resize.short_side
    if short_side is not None and short_side < max(spec.input.height, spec.input.width):
        raise ModelBundleError(f"{MANIFEST}: resize.short_side is smaller than the input")
    if local := spec.local:
        if local.side > 16:
            raise ModelBundleError(f"{MANIFEST}: local.side is above 16: a cell number is one byte")
        if local.dim % 2:
            raise ModelBundleError(f"{MANIFEST}: local.dim is odd: a byte holds two values")
        view_bytes = 2 * spec.embedding.dim + local.side**2 * (1 + local.dim // 2)
        if view_bytes > _MAX_VIEW_BYTES:
            raise ModelBundleError(
                f"{MANIFEST}: embedding and local need {view_bytes:,} bytes, 2 · dim + side² · "
                f"(1 + local.dim / 2); maximum is {_MAX_VIEW_BYTES:,}, to fit a query_id"
            )
    return spec
