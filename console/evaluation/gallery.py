"""The gallery of an evaluation: images that are embedded once, cached, and indexed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from rich.progress import Progress

from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.embedding import Embedder
from likeness.errors import ImageError
from likeness.feature_extraction import extract_features
from likeness.features import ImageFeatures
from likeness.filters import Schema
from likeness.ports import VectorIndex
from likeness.records import (
    ImageInfo,
    ObjectRef,
    Point,
    State,
    Vector,
    Version,
)
from likeness.settings import Limits

from .datasets import DatasetError, Item

_BATCH = 256  # points of one write
_MAX_PATCHES_BYTES = 2**30  # in memory, for late interaction
# Names the format of the cached features: with another number all are computed again.
_CACHE = "vectors-1"


class EvaluationGallery(NamedTuple):
    """G images. vectors float32 (G, D); patches float16 (G, m, p), None if the model has none or
    they need too much memory; classes (G,): the class of each image, by relevance.
    """

    items: list[Item]
    points: list[Point]
    vectors: Vector
    patches: NDArray[np.float16] | None
    classes: Mapping[str, NDArray[np.str_]]
    row_of: Mapping[str, int]
    unreadable: list[str]


class _CachedFeatures(Struct, frozen=True):
    """Features of one image: vector float32, packed descriptors, patches float16, colours."""

    image: ImageInfo
    vector: bytes
    packed: bytes | None
    patches: bytes | None
    colours: bytes | None


def build_gallery(
    items: list[Item], embedder: Embedder, folder: Path, progress: Progress
) -> EvaluationGallery:
    """Images as the index function reads them; features are cached in the folder.

    Raises DatasetError if fewer than two can be read.
    """
    cache = folder / _CACHE / embedder.fingerprint
    cache.mkdir(parents=True, exist_ok=True)
    task = progress.add_task("embedding", total=len(items))
    features, readable, unreadable = list[_CachedFeatures](), list[Item](), list[str]()
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        loaded = pool.map(partial(_load_features, embedder, cache), items)
        for item, found in zip(items, loaded, strict=True):
            if isinstance(found, _CachedFeatures):
                features.append(found)
                readable.append(item)
            else:
                unreadable.append(f"{item.path.name}: {found}")
            progress.advance(task)
    finally:  # on Ctrl-C too: what is in the cache stays there
        pool.shutdown(cancel_futures=True)
    if len(readable) < 2:
        raise DatasetError(
            f"only {len(readable)} of {len(items)} images can be read: {'; '.join(unreadable[:3])}"
        )
    points = [
        _point(item, each, embedder.fingerprint)
        for item, each in zip(readable, features, strict=True)
    ]
    return EvaluationGallery(
        readable,
        points,
        np.stack([np.frombuffer(each.vector, np.float32) for each in features]),
        _patches(features, embedder),
        _classes(readable, features),
        {point.id: row for row, point in enumerate(points)},
        unreadable,
    )


def features_of_file(embedder: Embedder, data: bytes) -> tuple[ImageInfo, ImageFeatures]:
    """Raises ImageError."""
    image, info = embedder.decode(data, Limits())
    return info, extract_features(embedder, image, sha256=info.sha256)


def _load_features(embedder: Embedder, cache: Path, item: Item) -> _CachedFeatures | ImageError:
    """From the cache if a file with the same bytes was read before."""
    data = item.path.read_bytes()
    file = cache / hashlib.sha256(data).hexdigest()
    with contextlib.suppress(OSError, msgspec.MsgspecError):  # missing or incomplete
        return msgspec.msgpack.decode(file.read_bytes(), type=_CachedFeatures)
    try:
        info, found = features_of_file(embedder, data)
    except ImageError as error:
        return error
    cached = _CachedFeatures(
        info,
        found.vector.tobytes(),
        found.packed,
        None if found.patches is None else found.patches.astype(np.float16).tobytes(),
        found.colours,
    )
    draft = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    draft.write_bytes(msgspec.msgpack.encode(cached))
    draft.replace(file)
    return cached


def _point(item: Item, features: _CachedFeatures, model: str) -> Point:
    return Point(
        ref=ObjectRef("evaluation", str(item.path)),
        state=State.LIVE,
        version=Version(1),
        model=model,
        indexed_at_s=0.0,
        image=features.image,
        vector=np.frombuffer(features.vector, np.float32),
        local=features.packed,
        colours=features.colours,
    )


def _patches(features: list[_CachedFeatures], embedder: Embedder) -> NDArray[np.float16] | None:
    spec = embedder.spec.patches
    if spec is None or len(features) * spec.side**2 * spec.dim * 2 > _MAX_PATCHES_BYTES:
        return None
    rows = [np.frombuffer(each.patches or b"", np.float16) for each in features]
    return np.stack(rows).reshape(len(features), spec.side**2, spec.dim)


def _classes(items: list[Item], features: list[_CachedFeatures]) -> dict[str, NDArray[np.str_]]:
    names = {
        "original": [each.image.sha256 for each in features],  # a second copy of a file is right
        "instance": [item.instance or "" for item in items],
        "label": [item.label or "" for item in items],
    }
    return {name: np.array(values) for name, values in names.items()}


@contextlib.contextmanager
def temporary_index(gallery: EvaluationGallery, embedder: Embedder) -> Iterator[VectorIndex]:
    """The embedded engine over a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        index = EmbeddedIndex(Path(folder), Layout("evaluation", Schema()))
        index.prepare(embedder.fingerprint, embedder.dim)
        for start in range(0, len(gallery.points), _BATCH):
            index.write(embedder.fingerprint, gallery.points[start : start + _BATCH])
        try:
            yield index
        finally:
            index.close()
