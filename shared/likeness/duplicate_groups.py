"""Groups of duplicates and of variants: who belongs together, whatever the order of arrival.

A group is a connected set of pairs. Its original is the oldest of its images, and names it; so each
function that sees a part of a group knows which name wins. Functions that join the same groups at
the same moment do not wait for each other: each one changes what it read, reads again, and goes on
until nothing differs.
"""

from __future__ import annotations

import math
import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec import structs

from likeness.errors import IndexContended
from likeness.ports import VectorIndex
from likeness.records import POINT_NAMESPACE, Point, Regrouping, Relation, State

Pair = tuple[Point, Point]
_ATTEMPTS = 8
_FIELDS = {Relation.DUPLICATE: "group", Relation.VARIANT: "variant_group"}


def own_group_id(point: Point) -> str:
    """The id of the group whose original is this point. A new image at the key has a new group."""
    return str(uuid.uuid5(POINT_NAMESPACE, f"{point.id}\0{point.sha256}"))


def group_filter(relation: Relation, groups: Sequence[str]) -> dict[str, object]:
    """A condition for the members of any of these groups."""
    return {"key": _FIELDS[relation], "match": {"any": list(groups)}}


def without_group(relation: Relation) -> dict[str, object]:
    """A condition for the images in no group."""
    return {"is_empty": {"key": _FIELDS[relation]}}


class DuplicateGroups:
    """Keeps each image of one model's collection in the group of its duplicates or variants."""

    def __init__(self, index: VectorIndex, model: str) -> None:
        """`index`: its readers see this model's collection."""
        self._index = index
        self._model = model

    def join(self, pairs: Mapping[Relation, Sequence[Pair]]) -> None:
        """Put both images of each pair into one group.

        A pair is left out once one of its images is another than when it was compared. Raises
        IndexContended where the same groups keep changing.
        """
        seen = {point.id: point for of in pairs.values() for pair in of for point in pair}
        now: Mapping[str, Point] = seen
        merged: dict[tuple[Relation, str, tuple[str, ...]], Regrouping] = {}
        for _ in range(_ATTEMPTS):
            wanted = [
                each
                for relation, of_relation in pairs.items()
                for each in self._regroupings(relation, _still_true(of_relation, now))
            ]
            wanted += filter(self._has_stragglers, merged.values())
            if not wanted:
                return
            self._index.regroup(self._model, wanted)
            for each in wanted:
                if each.merged:
                    known = (each.relation, each.group, tuple(each.merged))
                    merged[known] = structs.replace(each, joining=())
            now = self._index.retrieve_payloads(self._model, list(seen)).points
        raise IndexContended("the groups of duplicates kept changing while they were joined")

    def _has_stragglers(self, regrouping: Regrouping) -> bool:
        """Whether another function has given an image a merged group, which it had read before."""
        of_merged = {"must": [group_filter(regrouping.relation, regrouping.merged)]}
        return bool(self._index.scroll(1, None, of_merged).points)

    def _regroupings(self, relation: Relation, pairs: Sequence[Pair]) -> list[Regrouping]:
        parts = list(_connected(relation, pairs))
        originals = self._originals(relation, [point for part in parts for point in part])
        found = (_regrouping(relation, part, originals) for part in parts)
        return [each for each in found if each]

    def _originals(self, relation: Relation, members: Sequence[Point]) -> Mapping[str, Point]:
        """The originals of these members' groups, by id, as far as they are not among them."""
        known = {point.id for point in members}
        ids = {point.membership(relation).original for point in members} - {None} - known
        if not ids:
            return {}
        return self._index.retrieve_payloads(self._model, sorted(filter(None, ids))).points


def _still_true(pairs: Sequence[Pair], now: Mapping[str, Point]) -> list[Pair]:
    """The pairs as they are stored now, where both images are still those that were compared."""
    present = ((pair, (now.get(pair[0].id), now.get(pair[1].id))) for pair in pairs)
    return [
        (one, other)
        for pair, (one, other) in present
        if one and other and (one.sha256, other.sha256) == (pair[0].sha256, pair[1].sha256)
    ]


def _connected(relation: Relation, pairs: Iterable[Pair]) -> Iterable[list[Point]]:
    """The points that are connected by pairs, or by groups that they are in already."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while (parent := parents.setdefault(name, name)) != name:
            name = parent
        return name

    points: dict[str, Point] = {}
    for pair in pairs:
        parents[root(pair[0].id)] = root(pair[1].id)
        for point in pair:
            points[point.id] = point
            parents[root(point.id)] = root(point.membership(relation).group or point.id)
    parts = defaultdict(list)
    for point in points.values():
        parts[root(point.id)].append(point)
    return parts.values()


def _regrouping(
    relation: Relation, members: Sequence[Point], originals: Mapping[str, Point]
) -> Regrouping | None:
    """What makes one group of the members, or None where they are one already."""
    groups = {point.membership(relation).group for point in members}
    named = {point.membership(relation).original for point in members}
    older = [
        each
        for each in originals.values()
        if each.id in named and _names_one(each, relation, groups)
    ]
    original = min([*members, *older], key=_age)
    wanted = own_group_id(original)
    if groups == {wanted}:
        return None
    merged = sorted(group for group in groups if group and group != wanted)
    joining = [point for point in members if not point.membership(relation).group]
    return Regrouping(relation, wanted, original, merged, joining)


def _names_one(original: Point, relation: Relation, groups: set[str | None]) -> bool:
    """Whether it still belongs to one of the groups: it may have been replaced by another image."""
    own = {own_group_id(original), original.membership(relation).group}
    return original.state is State.LIVE and not own.isdisjoint(groups)


def _age(point: Point) -> tuple[float, str]:
    """A sort key: the oldest object first, then by key."""
    return (point.object.last_modified_s if point.object else math.inf), point.ref.key
