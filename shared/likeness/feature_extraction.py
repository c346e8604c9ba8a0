"""An image, or a part of it → its features."""

from __future__ import annotations

from PIL import Image

from likeness.descriptor_packing import pack
from likeness.embedding import Embedder, check_vector
from likeness.features import ImageFeatures
from likeness.records import WHOLE, Box
from likeness.stopwatch import StageTimer, untimed


def extract_features(
    embedder: Embedder,
    image: Image.Image,
    box: Box = WHOLE,
    sha256: str | None = None,
    stage: StageTimer = untimed,
) -> ImageFeatures:
    """The features of a part of an upright RGB image, by one run of the network.

    `stage` times the stages decode and embed. Raises NoDetail for a part of one flat colour.
    """
    with stage("decode"):
        prepared = embedder.preprocess(image, box)
    with stage("embed"):
        found = embedder.extract([prepared.tensor])
    check_vector(found.vectors[0])
    local = None if found.local is None else found.local[0]
    salience = None if found.salience is None else found.salience[0]
    return ImageFeatures(
        found.vectors[0],
        local,
        None if local is None else pack(local, salience),
        None if found.patches is None else found.patches[0],
        prepared.colours.tobytes(),
        sha256,
        box,
        prepared.seen,
    )
