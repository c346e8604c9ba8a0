"""Indexers: while one model takes another's place, every object is indexed with both.

A hint is done when both collections agree with the bucket, so that the alias can move, and move
back, at any moment. Which models are written is what the index itself says: those that have a
collection. `likeness migrate start` makes the new one's, `finish` drops the one left behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from likeness.errors import LikenessError
from likeness.indexing import CHUNK, Indexer, Outcome, Result, failed, newest
from likeness.ports import ObjectReader, VectorIndex
from likeness.records import Hint, ObjectBody, ObjectRef, ObjectState


class CachingReader:
    """A store that brings no bytes twice until it is told to forget them: what one model has
    looked at, the next one takes from here.
    """

    def __init__(self, store: ObjectReader) -> None:
        self._store = store
        self._bodies: dict[tuple[ObjectRef, str], ObjectBody] = {}

    def head(self, ref: ObjectRef) -> ObjectState | None:
        return self._store.head(ref)  # always what is true now

    def read(self, ref: ObjectRef, etag: str, max_bytes: int) -> ObjectBody:
        if (ref, etag) not in self._bodies:
            self._bodies[ref, etag] = self._store.read(ref, etag, max_bytes)
        return self._bodies[ref, etag]

    def forget(self) -> None:
        self._bodies.clear()


class Indexers:
    """Reconciles as an Indexer does, with each of its models that has a collection."""

    def __init__(
        self, index: VectorIndex, store: CachingReader, indexers: Sequence[Indexer]
    ) -> None:
        """The current model's indexer comes first, and all of them read from `store`."""
        self._index = index
        self._store = store
        self._indexers = indexers

    def reconcile(self, hints: Sequence[Hint]) -> dict[ObjectRef, Outcome]:
        """See Indexer.reconcile. An object that failed with one model has failed."""
        outcomes: dict[ObjectRef, Outcome] = {}
        pending = newest(hints)
        for at in range(0, len(pending), CHUNK):
            for outcome in self._reconciled(pending[at : at + CHUNK]):
                known = outcomes.get(outcome.ref)
                if known is None or _tells_more(outcome, known):
                    outcomes[outcome.ref] = outcome
            self._store.forget()
        return outcomes

    def _reconciled(self, hints: list[Hint]) -> Iterator[Outcome]:
        try:
            written = self._written()
        except LikenessError as error:
            yield from (failed(hint.ref, error) for hint in hints)
            return
        first, *others = written or self._indexers[:1]
        # What `finish` drops must not come back: an index without a collection gets one, no other.
        yield from first.reconcile(hints, create=not written or self._alone).values()
        for indexer in others:
            # the first has announced what is new, and to this one everything may be
            yield from indexer.reconcile(hints, create=False, announce=False).values()

    def _written(self) -> Sequence[Indexer]:
        """Asked for each chunk: a migration begins and ends while this process runs."""
        if self._alone:
            return self._indexers
        models = self._index.models()
        return [indexer for indexer in self._indexers if indexer.model in models]

    @property
    def _alone(self) -> bool:
        return len({indexer.model for indexer in self._indexers}) == 1


def _tells_more(outcome: Outcome, known: Outcome) -> bool:
    """An error before all else, and what was done before “unchanged”."""
    if outcome.error or known.error:
        return known.error is None
    return known.result is Result.UNCHANGED
