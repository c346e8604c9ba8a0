"""The parsers of untrusted bytes: each accepts its input or raises its own error.

Any other exception is a finding.
"""

from __future__ import annotations

import base64
import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from functions.index.events import parse_message
from likeness.errors import ImageError, InvalidRequest, ModelMismatch
from likeness.features import ImageFeatures
from likeness.images import decode
from likeness.model import load_spec
from likeness.proof.verdicts import load_calibration
from likeness.query_tokens import decode_query_token, encode_query_token
from likeness.rerank.profiles import Profile
from likeness.rerank.ranker import Ranker
from likeness.settings import Limits
from tests.image_features import made, unit
from tests.pictures import encoded, picture

ROOT = Path(__file__).parents[1]
# Small, so that a mutated header cannot slow a run down.
LIMITS = Limits(max_bytes=1 << 20, max_pixels=1 << 20)
SPEC = load_spec(ROOT / "layers" / "model")
RANKER = Ranker(SPEC, load_calibration(ROOT / "layers" / "model", SPEC.fingerprint))


def decoder(data: bytes) -> None:
    try:
        image, info = decode(data, LIMITS, 64)
    except ImageError:
        return
    assert image.mode == "RGB"
    assert 0 < info.width * info.height <= LIMITS.max_pixels
    np.asarray(image)


def events(data: bytes) -> None:
    try:
        hints = parse_message(data.decode("utf-8", "surrogatepass"))
    except (InvalidRequest, UnicodeDecodeError):
        return
    for hint in hints:
        assert hint.ref.bucket
        assert hint.ref.point_id
        assert hint.sequencer >= 0


def features(seed: int, **fields: Any) -> ImageFeatures:
    numbers = np.random.default_rng(seed).normal(size=SPEC.embedding.dim)
    return made(seed, vector=unit(numbers), **fields)


OTHERS = [features(1), features(3)]


def tokens(data: bytes) -> None:
    """The bytes inside a query token; its base64 is decoded by the standard library."""
    try:
        views = decode_query_token(base64.urlsafe_b64encode(data).decode(), SPEC)
    except (InvalidRequest, ModelMismatch):
        return
    for view in views:
        assert view.vector.shape == (SPEC.embedding.dim,)
        assert abs(float(np.linalg.norm(view.vector)) - 1) < 1e-3
    found = RANKER.rank(views, OTHERS, Profile.PRECISE, len(OTHERS), lambda: math.inf)
    assert np.isfinite(found.score).all()


def _pictures() -> Iterator[bytes]:
    """Each format, in each variant that Pillow decodes differently."""
    image = picture(1, 24, 16)
    grey, palette, clear = image.convert("L"), image.convert("P"), image.convert("RGBA")
    rotated = Image.Exif()
    rotated[274] = 6
    yield encoded(image, "JPEG", exif=rotated)
    yield encoded(image, "JPEG", progressive=True)
    yield encoded(image.convert("CMYK"), "JPEG")
    for one in (image, grey, palette, clear, grey.convert("I;16"), image.convert("1")):
        yield encoded(one, "PNG")
    yield encoded(palette, "PNG", transparency=3)
    yield encoded(image, "WEBP", lossless=True)
    yield encoded(clear, "WEBP")
    yield encoded(palette, "GIF", transparency=3)
    yield encoded(palette, "GIF", save_all=True, append_images=[grey.convert("P")])
    yield encoded(image, "BMP")
    yield encoded(palette, "BMP")


def _messages() -> Iterator[bytes]:
    """The message bodies of events/, and the events themselves."""
    for path in sorted((ROOT / "events").glob("*.json")):
        event = json.loads(path.read_text())
        for record in event.get("Records", []):
            if "body" in record:
                yield record["body"].encode()
        yield json.dumps(event).encode()


def _token_bytes() -> Iterator[bytes]:
    for views in (
        [features(1)],
        [features(1), features(2)],
        [features(1, local=None, colours=None)],
    ):
        text = encode_query_token(views, SPEC.fingerprint)
        yield base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "decoder": decoder,
    "events": events,
    "tokens": tokens,
}
_SEEDS: Mapping[str, Callable[[], Iterator[bytes]]] = {
    "decoder": _pictures,
    "events": _messages,
    "tokens": _token_bytes,
}


@functools.cache
def seeds(name: str) -> tuple[bytes, ...]:
    """Valid inputs that both fuzzers start from."""
    return tuple(_SEEDS[name]())
