"""A picture, or parts of it, → all that is compared of it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from likeness.embedding import Embedder, check_vector
from likeness.preprocessing import cropped, seen
from likeness.records import WHOLE, Box
from likeness.rerank.appearance import Appearance
from likeness.rerank.packing import pack
from likeness.stopwatch import Stage, untimed


def appearances(
    embedder: Embedder,
    picture: Image.Image,
    boxes: Sequence[Box] = (WHOLE,),
    sha256: str | None = None,
    stage: Stage = untimed,
) -> list[Appearance]:
    """Parts of an upright RGB picture, in one run of the network.

    `stage` is entered for what is timed: decode, embed. Raises NoDetail for a part without any.
    """
    with stage("decode"):
        parts = [picture if box == WHOLE else cropped(picture, box) for box in boxes]
        prepared = [embedder.look(part) for part in parts]
    with stage("embed"):
        found = embedder.describe([item.tensor for item in prepared])
    looks = []
    for row, (box, part, item) in enumerate(zip(boxes, parts, prepared, strict=True)):
        check_vector(found.vectors[row])
        local = None if found.local is None else found.local[row]
        salience = None if found.salience is None else found.salience[row]
        looks.append(
            Appearance(
                found.vectors[row],
                local,
                None if local is None else pack(local, salience),
                None if found.patches is None else found.patches[row],
                item.colours.tobytes(),
                sha256,
                box,
                seen(part.size, embedder.spec),
            )
        )
    return looks
