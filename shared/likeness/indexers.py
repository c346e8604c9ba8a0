"""Indexers: during a migration, every object is indexed with both models.

A hint is done when both collections agree with the bucket, so the alias can be switched, and
switched back, at any moment. Only models that have a collection are written: `likeness migrate
start` creates the new model's, `finish` drops the old one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from likeness.duplicates import Announce, no_announcement
from likeness.embedding import Embedder
from likeness.errors import LikenessError
from likeness.indexing import Indexer, IndexerConfig, Outcome, Outcomes, Result, chunks, failed
from likeness.ports import ObjectReader, VectorIndex
from likeness.proof.verdicts import load_calibration
from likeness.records import Hint, ObjectBody, ObjectRef, ObjectState
from likeness.settings import Settings
from likeness.stopwatch import StageTimer, untimed
from likeness.tenants import Tenants


class CachingReader:
    """A store that downloads each object once: what one model's indexer has read, the next one
    gets from memory. `clear` empties it.
    """

    def __init__(self, store: ObjectReader) -> None:
        self._store = store
        self._bodies: dict[tuple[ObjectRef, str], ObjectBody] = {}

    def head(self, ref: ObjectRef) -> ObjectState | None:
        return self._store.head(ref)  # never cached: reconciliation needs the present state

    def read(self, ref: ObjectRef, etag: str, max_bytes: int) -> ObjectBody:
        if (ref, etag) not in self._bodies:
            self._bodies[ref, etag] = self._store.read(ref, etag, max_bytes)
        return self._bodies[ref, etag]

    def clear(self) -> None:
        self._bodies.clear()


class Indexers:
    """Reconciles as an Indexer does, with each of its models that has a collection."""

    def __init__(
        self, index: VectorIndex, store: CachingReader, indexers: Sequence[Indexer]
    ) -> None:
        """The current model's indexer comes first; all of them read from `store`."""
        self._index = index
        self._store = store
        self._indexers = indexers
        self._single_model = len({indexer.model for indexer in indexers}) == 1

    def reconcile(self, hints: Sequence[Hint]) -> Outcomes:
        """See Indexer.reconcile. An object that failed with one model has failed."""
        outcomes: Outcomes = {}
        for chunk in chunks(hints):
            for outcome in self._reconcile_chunk(chunk):
                known = outcomes.get(outcome.ref)
                if known is None or _outranks(outcome, known):
                    outcomes[outcome.ref] = outcome
            self._store.clear()
        return outcomes

    def _reconcile_chunk(self, hints: list[Hint]) -> Iterator[Outcome]:
        """The outcomes of one model after the other."""
        try:
            written = self._with_collection()
        except LikenessError as error:
            yield from (failed(hint.ref, error) for hint in hints)
            return
        # A collection that `finish` dropped must not return: only an empty index gets a new one.
        create = not written or self._single_model
        first, *others = written or self._indexers[:1]
        yield from first.reconcile(hints, create).values()
        for indexer in others:
            # The first one has announced new duplicates; to this model every image may be new.
            yield from indexer.reconcile(hints, create=False, announce=False).values()

    def _with_collection(self) -> Sequence[Indexer]:
        """Asked for each chunk: a migration may start or finish while this process runs."""
        if self._single_model:
            return self._indexers
        models = self._index.models()
        return [indexer for indexer in self._indexers if indexer.model in models]


def _outranks(outcome: Outcome, known: Outcome) -> bool:
    """An error comes before everything else, any other result before “unchanged”."""
    if outcome.error or known.error:
        return known.error is None
    return known.result is Result.UNCHANGED


def open_indexers(
    settings: Settings,
    index: VectorIndex,
    embedders: Sequence[Embedder],
    store: ObjectReader,
    announce: Announce = no_announcement,
    stage: StageTimer = untimed,
) -> Indexers:
    """One for each of the settings' model bundles, which `embedders` were opened from.

    Raises ModelBundleError for a damaged calibration.
    """
    cache = CachingReader(store)

    def open_indexer(folder: Path, embedder: Embedder) -> Indexer:
        config = IndexerConfig(
            schema=settings.schema,
            limits=settings.limits,
            calibration=load_calibration(folder, embedder.fingerprint),
            keep_patches=settings.keep_patches,
            tenants=Tenants(settings.prefix) if settings.tenant_claim else None,
        )
        # Not from the cache: a batch's partners may be a hundred files.
        return Indexer(cache, index, embedder, config, announce, stage=stage, partners=store)

    return Indexers(index, cache, list(map(open_indexer, settings.model_dirs, embedders)))
