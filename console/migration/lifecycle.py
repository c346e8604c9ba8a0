"""A change of the model without downtime: what is done, and how far it is.

Two collections stand side by side, and the index function keeps both equal to the bucket, from
`begin` to `end`; so the alias may point at either. All that is remembered is a note in the index:
which model takes which one's place, and where its bundle was.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from likeness.embedding import Embedder
from likeness.errors import ConfigurationError, ImageError, IndexMissing, ObjectChanged
from likeness.gallery import Gallery
from likeness.images import decode
from likeness.model import ModelSpec
from likeness.ports import ObjectReader, VectorIndex
from likeness.proof.verdicts import Calibration, Level
from likeness.queries import ByImage, Query
from likeness.records import NearestQuery, ObjectRef, Point, State
from likeness.search import Searcher
from likeness.settings import Limits

from ..evaluation.bench import no_store
from ..evaluation.edits import EDITS, START_SIDE
from ..evaluation.metrics import Estimate, estimate

_NOTE = "migration"
_PAGE = 500
_EDITS = [edit for edit in EDITS if edit.level in (Level.COPY, Level.EDITED)]
_LIVE = {"must": [{"key": "state", "match": {"value": State.LIVE.value}}]}

Advance = Callable[[int], None]


class Migration(Struct, frozen=True):
    """From one model to another, both named by their fingerprints. `bundle`: the new one's folder
    where it was begun.
    """

    source: str
    target: str
    bundle: str


def underway(index: VectorIndex) -> Migration | None:
    notes, _ = index.list_notes(_NOTE, 1)
    return msgspec.convert(notes[0], Migration) if notes else None


def needed(index: VectorIndex) -> Migration:
    """Raises ConfigurationError where none is under way."""
    migration = underway(index)
    if migration is None:
        raise ConfigurationError("no migration is under way: `likeness migrate start BUNDLE`")
    return migration


def begin(index: VectorIndex, spec: ModelSpec, bundle: str, keep_patches: bool) -> Migration:
    """Make the new model's collection; from now on the index function fills it with what comes.

    The same again changes nothing but `bundle`, which may have been moved. Raises
    ConfigurationError where it makes no sense.
    """
    searched = index.info()
    known = underway(index)
    if known and known.target != spec.fingerprint:
        raise ConfigurationError(
            f"a migration to {known.target} is under way: end it with `likeness migrate finish`"
        )
    if searched.model == spec.fingerprint and not known:
        raise ConfigurationError(f"{spec.fingerprint} is the model that is searched with already")
    # as the index function would make it
    patches = spec.patches if keep_patches or searched.patches else None
    index.prepare(spec.fingerprint, spec.embedding.dim, patches.dim if patches else None)
    migration = Migration(known.source if known else searched.model, spec.fingerprint, bundle)
    index.put_note(_NOTE, _NOTE, msgspec.to_builtins(migration))
    return migration


def switch(index: VectorIndex, model: str) -> None:
    """Point the alias at one of the two. Raises ConfigurationError where its collection is gone."""
    try:
        index.switch(model)
    except IndexMissing:
        raise ConfigurationError(f"the collection of model {model} was dropped") from None


def end(index: VectorIndex, migration: Migration) -> str:
    """Drop the collection that is not searched, and forget the migration; returns its model.

    Whoever is still reading it begins anew with the other.
    """
    left = left_behind(index, migration)
    index.drop(left)
    index.delete_note(_NOTE, _NOTE)
    return left


def left_behind(index: VectorIndex, migration: Migration) -> str:
    """The model of the two that is not searched with."""
    searched = index.info().model
    if searched not in (migration.source, migration.target):
        raise ConfigurationError(f"the alias points at {searched}, which is neither model's")
    return migration.source if searched == migration.target else migration.target


# --- how far the new collection is ---


class Filling(Struct, frozen=True):
    """Objects in the old collection, those that the new one agrees on, and those that only the new
    model rejected, with the reasons.
    """

    objects: int = 0
    agreed: int = 0
    refused: Mapping[str, str] = {}

    @property
    def share(self) -> float:
        return self.agreed / self.objects if self.objects else 1.0


def filling(
    index: VectorIndex,
    migration: Migration,
    advance: Advance,
    missing: Callable[[list[ObjectRef]], object] = lambda refs: None,
) -> Filling:
    """Hold every object of one collection against the other; `missing` gets those that differ."""
    objects, agreed, refused = 0, 0, dict[str, str]()
    for olds in _pages(index.for_model(migration.source)):
        news = index.retrieve_payloads(migration.target, [old.id for old in olds])
        same = [old for old in olds if _agree(old, news.get(old.id))]
        # an object that is gone need not be known to be gone
        objects += sum(old.object is not None for old in olds)
        agreed += sum(old.object is not None for old in same)
        for old, new in ((old, news[old.id]) for old in same if old.id in news):
            if (old.state, new.state) == (State.LIVE, State.REJECTED):
                refused[old.ref.key] = f"{new.reason}: {new.detail}"
        equal = {old.id for old in same}
        if differing := [old.ref for old in olds if old.id not in equal]:
            missing(differing)
        advance(len(olds))
    return Filling(objects, agreed, refused)


def _agree(old: Point, new: Point | None) -> bool:
    return old.object == (new.object if new else None)


def _pages(index: VectorIndex) -> Iterator[Sequence[Point]]:
    cursor = None
    while True:
        page = index.scroll(_PAGE, cursor)
        yield page.points
        cursor = page.next_cursor
        if cursor is None:
            return


# --- what would change for those who search ---


class Side(NamedTuple):
    """One of the two models, as it will answer."""

    embedder: Embedder
    calibration: Calibration | None


class Change(Struct, frozen=True):
    """Of one picture: the share of its nearest that both models name."""

    key: str
    overlap: float


class Comparison(Struct, frozen=True):
    """overlap: mean share of the nearest `k` that both models name. found: how often an edited copy
    has its original first, with the old model and with the new, over `edited` copies.
    """

    k: int
    overlap: Estimate
    changes: Sequence[Change]
    edited: int
    found: tuple[Estimate, Estimate]


def compare(
    index: VectorIndex,
    store: ObjectReader,
    sides: tuple[Side, Side],
    sample: int,
    k: int,
    seed: int,
    advance: Advance,
) -> Comparison:
    """Ask both models the same: neighbours of indexed pictures, and edited copies of them.

    Raises ConfigurationError where fewer than two pictures stand in both collections.
    """
    views = [index.for_model(side.embedder.fingerprint) for side in sides]
    rng = np.random.default_rng(seed)
    ids = [point.id for point in _drawn(views[0], sample, rng)]
    kept = [view.retrieve_with_vectors(ids) for view in views]
    pairs = [
        [points[point_id] for points in kept]
        for point_id in ids
        if all(point_id in points and points[point_id].vector is not None for points in kept)
    ]
    if len(pairs) < 2:
        raise ConfigurationError(
            f"{len(pairs)} of {len(ids)} pictures stand in both collections: fill the new one first"
        )
    changes = []
    for pair in pairs:
        nearest = [_nearest(view, point, k) for view, point in zip(views, pair, strict=True)]
        changes.append(Change(pair[0].ref.key, _overlap(*nearest)))
        advance(1)
    searchers = [
        Searcher(Gallery(view, no_store), side.embedder, side.calibration)
        for view, side in zip(views, sides, strict=True)
    ]
    found = []
    for point, _ in pairs:
        if edited := _edited(store, point, rng):
            found.append([_finds(searcher, edited, point) for searcher in searchers])
        advance(1)
    if not found:
        raise ConfigurationError("none of the pictures could be read from the bucket")
    right = np.array(found, np.float64)
    return Comparison(
        k,
        _mean(np.array([change.overlap for change in changes])),
        sorted(changes, key=lambda change: change.overlap),
        len(found),
        (_mean(right[:, 0]), _mean(right[:, 1])),
    )


def _drawn(index: VectorIndex, count: int, rng: np.random.Generator) -> list[Point]:
    """Live points by chance: ids are hashes, so that any that follow each other are a sample."""
    start = str(uuid.UUID(bytes=rng.bytes(16)))
    points = list(index.scroll(count, start, _LIVE).points)
    first = index.scroll(count - len(points), None, _LIVE).points if len(points) < count else []
    return list({point.id: point for point in (*points, *first)}.values())


def _nearest(index: VectorIndex, point: Point, k: int) -> set[str]:
    assert point.vector is not None
    itself = {"must_not": [{"has_id": [point.id]}]}
    [found] = index.nearest([NearestQuery([point.vector], k, filter=itself)])
    return {candidate.point.id for candidate in found}


def _overlap(old: set[str], new: set[str]) -> float:
    """A small collection has fewer than k neighbours: the share is of what there are."""
    return len(old & new) / max(1, len(old), len(new))


def _edited(store: ObjectReader, point: Point, rng: np.random.Generator) -> bytes | None:
    """One of the named edits of the object's picture; None where it is another one by now."""
    assert point.object is not None
    try:
        body = store.read(point.ref, point.object.etag, Limits().max_bytes)
        picture, _ = decode(body.data, Limits(), START_SIDE)
    except (ObjectChanged, ImageError):
        return None
    edit = _EDITS[rng.integers(len(_EDITS))]
    return edit.make(picture, lambda: picture, rng)


def _finds(searcher: Searcher, edited: bytes, original: Point) -> bool:
    """Whether the first result is the original, or another object with the same bytes."""
    try:
        results = searcher.search(Query(ByImage(edited), limit=1)).results
    except ImageError:  # the model finds nothing in it
        return False
    return bool(results) and results[0].point.sha256 == original.sha256


def _mean(values: NDArray[np.float64]) -> Estimate:
    return estimate(values, np.arange(len(values)))
