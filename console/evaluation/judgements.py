"""Judgements: feedback events, grouped by query."""

from __future__ import annotations

from collections.abc import Iterable, Set

from msgspec import Struct

from likeness.feedback import FeedbackEvent


class Judgements(Struct, frozen=True):
    """Feedback on one query's results. Each id is in one of the sets; `clicked` are those without a
    judgement.
    """

    query_id: str
    relevant: Set[str] = frozenset()
    not_relevant: Set[str] = frozenset()
    clicked: Set[str] = frozenset()

    @property
    def right(self) -> Set[str]:
        """Relevant results. Clicks count only if nothing was judged relevant."""
        return self.relevant or self.clicked

    @property
    def ids(self) -> Set[str]:
        return self.relevant | self.not_relevant | self.clicked

    def restricted_to(self, ids: Set[str]) -> Judgements:
        """Without feedback on other results."""
        kept = (each & ids for each in (self.relevant, self.not_relevant, self.clicked))
        return Judgements(self.query_id, *kept)


def by_query(events: Iterable[FeedbackEvent]) -> tuple[list[Judgements], int]:
    """Each query once, however often it was sent, and the number of events without a query.

    One event of a request may carry the query_id for all of them. A judgement overrides clicks, and
    a later judgement an earlier one on the same result.
    """
    ordered = sorted(events, key=lambda event: (event.kind != "click", event.at_s))
    query_of = {event.request_id: event.query_id for event in ordered if event.query_id}
    last: dict[str, dict[str, str]] = {}
    without = 0
    for event in ordered:
        query_id = event.query_id or query_of.get(event.request_id)
        if query_id:
            last.setdefault(query_id, {})[event.id] = event.kind
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
