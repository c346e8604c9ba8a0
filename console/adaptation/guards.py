"""What an adapter must not lose: edited copies are found, and pictures of other kinds too."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import Progress

from likeness.embedding import Embedder
from likeness.errors import ImageError
from likeness.images import decode
from likeness.records import Vector
from likeness.settings import Limits

from ..demo import sample_images
from ..evaluation.datasets import DatasetError, Item, load
from ..evaluation.edits import EDITS, START_SIDE
from ..evaluation.gallery import build_gallery, features_of_file
from .searching import Searches

_ORIGINALS = 40  # of each set, all edited in all ways
_MAX_IMAGES = 2000
_SAME = 0.9999  # cosine of one image's vectors, computed on two machines
# Names the format of the cached vectors of copies.
_CACHE = "copies-1"


class General(NamedTuple):
    """Images that the adapter does not learn from. vectors float32 (G, D); classes (G,): what each
    is of, −1 where that is not known.
    """

    items: Sequence[Item]
    vectors: Vector
    classes: NDArray[np.intp]


def read_general(
    folder: Path | None, embedder: Embedder, cache: Path, seed: int, progress: Progress
) -> General:
    """The images of a folder or CSV; without one, drawn products and scikit-image's photographs.

    Raises DatasetError if fewer than two can be read.
    """
    items = load(folder) if folder else _shipped(cache)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(items))[:_MAX_IMAGES])
    gallery = build_gallery([items[row] for row in drawn.tolist()], embedder, cache, progress)
    # one that is not finite would be the first result of every search, before and after
    rows = np.flatnonzero(np.isfinite(gallery.vectors).all(axis=1))
    kept = [gallery.items[row] for row in rows.tolist()]
    names = [item.instance or item.label for item in kept]
    number = {name: n for n, name in enumerate(sorted(filter(None, set(names))))}
    classes = np.array([-1 if name is None else number[name] for name in names], np.intp)
    return General(kept, gallery.vectors[rows], classes)


def general_searches(general: General) -> Searches | None:
    """Each image among the others, where labels say which of them are right."""
    counts = np.bincount(general.classes[general.classes >= 0], minlength=1)
    rows = np.flatnonzero((general.classes >= 0) & (counts[general.classes] > 1))
    if not len(rows) or len(counts) < 2:
        return None
    return Searches(
        "general: others of a class",
        general.vectors[rows],
        general.vectors,
        general.classes[rows],
        general.classes,
        rows,
        general.classes[rows],
    )


def copy_searches(
    name: str,
    items: Sequence[Item],
    vectors: Vector,
    beside: Vector,
    embedder: Embedder,
    cache: Path,
    seed: int,
    progress: Progress,
) -> Searches:
    """Edited copies of some of the items, in a gallery of their vectors and those `beside`."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(items))[:_ORIGINALS]).tolist()
    task = progress.add_task(f"{name}: editing", total=len(drawn))
    queries: list[Vector] = []
    originals: list[int] = []
    for row in drawn:
        others = [items[other] for other in drawn if other != row]
        copies = _copies(items[row], others, embedder, cache, seed)
        queries.append(copies)
        originals += [row] * len(copies)
        progress.advance(task)
    gallery = np.concatenate([vectors, beside])
    # the same picture again, as where --general names images of the index, is no wrong answer
    classes = np.arange(len(gallery))
    for row in drawn:
        classes[gallery @ vectors[row] >= _SAME] = classes[row]
    wanted = classes[originals]
    return Searches(
        name,
        np.concatenate(queries),
        gallery,
        wanted,
        classes,
        np.full(len(wanted), -1),
        wanted,
    )


def _copies(
    item: Item, others: Sequence[Item], embedder: Embedder, cache: Path, seed: int
) -> Vector:
    """Vectors of all edits of one image (E, D), from the cache if it was edited before.

    Edits that leave nothing to see are missing.
    """
    data = item.path.read_bytes()
    rng = np.random.default_rng(seed)
    scene = others[int(rng.integers(len(others)))].path.read_bytes() if others else data
    key = hashlib.sha256(data + scene + str((seed, [e.name for e in EDITS])).encode()).hexdigest()
    file = cache / _CACHE / embedder.fingerprint / f"{key}.npy"
    try:
        found: Vector = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # missing or incomplete
        image, another = (decode(each, Limits(), START_SIDE)[0] for each in (data, scene))
        rows = list(_embedded(image, another, embedder, rng))
        found = np.stack(rows) if rows else np.empty((0, embedder.dim), np.float32)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}")
        with draft.open("wb") as out:
            np.save(out, found)
        draft.replace(file)
    return found


def _embedded(
    image: Image.Image, another: Image.Image, embedder: Embedder, rng: np.random.Generator
) -> Iterator[Vector]:
    for edit in EDITS:
        try:
            yield features_of_file(embedder, edit.make(image, lambda: another, rng))[1].vector
        except ImageError:
            continue


def _shipped(cache: Path) -> list[Item]:
    """The images of the demo, as files. Their kinds are too few and too coarse to be labels."""
    folder = cache / "general"
    items = []
    for sample in (*sample_images.products(), *sample_images.photographs()):
        path = folder / sample.key
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(f".{os.getpid()}")
            draft.write_bytes(sample.data)
            draft.replace(path)
        items.append(Item(path, None, None, None))
    return items


def check_calibratable(items: Sequence[Item], least: int) -> None:
    """Raises DatasetError where there are too few images to calibrate verdicts with."""
    if len(items) < least:
        raise DatasetError(
            f"verdicts are calibrated with {least} images or more of your own, there are "
            f"{len(items)}: name a folder with --general"
        )
