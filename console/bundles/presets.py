"""How each family of networks expects its images and texts, where the ONNX file does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from likeness.model import Normalise

from .registry import PresetName


class TextInput(Struct, frozen=True):
    """What a family's text encoders take: the number of tokens, and the padding token."""

    length: int
    pad: int


class Preset(Struct, frozen=True):
    """What a family's image networks take.

    The short side is scaled to `margin` times the input size before the centre is cropped.
    `text` is None if the family has no text encoders.
    """

    normalise: Normalise
    rule: Literal["crop", "squash"] = "crop"
    filter: Literal["bilinear", "bicubic"] = "bicubic"
    size: int = 224
    margin: float = 1.0
    text: TextInput | None = None


_IMAGENET = Normalise(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_CLIP = Normalise(
    mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
)
# As in the families' own preprocessors: CLIP's `_transform`, Hugging Face's
# preprocessor_config.json of SigLIP and DINOv2, torchvision's ImageClassification.
PRESETS: Mapping[PresetName, Preset] = {
    "clip": Preset(_CLIP, text=TextInput(length=77, pad=0)),
    "siglip": Preset(
        Normalise(mean=(0.5,) * 3, std=(0.5,) * 3), rule="squash", text=TextInput(length=64, pad=1)
    ),
    "dinov2": Preset(_IMAGENET, margin=256 / 224),
    "imagenet": Preset(_IMAGENET, filter="bilinear", margin=256 / 224),
}
