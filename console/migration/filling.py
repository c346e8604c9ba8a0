"""How much of the new collection is filled: objects of the old one that the new one has too."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from likeness.ports import VectorIndex
from likeness.records import ObjectRef, Point, State

from ..indexing.contents import pages
from .lifecycle import Migration

_PAGE = 500


class FillStatus(Struct, frozen=True):
    """Number of objects in the old collection, and of those in the same version in the new one.

    `rejected` maps the keys that only the new model rejected to the reasons; they count as equal.
    """

    objects: int = 0
    equal: int = 0
    rejected: Mapping[str, str] = {}

    @property
    def share(self) -> float:
        return self.equal / self.objects if self.objects else 1.0

    @property
    def remaining(self) -> int:
        return self.objects - self.equal


def measure(
    index: VectorIndex,
    migration: Migration,
    advance: Callable[[int], None],
    on_missing: Callable[[list[ObjectRef]], object] = lambda refs: None,
) -> FillStatus:
    """Compare the two collections; `on_missing` gets the objects that differ, page by page."""
    objects, equal, rejected = 0, 0, dict[str, str]()
    for old_points in pages(index.for_model(migration.source), _PAGE):
        ids = [old.id for old in old_points]
        new_points = index.retrieve_payloads(migration.target, ids).points
        same = [old for old in old_points if _same_version(old, new_points.get(old.id))]
        # deleted objects are not counted: the new collection needs no record of them
        objects += sum(old.object is not None for old in old_points)
        equal += sum(old.object is not None for old in same)
        for old, new in ((old, new_points[old.id]) for old in same if old.id in new_points):
            if (old.state, new.state) == (State.LIVE, State.REJECTED):
                rejected[old.ref.key] = f"{new.reason}: {new.detail}"
        same_ids = {old.id for old in same}
        if differing := [old.ref for old in old_points if old.id not in same_ids]:
            on_missing(differing)
        advance(len(old_points))
    return FillStatus(objects, equal, rejected)


def _same_version(old: Point, new: Point | None) -> bool:
    return old.object == (new.object if new else None)
