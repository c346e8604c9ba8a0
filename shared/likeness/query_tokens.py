"""The token that repeats a query, so that the service need not store anything.

An answer gives it as `query_id`. It holds the features of the query's views, 10 kB of text for
each: a caller who sends it back searches again without an upload and without running the network.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from likeness.descriptor_packing import unpack
from likeness.errors import InvalidRequest, ModelMismatch
from likeness.features import ImageFeatures, packed_descriptors
from likeness.model import ModelSpec
from likeness.records import Box

_MAX_LENGTH = 65_536
_FORMAT = 1


class _View(msgspec.Struct, array_like=True, frozen=True):
    vector: bytes
    packed: bytes | None
    colours: bytes | None
    sha256: str | None
    box: Box
    seen: Box


class _Token(msgspec.Struct, array_like=True, frozen=True):
    format: int
    model: str
    views: Annotated[tuple[_View, ...], msgspec.Meta(min_length=1, max_length=2)]


def encode_query_token(views: Sequence[ImageFeatures], model: str) -> str:
    """One or two views of a query, as text."""
    packed_views = tuple(
        _View(
            view.vector.astype(np.float16).tobytes(),
            packed_descriptors(view) or None,
            view.colours,
            view.sha256,
            view.box,
            view.seen,
        )
        for view in views
    )
    encoded = msgspec.msgpack.encode(_Token(_FORMAT, model, packed_views))
    return base64.urlsafe_b64encode(encoded).decode().rstrip("=")


def decode_query_token(text: str, spec: ModelSpec) -> list[ImageFeatures]:
    """Raises InvalidRequest for a malformed token, ModelMismatch for another model's."""
    try:
        if len(text) > _MAX_LENGTH:
            raise ValueError(text)
        data = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
        token = msgspec.msgpack.decode(data, type=_Token)
        if token.format != _FORMAT:
            raise ValueError(token.format)
        if token.model != spec.fingerprint:
            raise ModelMismatch(
                f"query_id is of model {token.model[:16]!r}, but this index is of "
                f"{spec.fingerprint}: send the image again"
            )
        return [_restore(view, spec) for view in token.views]
    except (binascii.Error, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRequest("query_id: not a token from an answer") from error


def _restore(view: _View, spec: ModelSpec) -> ImageFeatures:
    """Raises ValueError for an impossible view: a caller may have changed any byte."""
    vector = np.frombuffer(view.vector, np.float16).astype(np.float32)
    if len(vector) != spec.embedding.dim or not np.isfinite(vector).all() or not vector.any():
        raise ValueError(len(vector))
    # with padding the network sees more than the image: of one pixel, up to the input's size
    max_seen = float(max(spec.input.width, spec.input.height))
    if not (_is_part(view.box, 1.0) and _is_part(view.seen, max_seen)):
        raise ValueError(view.box)
    if view.packed is not None:
        unpack([view.packed], *((spec.local.side, spec.local.dim) if spec.local else (0, 0)))
    return ImageFeatures(
        vector / np.linalg.norm(vector),
        packed=view.packed,
        colours=view.colours,
        sha256=view.sha256,
        box=view.box,
        seen=view.seen,
    )


def _is_part(box: Box, end: float) -> bool:
    """False also for an empty box and for NaN."""
    return 0 <= box.left < box.right <= end and 0 <= box.top < box.bottom <= end
