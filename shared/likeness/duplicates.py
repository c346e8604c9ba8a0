"""Duplicates: found as an image comes in, listed in groups, and what people decided of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct, structs

from likeness.errors import IndexMissing, IndexRefused, InvalidRequest, NotIndexed
from likeness.model import ModelSpec
from likeness.ports import VectorIndex
from likeness.records import Lookup, Partner, Point, PointWrite, State
from likeness.rerank.appearance import of_point
from likeness.rerank.profiles import Ranker
from likeness.rerank.verdicts import Calibration, Level

# Nearest neighbours that a new image is held against, and how many partners it keeps.
_LOOKED_AT, _KEPT = 20, 10
_SAME = (Level.EXACT, Level.COPY, Level.EDITED)
_DECISION = "not-duplicate"
_PAGE = 200

Announce = Callable[[Sequence[Point]], None]


def say_nothing(points: Sequence[Point]) -> None:
    """Where no event bus is configured."""


class Gate:
    """Marks new images that show what an indexed one shows already."""

    def __init__(self, index: VectorIndex, spec: ModelSpec, calibration: Calibration) -> None:
        self._index = index
        self._spec = spec
        self._ranker = Ranker(spec, calibration)

    def marked(self, writes: Sequence[PointWrite]) -> list[PointWrite]:
        """The same writes, live points with their partners: those in the index, and those before
        them in this batch. Two functions that index one picture at the same moment miss each
        other; the next look at either of them finds the pair.
        """
        live = [write.point for write in writes if write.point.vector is not None]
        if not live:
            return list(writes)
        lookups = [
            Lookup(
                point.vector,
                _LOOKED_AT,
                filter={"must_not": [{"has_id": [point.id]}]},
                full=True,
            )
            for point in live
            if point.vector is not None
        ]
        try:
            answers = self._index.nearest(lookups)
        except (IndexMissing, IndexRefused):  # the alias is another model's, or nobody's yet
            answers = [[] for _ in lookups]
        marked: dict[str, Point] = {}
        for point, found in zip(live, answers, strict=True):
            others = {candidate.point.id: candidate.point for candidate in found}
            others |= marked  # fresher than what is stored
            marked[point.id] = self._with_partners(point, list(others.values()))
        return [
            structs.replace(write, point=marked.get(write.point.id, write.point))
            for write in writes
        ]

    def _with_partners(self, point: Point, others: list[Point]) -> Point:
        others = [
            other for other in others if other.model == point.model and other.vector is not None
        ]
        proofs = self._ranker.prove(
            of_point(point, self._spec), [of_point(other, self._spec) for other in others]
        )
        found = [
            (proof.verdict, other)
            for proof, other in zip(proofs, others, strict=True)
            if proof.verdict.level in _SAME
        ]
        found.sort(key=lambda pair: (_SAME.index(pair[0].level), -pair[0].probability))
        partners = tuple(
            Partner(other.id, other.ref.key, verdict.level.value, round(verdict.probability, 4))
            for verdict, other in found[:_KEPT]
        )
        if not partners:
            return point
        first = found[0][1]
        # two that were each found beside the other must not each call the other its original
        original = first.original or first.id
        return structs.replace(
            point, partners=partners, original=None if original == point.id else original
        )


class Group(Struct, frozen=True):
    """Images that show the same: `original` is the first of them, where it is still there."""

    id: str
    original: Point | None
    copies: list[Point]


class Duplicates:
    """Groups of duplicates, less what somebody decided."""

    def __init__(self, index: VectorIndex) -> None:
        self._index = index

    def groups(self, limit: int, cursor: str | None = None) -> tuple[list[Group], str | None]:
        """Groups that begin among the next `limit` copies, and the cursor of what follows."""
        page = self._index.scroll(limit, cursor, {"must_not": [{"is_empty": {"key": "original"}}]})
        names = sorted({point.original for point in page.points if point.original})
        if not names:
            return [], page.next_cursor
        members = self._all({"must": [{"key": "original", "match": {"any": names}}]})
        dismissed = self._decided()
        here = {point.id for point in page.points}
        originals = self._index.fetch(names)
        groups = []
        for name in names:
            copies = sorted((p for p in members if p.original == name), key=lambda p: p.id)
            if not copies or copies[0].id not in here:
                continue  # it begins on an earlier page
            copies = [p for p in copies if (name, p.id) not in dismissed and p.state is State.LIVE]
            original = originals.get(name)
            if original and original.state is not State.LIVE:
                original = None
            if len(copies) + bool(original) > 1:
                groups.append(Group(name, original, copies))
        return groups, page.next_cursor

    def decide(self, group: str, image: str, duplicate: bool) -> None:
        """Remember that an image is no duplicate of a group, or forget it again.

        Raises NotIndexed where there is no such image, InvalidRequest where it is of another group.
        """
        point = self._index.fetch([image]).get(image)
        if point is None or point.state is not State.LIVE:
            raise NotIndexed(f"no image with the id {image}")
        if point.original != group:
            raise InvalidRequest(f"{image} is not in the group {group}")
        note_id = f"{group} {image}"
        if duplicate:
            self._index.forget(_DECISION, note_id)
        else:
            self._index.note(_DECISION, note_id, {"group": group, "image": image})

    def _decided(self) -> set[tuple[str, str]]:
        pairs: set[tuple[str, str]] = set()
        cursor = None
        while True:
            notes, cursor = self._index.notes(_DECISION, _PAGE, cursor)
            pairs |= {(note["group"], note["image"]) for note in notes}
            if cursor is None:
                return pairs

    def _all(self, filter: dict[str, Any]) -> list[Point]:
        points: list[Point] = []
        cursor = None
        while True:
            page = self._index.scroll(_PAGE, cursor, filter)
            points += page.points
            cursor = page.next_cursor
            if cursor is None:
                return points
