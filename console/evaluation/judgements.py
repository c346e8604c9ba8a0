"""Feedback events → what was judged of each query's results."""

from __future__ import annotations

from collections.abc import Iterable, Set

from msgspec import Struct

from likeness.feedback import FeedbackEvent


class Judgements(Struct, frozen=True):
    """What was said of one query's results, each id in one of the sets: clicked are those that
    nobody judged.
    """

    query_id: str
    relevant: Set[str] = frozenset()
    not_relevant: Set[str] = frozenset()
    clicked: Set[str] = frozenset()

    @property
    def right(self) -> Set[str]:
        """A click only tells what looked right: it counts where nothing was judged relevant."""
        return self.relevant or self.clicked

    @property
    def ids(self) -> Set[str]:
        return self.relevant | self.not_relevant | self.clicked

    def among(self, ids: Set[str]) -> Judgements:
        """What was said of these alone."""
        kept = (each & ids for each in (self.relevant, self.not_relevant, self.clicked))
        return Judgements(self.query_id, *kept)


def by_query(opinions: Iterable[FeedbackEvent]) -> tuple[list[Judgements], int]:
    """Each query once, however often it was asked, and how many opinions name none.

    A request's query_id may stand in one of its opinions alone. Of two judgements on one result,
    the later holds; both are held above clicks.
    """
    said = sorted(opinions, key=lambda o: (o.kind != "click", o.at_s))
    query_of = {opinion.request_id: opinion.query_id for opinion in said if opinion.query_id}
    last: dict[str, dict[str, str]] = {}
    without = 0
    for opinion in said:
        query_id = opinion.query_id or query_of.get(opinion.request_id)
        if query_id:
            last.setdefault(query_id, {})[opinion.id] = opinion.kind
        else:
            without += 1

    def of_kind(kinds: dict[str, str], wanted: str) -> frozenset[str]:
        return frozenset(point_id for point_id, kind in kinds.items() if kind == wanted)

    return [
        Judgements(
            query_id,
            *(of_kind(kinds, kind) for kind in ("relevant", "not_relevant", "click")),
        )
        for query_id, kinds in last.items()
    ], without
