"""Duplicates: detected while an image is indexed, listed in groups, and confirmed or dismissed."""

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
from likeness.proof.verdicts import Calibration, Level, Verdict
from likeness.records import (
    POINT_NAMESPACE,
    Candidate,
    DuplicateMatch,
    NearestQuery,
    Point,
    State,
)
from likeness.rerank.ranker import Ranker
from likeness.stopwatch import StageTimer, untimed
from likeness.tenants import owned_by

# A new image is compared with so many nearest neighbours, and keeps so many matches.
_NEIGHBOURS, _MAX_MATCHES = 20, 10
# Listed copies of one group: a placeholder such as "no photo yet" may have thousands.
_MAX_COPIES = 100
_DUPLICATE_LEVELS = (Level.EXACT, Level.COPY, Level.EDITED)
_DISMISSAL = "not-duplicate"
_PAGE = 200
_NOT_A_COPY = {"is_empty": {"key": "original"}}

Announce = Callable[[Sequence[Point]], None]


def no_announcement(points: Sequence[Point]) -> None:
    """Used where no event bus is configured."""


class DuplicateDetector:
    """Finds the indexed duplicates of new images."""

    def __init__(
        self,
        index: IndexView,
        spec: ModelSpec,
        calibration: Calibration,
        stage: StageTimer = untimed,
    ) -> None:
        """`stage` is entered for the timed step: qdrant."""
        self._stage = stage
        self._index = index
        self._spec = spec
        self._ranker = Ranker(spec, calibration)

    def annotate(self, points: Sequence[Point]) -> list[Point]:
        """The same points, where live ones list their duplicates of the same tenant: those in the
        index, and those earlier in this batch. Two functions that index the same image at the same
        moment miss each other; the next time that either image is indexed finds the pair.

        Where the index serves another model or does not exist yet, only the batch is compared.
        Raises IndexUnavailable: without an answer of the index nothing may be written, because an
        image in sync is never compared again.
        """
        batch = {point.id: point for point in points}
        live = [point for point in batch.values() if point.vector is not None]
        annotated: dict[str, Point] = {}
        for point, neighbours in zip(live, self._neighbours(live), strict=True):
            others = {
                other.id: other
                for other in (candidate.point for candidate in neighbours)
                # left out where this batch replaces it by another image
                if other.sha256 == batch.get(other.id, other).sha256
            }
            others |= annotated  # newer than the stored points
            annotated[point.id] = self._with_matches(point, list(others.values()))
        return [annotated.get(point.id, point) for point in points]

    def _neighbours(self, live: list[Point]) -> list[list[Candidate]]:
        queries = [
            NearestQuery([point.vector], _NEIGHBOURS, filter=_other_images(point), full=True)
            for point in live
            if point.vector is not None
        ]
        if not queries:
            return []
        try:
            with self._stage("qdrant"):
                return self._index.nearest(queries)
        except (IndexMissing, IndexRefused):
            if self._serves_this_model():
                raise
            return [[] for _ in queries]

    def _serves_this_model(self) -> bool:
        try:
            return self._index.info().model == self._spec.fingerprint
        except IndexMissing:
            return False

    def _with_matches(self, point: Point, others: list[Point]) -> Point:
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
        matches = [
            (proof.verdict, other)
            for proof, other in zip(proofs, others, strict=True)
            if proof.verdict.level in _DUPLICATE_LEVELS
        ]
        if not matches:
            return point
        # the id makes the order of ties the same each time
        matches.sort(key=lambda pair: (*_closeness(pair[0]), pair[1].id))
        closest = matches[0][1]
        original = closest.original or closest.id
        return structs.replace(
            point,
            partners=tuple(
                DuplicateMatch(
                    other.id, other.ref.key, verdict.level.value, round(verdict.probability, 4)
                )
                for verdict, other in matches[:_MAX_MATCHES]
            ),
            group=closest.group or _own_group_id(closest),
            # an original that is indexed again matches its own copies, and stays the original
            original=None if original == point.id else original,
        )


class Group(Struct, frozen=True):
    """Duplicates of one image. `original` was indexed first; it is None once it was deleted or
    replaced by another image. `more`: there are further copies that are not listed.
    """

    id: str
    original: Point | None
    copies: list[Point]
    more: bool = False


class Duplicates:
    """Groups of duplicates, without the images that were dismissed."""

    def __init__(self, index: IndexView) -> None:
        self._index = index

    def groups(self, limit: int, cursor: str | None = None) -> tuple[list[Group], str | None]:
        """The groups whose first copy is among the next `limit` copies, and the next page's cursor.

        A page with a cursor may be empty: all its copies belong to groups of earlier pages.
        """
        page = self._index.scroll(limit, cursor, {"must_not": [_NOT_A_COPY]})
        on_page = {point.id for point in page.points}
        dismissed = self._dismissed_ids() if on_page else {}
        groups = []
        for group_id in sorted({point.group for point in page.points if point.group}):
            group = self._load_copies(group_id, dismissed.get(group_id, []))
            if group.copies and group.copies[0].id in on_page:
                groups.append(group)
        originals = self._originals(groups)
        groups = [structs.replace(group, original=originals.get(group.id)) for group in groups]
        return [g for g in groups if len(g.copies) + bool(g.original) > 1], page.next_cursor

    def decide(self, group: str, image: str, duplicate: bool) -> None:
        """Dismiss an image from a group (`duplicate` is false), or take the dismissal back.

        A dismissal holds for this image and group, however often the image is indexed. Raises
        NotIndexed for an unknown image, InvalidRequest for one that is no copy of the group.
        """
        point = self._index.retrieve_with_vectors([image]).get(image)
        if point is None or point.state is not State.LIVE:
            raise NotIndexed(f"no image with the id {image}")
        if point.original is None or point.group != group:
            raise InvalidRequest(f"{image} is no copy of the group {group}")
        note_id = f"{group} {image}"
        if duplicate:
            self._index.delete_note(_DISMISSAL, note_id)
        else:
            self._index.put_note(_DISMISSAL, note_id, {"group": group, "image": image})

    def _load_copies(self, group_id: str, dismissed: list[str]) -> Group:
        """The group with its first copies, without its original."""
        page = self._index.scroll(
            _MAX_COPIES,
            None,
            {
                "must": [{"key": "group", "match": {"value": group_id}}],
                "must_not": [_NOT_A_COPY, *([{"has_id": dismissed}] if dismissed else [])],
            },
        )
        # a copy may have been deleted or replaced between being found and being read
        copies = [point for point in page.points if point.group == group_id and point.original]
        return Group(group_id, None, copies, page.next_cursor is not None)

    def _originals(self, groups: list[Group]) -> dict[str, Point]:
        """The originals by group id, where they still hold the same image."""
        ids = {group.id: group.copies[0].original or "" for group in groups}
        if not ids:
            return {}
        wanted = {"must": [{"has_id": sorted(set(ids.values()))}]}
        found = {point.id: point for point in self._index.scroll(len(ids), None, wanted).points}
        return {
            group_id: found[point_id]
            for group_id, point_id in ids.items()
            # the same bytes, or the same image in new bytes, which then matched its copies
            if point_id in found
            and group_id in (_own_group_id(found[point_id]), found[point_id].group)
        }

    def _dismissed_ids(self) -> dict[str, list[str]]:
        """Ids of the dismissed images by group id."""
        images: defaultdict[str, list[str]] = defaultdict(list)
        cursor = None
        while True:
            notes, cursor = self._index.list_notes(_DISMISSAL, _PAGE, cursor)
            for note in notes:
                images[note["group"]].append(note["image"])
            if cursor is None:
                return images


def _closeness(verdict: Verdict) -> tuple[int, float]:
    """A sort key: the closest level first, then the most probable."""
    return _DUPLICATE_LEVELS.index(verdict.level), -verdict.probability


def _other_images(point: Point) -> dict[str, Any]:
    """The filter for all other images of the point's tenant."""
    own = {"must": [owned_by(point.tenant)]} if point.tenant else {}
    return {**own, "must_not": [{"has_id": [point.id]}]}


def _own_group_id(point: Point) -> str:
    """The id of the group whose original is this point. A new image at the key has a new group."""
    return str(uuid.uuid5(POINT_NAMESPACE, f"{point.id}\0{point.sha256}"))
