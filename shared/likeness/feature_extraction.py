"""A picture, or a part of it, → all that is compared of it."""

from __future__ import annotations

from PIL import Image

from likeness.descriptor_packing import pack
from likeness.embedding import Embedder, check_vector
from likeness.features import ImageFeatures
from likeness.preprocessing import cropped, input_box
from likeness.records import WHOLE, Box
from likeness.stopwatch import Stage, untimed


def extract_features(
    embedder: Embedder,
    picture: Image.Image,
    box: Box = WHOLE,
    sha256: str | None = None,
    stage: Stage = untimed,
) -> ImageFeatures:
    """A part of an upright RGB picture, by one run of the network.

    `stage` is entered for what is timed: decode, embed. Raises NoDetail for a part without any.
    """
    with stage("decode"):
        part = picture if box == WHOLE else cropped(picture, box)
        prepared = embedder.preprocess(part)
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
        input_box(part.size, embedder.spec),
    )
