"""Known model bundles: what `likeness model list` shows and `likeness model pull` fetches.

Sizes and files are those of the repositories' own pages. Quality figures are from the models' own
papers and cards; none was measured here. Only weights licensed for commercial use are listed:
MobileCLIP, MobileCLIP2 and DFN are for research only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct

PresetName = Literal["clip", "siglip", "dinov2", "imagenet"]

_CONSOLE = Path(__file__).resolve().parents[1]
# In a wheel the bundled model is inside the package, in the repository in layers/.
BUNDLED_MODEL = next(
    folder
    for folder in (_CONSOLE / "model", _CONSOLE.parent / "layers" / "model")
    if folder.is_dir()
)


class Source(Struct, frozen=True):
    """One file of a repository on the hub. A revision that is a commit never changes."""

    repository: str
    revision: str
    file: str

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}/{self.file}"


class KnownBundle(Struct, frozen=True):
    """One published model that `likeness model pull` can make a bundle of.

    `files` are the image network and, if the model has one, the text encoder and its tokenizer.
    `mb` is the size of the image network in the bundle, after quantisation if `quantise` is set.
    If the hub has no ONNX file, `alternative` says what to do instead.
    """

    name: str
    licence: str
    dim: int
    mb: float
    good_for: str
    figures: str
    preset: PresetName
    files: tuple[Source, ...] = ()
    quantise: bool = False
    alternative: str = ""

    @property
    def has_text_encoder(self) -> bool:
        return len(self.files) > 1


def _files(repository: str, revision: str, *files: str) -> tuple[Source, ...]:
    return tuple(Source(repository, revision, file) for file in files)


_CLIP = _files(
    "immich-app/ViT-B-32__laion2b-s34b-b79k",
    "6e4b2ebb0ec5f1726a919aec359fad92cd3ec021",
    *("visual/model.onnx", "textual/model.onnx", "textual/tokenizer.json"),
)
_SIGLIP = _files(
    "Xenova/siglip-base-patch16-224",
    "65a4a3071a821054207f0a80eaa35fb2ed6d46f0",
    *("onnx/vision_model_quantized.onnx", "onnx/text_model_quantized.onnx", "tokenizer.json"),
)
_FASHION = _files(
    "Marqo/marqo-fashionSigLIP",
    "e5619578fd528afa0bf88d8fae37748336a57fa2",
    *("onnx/vision_model_quantized.onnx", "onnx/text_model_quantized.onnx", "tokenizer.json"),
)
_DINOV2 = _files("onnx-community/dinov2-small", "main", "onnx/model_int8.onnx")

KNOWN_BUNDLES = (
    KnownBundle(
        name="clip-vit-b32-laion2b",
        licence="MIT",
        dim=512,
        mb=88,
        good_for="anything, and search by text",
        figures="SOP R@1 56.2 (OpenAI's B/32: 48.6)",
        preset="clip",
        files=_CLIP,
        quantise=True,
    ),
    KnownBundle(
        name="siglip-b16-224",
        licence="Apache-2.0",
        dim=768,
        mb=99.5,
        good_for="products and brands",
        figures="SOP R@1 59.2, Cars 91.3",
        preset="siglip",
        files=_SIGLIP,
    ),
    KnownBundle(
        name="dinov2-small",
        licence="Apache-2.0",
        dim=384,
        mb=24.4,
        good_for="instances: the same object again, landmarks",
        figures="ROxford-M 67.2",
        preset="dinov2",
        files=_DINOV2,
    ),
    KnownBundle(
        name="fashion-siglip",
        licence="Apache-2.0",
        dim=768,
        mb=100,
        good_for="fashion",
        figures="",
        preset="siglip",
        files=_FASHION,
    ),
    KnownBundle(
        name="sscd-disc-mixup",
        licence="MIT",
        dim=512,
        mb=25,
        good_for="copies",
        figures="DISC µAP 61.4, 72.4 with score normalisation",
        preset="imagenet",
        alternative=(
            "facebookresearch/sscd-copy-detection publishes it as TorchScript: export that to "
            "ONNX, then `likeness model import sscd.onnx --preset imagenet --size 288`"
        ),
    ),
)
