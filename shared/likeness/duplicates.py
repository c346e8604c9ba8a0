"""Duplicates and variants as they are stored: announced, listed in groups, and dismissed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct, structs

from likeness.duplicate_groups import group_filter, own_group_id, without_group
from likeness.errors import InvalidRequest, NotIndexed
from likeness.ports import IndexView
from likeness.records import Membership, Point, Relation, State

# Listed copies of one group: a placeholder such as "no photo yet" may have thousands.
_MAX_COPIES = 100
_PAGE = 200

Announce = Callable[[Sequence[Point]], None]


def no_announcement(points: Sequence[Point]) -> None:
    """Used where no event bus is configured."""


def announced(points: Sequence[Point]) -> list[Point]:
    """Those of a batch's new images that are announced: with duplicates or variants, and not the
    original of images that are all in this batch, because their own announcements name it.
    """
    new = {point.id for point in points}
    return [point for point in points if any(_is_news(point, each, new) for each in Relation)]


def _is_news(point: Point, relation: Relation, new: Collection[str]) -> bool:
    found = point.matches(relation)
    is_copy = point.membership(relation).original is not None
    return bool(found) and (is_copy or any(match.id not in new for match in found))


class Group(Struct, frozen=True):
    """Duplicates or variants of one image. `original` is the oldest; it is None once it was deleted
    or replaced by another image. `more`: there are further copies that are not listed.
    """

    id: str
    original: Point | None
    copies: list[Point]
    more: bool = False


class Duplicates:
    """Groups of duplicates or variants, without the images that were dismissed."""

    def __init__(self, index: IndexView, relation: Relation = Relation.DUPLICATE) -> None:
        self._index = index
        self._relation = relation
        self._dismissal = f"not-{relation.value}"  # the kind of its notes

    def groups(self, limit: int, cursor: str | None = None) -> tuple[list[Group], str | None]:
        """The groups whose first copy is among the next `limit` images that are in a group, and the
        next page's cursor.

        A page with a cursor may be empty: all its images belong to groups of other pages.
        """
        page = self._index.scroll(limit, cursor, {"must_not": [without_group(self._relation)]})
        on_page = {point.id for point in page.points}
        dismissed = self._dismissed_ids() if on_page else {}
        groups = []
        names = {self._of(point).group for point in page.points}
        for group_id in sorted(filter(None, names)):
            group = self._load_copies(group_id, dismissed.get(group_id, []))
            if group.copies and group.copies[0].id in on_page:
                groups.append(group)
        originals = self._originals(groups)
        groups = [structs.replace(group, original=originals.get(group.id)) for group in groups]
        return [g for g in groups if len(g.copies) + bool(g.original) > 1], page.next_cursor

    def decide(self, group: str, image: str, duplicate: bool) -> None:
        """Dismiss an image from a group (`duplicate` is false), or take the dismissal back.

        A dismissal holds as long as the image has this content, however often it is indexed and
        whatever becomes the group's original. Raises NotIndexed for an unknown image,
        InvalidRequest for one that is no copy of the group.
        """
        point = self._index.retrieve_with_vectors([image]).get(image)
        if point is None or point.state is not State.LIVE:
            raise NotIndexed(f"no image with the id {image}")
        if self._of(point).original is None or self._of(point).group != group:
            raise InvalidRequest(f"{image} is no copy of the group {group}")
        note = {"group": group, "image": image, "sha256": point.sha256}
        if duplicate:
            earlier = [each for each in self._dismissals() if each["image"] == image]
            for note_id in {_note_id(each) for each in [note, *earlier]}:
                self._index.delete_note(self._dismissal, note_id)
        else:
            self._index.put_note(self._dismissal, _note_id(note), note)

    def _of(self, point: Point) -> Membership:
        return point.membership(self._relation)

    def _load_copies(self, group_id: str, dismissed: list[str]) -> Group:
        """The group with its first copies, without its original."""
        page = self._index.scroll(
            _MAX_COPIES + 1,  # the original may be among them
            None,
            {
                "must": [group_filter(self._relation, [group_id])],
                "must_not": [{"has_id": dismissed}] if dismissed else [],
            },
        )
        # a copy may have been deleted or replaced between being found and being read
        copies = [p for p in page.points if self._of(p).group == group_id and self._of(p).original]
        more = page.next_cursor is not None or len(copies) > _MAX_COPIES
        return Group(group_id, None, copies[:_MAX_COPIES], more)

    def _originals(self, groups: list[Group]) -> dict[str, Point]:
        """The originals by group id, where they still hold the same image."""
        ids = {group.id: self._of(group.copies[0]).original or "" for group in groups}
        if not ids:
            return {}
        wanted = {"must": [{"has_id": sorted(set(ids.values()))}]}
        found = {point.id: point for point in self._index.scroll(len(ids), None, wanted).points}
        return {
            group_id: found[point_id]
            for group_id, point_id in ids.items()
            if point_id in found
            and group_id in (own_group_id(found[point_id]), self._of(found[point_id]).group)
        }

    def _dismissed_ids(self) -> dict[str, list[str]]:
        """Ids of the dismissed images by the id of the group that they are in now."""
        images: defaultdict[str, list[str]] = defaultdict(list)
        for notes in _pages_of(list(self._dismissals())):
            by_image = {note["image"]: note for note in notes}
            wanted = {"must": [{"has_id": list(by_image)}]}
            for point in self._index.scroll(len(by_image), None, wanted).points:
                group = self._of(point).group
                if group and _is_about(by_image[point.id], point, group):
                    images[group].append(point.id)
        return images

    def _dismissals(self) -> Iterator[Mapping[str, Any]]:
        cursor = None
        while True:
            notes, cursor = self._index.list_notes(self._dismissal, _PAGE, cursor)
            yield from notes
            if cursor is None:
                return


def _pages_of(notes: list[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    for at in range(0, len(notes), _PAGE):
        yield notes[at : at + _PAGE]


def _note_id(note: Mapping[str, Any]) -> str:
    """Notes of versions up to 0.6 name no content, and hold for one group."""
    image: str = note["image"]
    return image if "sha256" in note else f"{note['group']} {image}"


def _is_about(note: Mapping[str, Any], point: Point, group: str) -> bool:
    if "sha256" in note:
        return bool(note["sha256"] == point.sha256)
    return bool(note["group"] == group)
