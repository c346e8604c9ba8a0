"""Queries with known right answers: a dataset's own, or edits of the gallery's images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from likeness.images import decode
from likeness.proof.verdicts import Level
from likeness.settings import Limits

from .datasets import Item
from .edits import EDITS, START_SIDE, Edit
from .gallery import EvaluationGallery

UNCHANGED = "unchanged"  # in place of an edit's name, where the query is the original file


class EvaluationQuery(NamedTuple):
    """One query. `make` gives its file, and gallery rows that count neither as right nor as wrong.

    wanted: the class of right answers, by relevance. group: queries of one group are resampled
    together. own: the query's own row, left out of the results; original: the row that an edit
    started from.
    """

    name: str
    make: Callable[[], tuple[bytes, list[int]]]
    wanted: Mapping[str, str | None]
    group: str
    own: int | None = None
    original: int | None = None
    edit: str = ""
    level: Level | None = None


def labelled_queries(
    gallery: EvaluationGallery, items: list[Item], count: int, seed: int
) -> list[EvaluationQuery]:
    """At most `count`, drawn at random; an image of the gallery is searched among the others."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(items))[:count])
    rows = {item.path: row for row, item in enumerate(gallery.items)}
    # labels that repeat the instances are no second kind of relevance
    same = all(item.label == item.instance for item in (*items, *gallery.items))
    return [
        EvaluationQuery(
            item.path.name,
            partial(_with_ignored, gallery, item),
            {"instance": item.instance, "label": None if same else item.label},
            item.instance or item.label or "",
            own=rows.get(item.path),
        )
        for item in (items[row] for row in drawn.tolist())
    ]


def synthetic_queries(gallery: EvaluationGallery, count: int, seed: int) -> list[EvaluationQuery]:
    """Each edit in turn, and the unchanged file; originals in random order, all equally often."""
    rng, size = np.random.default_rng(seed), len(gallery.items)
    originals = np.concatenate([rng.permutation(size) for _ in range(-(-count // size))])
    edits: tuple[Edit | None, ...] = (None, *EDITS)
    return [
        _synthetic_query(gallery, row, edits[number % len(edits)], (seed, number))
        for number, row in enumerate(originals[:count].tolist())
    ]


def _synthetic_query(
    gallery: EvaluationGallery, row: int, edit: Edit | None, seed: tuple[int, int]
) -> EvaluationQuery:
    path, original = gallery.items[row].path, str(gallery.classes["original"][row])
    name, level = (edit.name, edit.level) if edit else (UNCHANGED, Level.EXACT)
    make = partial(_edited, gallery, row, edit, seed) if edit else partial(_unchanged, path)
    return EvaluationQuery(
        f"{path.name}, {name}", make, {"original": original}, original, None, row, name, level
    )


def _unchanged(path: Path) -> tuple[bytes, list[int]]:
    return path.read_bytes(), []


def _with_ignored(gallery: EvaluationGallery, item: Item) -> tuple[bytes, list[int]]:
    """A dataset's query, and the rows that its CSV says to ignore."""
    ignored = (gallery.classes["instance"] == item.ignore) & (item.ignore is not None)
    return item.path.read_bytes(), np.flatnonzero(ignored).tolist()


def _edited(
    gallery: EvaluationGallery, row: int, edit: Edit, seed: tuple[int, int]
) -> tuple[bytes, list[int]]:
    """An edited file; other images that a scene is made of are ignored in the results."""
    rng, used = np.random.default_rng(seed), list[int]()

    def another() -> Image.Image:
        other = int(rng.integers(len(gallery.items) - 1))
        used.append(other + (other >= row))
        return _image(gallery.items[used[-1]].path)

    return edit.make(_image(gallery.items[row].path), another, rng), used


def _image(path: Path) -> Image.Image:
    return decode(path.read_bytes(), Limits(), START_SIDE)[0]
