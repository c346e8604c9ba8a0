"""Callers' feedback on results, stored as notes; `likeness evaluate --feedback` reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct

from likeness.ports import IndexView

_KIND = "feedback"
_PAGE = 500


class FeedbackEvent(Struct, frozen=True):
    """Feedback on one result of one request. With a `query_id` the query can be repeated."""

    request_id: str
    id: str
    kind: Literal["click", "relevant", "not_relevant"]
    at_s: float
    query_id: str | None = None


class FeedbackStore:
    """The feedback events in an index."""

    def __init__(self, index: IndexView) -> None:
        self._index = index

    def add(self, event: FeedbackEvent) -> None:
        """Store an event. A click or a judgement replaces an earlier one on the same result."""
        kind = "click" if event.kind == "click" else "judgement"
        # Callers choose these texts, so no separator is safe: JSON keeps different ids apart.
        note_id = msgspec.json.encode((event.request_id, event.id, kind)).decode()
        self._index.put_note(_KIND, note_id, msgspec.to_builtins(event))

    def all(self) -> Iterator[FeedbackEvent]:
        """Every event, in no particular order."""
        cursor = None
        while True:
            notes, cursor = self._index.list_notes(_KIND, _PAGE, cursor)
            yield from (msgspec.convert(note, FeedbackEvent) for note in notes)
            if cursor is None:
                return
