"""Feedback of callers on results, kept as notes; `likeness evaluate --feedback` reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct

from likeness.ports import IndexView

_KIND = "feedback"
_PAGE = 500


class FeedbackEvent(Struct, frozen=True):
    """One result of one request. `query_id`, where it was given, lets the query be asked again."""

    request_id: str
    id: str
    kind: Literal["click", "relevant", "not_relevant"]
    at_s: float
    query_id: str | None = None


class Feedback:
    def __init__(self, index: IndexView) -> None:
        self._index = index

    def add(self, opinion: FeedbackEvent) -> None:
        """Kept once: the same again, or another judgement, replaces the first."""
        kind = "click" if opinion.kind == "click" else "judgement"
        # callers choose these texts: put together by any separator, two opinions could be one
        note_id = msgspec.json.encode((opinion.request_id, opinion.id, kind)).decode()
        self._index.put_note(_KIND, note_id, msgspec.to_builtins(opinion))

    def all(self) -> Iterator[FeedbackEvent]:
        """Every opinion, in no order."""
        cursor = None
        while True:
            notes, cursor = self._index.list_notes(_KIND, _PAGE, cursor)
            yield from (msgspec.convert(note, FeedbackEvent) for note in notes)
            if cursor is None:
                return
