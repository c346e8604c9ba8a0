"""Duplicates: found as an image comes in, listed in groups, and what people decided of them."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct, structs

from likeness.errors import IndexMissing, IndexRefused, InvalidRequest, NotIndexed
from likeness.features import features_of_point
from likeness.model import ModelSpec
from likeness.ports import IndexView
from likeness.proof.verdicts import Calibration, Level
from likeness.records import (
    POINT_NAMESPACE,
    Candidate,
    DuplicateMatch,
    NearestQuery,
    Point,
    PointWrite,
    State,
)
from likeness.rerank.profiles import Ranker
from likeness.stopwatch import Stage, untimed
from likeness.tenants import owned_by

# Nearest neighbours that a new image is held against, and how many partners it keeps.
_LOOKED_AT, _KEPT = 20, 10
# Copies of one group that are listed: a picture that says "no photo yet" may have thousands.
_LISTED = 100
_SAME = (Level.EXACT, Level.COPY, Level.EDITED)
_DECISION = "not-duplicate"
_PAGE = 200
_NO_COPY = {"is_empty": {"key": "original"}}

Announce = Callable[[Sequence[Point]], None]


def no_announcement(points: Sequence[Point]) -> None:
    """Where no event bus is configured."""


class DuplicateDetector:
    """Marks new images that show what an indexed one shows already."""

    def __init__(
        self, index: IndexView, spec: ModelSpec, calibration: Calibration, stage: Stage = untimed
    ) -> None:
        """`stage` is entered for what is timed: qdrant."""
        self._stage = stage
        self._index = index
        self._spec = spec
        self._ranker = Ranker(spec, calibration)

    def annotate(self, writes: Sequence[PointWrite]) -> list[PointWrite]:
        """The same writes, live points with their partners: those in the index, and those before
        them in this batch. Two functions that index one picture at the same moment miss each
        other; the next look at either of them finds the pair. Partners are of the same tenant.

        It compares with what stands behind the alias: while that is another model's, just with the
        batch. Raises IndexUnavailable.
        """
        batch = {write.point.id: write.point for write in writes}
        live = [point for point in batch.values() if point.vector is not None]
        marked: dict[str, Point] = {}
        for point, found in zip(live, self._neighbours(live), strict=True):
            others = {
                other.id: other
                for other in (candidate.point for candidate in found)
                # what this batch replaces by something else is no longer there
                if other.sha256 == batch.get(other.id, other).sha256
            }
            others |= marked  # fresher than what is stored
            marked[point.id] = self._with_partners(point, list(others.values()))
        return [
            structs.replace(write, point=marked.get(write.point.id, write.point))
            for write in writes
        ]

    def _neighbours(self, live: list[Point]) -> list[list[Candidate]]:
        queries = [
            NearestQuery([point.vector], _LOOKED_AT, filter=_others(point), full=True)
            for point in live
            if point.vector is not None
        ]
        if not queries:
            return []
        try:
            with self._stage("qdrant"):
                return self._index.nearest(queries)
        except (IndexMissing, IndexRefused):  # the alias is another model's, or nobody's yet
            return [[] for _ in queries]

    def _with_partners(self, point: Point, others: list[Point]) -> Point:
        others = [
            other
            for other in others
            if (other.model, other.tenant) == (point.model, point.tenant)
            and other.vector is not None
        ]
        proofs = self._ranker.prove(
            features_of_point(point, self._spec),
            [features_of_point(other, self._spec) for other in others],
        )
        found = [
            (proof.verdict, other)
            for proof, other in zip(proofs, others, strict=True)
            if proof.verdict.level in _SAME
        ]
        if not found:
            return point
        # the id, so that equals come in the same order each time
        found.sort(key=lambda pair: (_SAME.index(pair[0].level), -pair[0].probability, pair[1].id))
        first = found[0][1]
        original = first.original or first.id
        return structs.replace(
            point,
            partners=tuple(
                DuplicateMatch(
                    other.id, other.ref.key, verdict.level.value, round(verdict.probability, 4)
                )
                for verdict, other in found[:_KEPT]
            ),
            group=first.group or _group_of(first),
            # what was found beside its own copy stays the original
            original=None if original == point.id else original,
        )


class Group(Struct, frozen=True):
    """Images that show the same: `original` is the first of them, None once it was deleted or
    replaced by another picture. `more`: there are copies beyond those listed.
    """

    id: str
    original: Point | None
    copies: list[Point]
    more: bool = False


class Duplicates:
    """Groups of duplicates, less what somebody decided."""

    def __init__(self, index: IndexView) -> None:
        self._index = index

    def groups(self, limit: int, cursor: str | None = None) -> tuple[list[Group], str | None]:
        """Groups that begin among the next `limit` copies, and the cursor of what follows.

        A page may have no group and still a cursor: its copies are of groups that began earlier.
        """
        page = self._index.scroll(limit, cursor, {"must_not": [_NO_COPY]})
        here = {point.id for point in page.points}
        dismissed = self._dismissed() if here else {}
        groups = []
        for name in sorted({point.group for point in page.points if point.group}):
            group = self._listed(name, dismissed.get(name, []))
            if group.copies and group.copies[0].id in here:
                groups.append(group)
        originals = self._originals(groups)
        groups = [structs.replace(group, original=originals.get(group.id)) for group in groups]
        return [g for g in groups if len(g.copies) + bool(g.original) > 1], page.next_cursor

    def decide(self, group: str, image: str, duplicate: bool) -> None:
        """Remember that an image is no duplicate of a group, or forget it again.

        It is remembered for as long as the object's picture falls into this group, however often it
        is indexed. Raises NotIndexed where there is no such image, InvalidRequest where it is no
        copy of this group.
        """
        point = self._index.retrieve_with_vectors([image]).get(image)
        if point is None or point.state is not State.LIVE:
            raise NotIndexed(f"no image with the id {image}")
        if point.original is None or point.group != group:
            raise InvalidRequest(f"{image} is no copy of the group {group}")
        note_id = f"{group} {image}"
        if duplicate:
            self._index.delete_note(_DECISION, note_id)
        else:
            self._index.put_note(_DECISION, note_id, {"group": group, "image": image})

    def _listed(self, name: str, dismissed: list[str]) -> Group:
        """The group's first copies, without its original."""
        page = self._index.scroll(
            _LISTED,
            None,
            {
                "must": [{"key": "group", "match": {"value": name}}],
                "must_not": [_NO_COPY, *([{"has_id": dismissed}] if dismissed else [])],
            },
        )
        return Group(name, None, list(page.points), page.next_cursor is not None)

    def _originals(self, groups: list[Group]) -> dict[str, Point]:
        """Of the groups by their names, where it still shows the same."""
        ids = {group.id: group.copies[0].original or "" for group in groups}
        if not ids:
            return {}
        wanted = {"must": [{"has_id": sorted(set(ids.values()))}]}
        found = {point.id: point for point in self._index.scroll(len(ids), None, wanted).points}
        return {
            name: found[point_id]
            for name, point_id in ids.items()
            # it is as it was, or it was found beside its copies when it was encoded anew
            if point_id in found and name in (_group_of(found[point_id]), found[point_id].group)
        }

    def _dismissed(self) -> dict[str, list[str]]:
        """Ids that are no duplicates, by the group that they are not of."""
        images: defaultdict[str, list[str]] = defaultdict(list)
        cursor = None
        while True:
            notes, cursor = self._index.list_notes(_DECISION, _PAGE, cursor)
            for note in notes:
                images[note["group"]].append(note["image"])
            if cursor is None:
                return images


def _others(point: Point) -> dict[str, Any]:
    """The filter for a point's possible partners."""
    own = {"must": [owned_by(point.tenant)]} if point.tenant else {}
    return {**own, "must_not": [{"has_id": [point.id]}]}


def _group_of(point: Point) -> str:
    """The name of a point's own group. Another picture under the same key begins another group."""
    return str(uuid.uuid5(POINT_NAMESPACE, f"{point.id}\0{point.sha256}"))
