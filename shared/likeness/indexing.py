"""Indexer: make the index agree with the bucket, one batch of hints at a time.

An event is only a hint: it may come late, twice, out of order or not at all. So reconciliation
reads what the bucket says now, writes where the index differs, and looks again before it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from likeness.descriptor_packing import pack
from likeness.duplicates import Announce, DuplicateDetector, no_announcement
from likeness.embedding import BatchFeatures, Embedder, check_vector
from likeness.errors import (
    ConfigurationError,
    ImageError,
    ImageTooLarge,
    IndexContended,
    IndexMissing,
    LikenessError,
    ObjectChanged,
    StoreUnavailable,
    Unavailable,
)
from likeness.filters import Schema
from likeness.images import decode
from likeness.ports import ObjectReader, VectorIndex
from likeness.preprocessing import Prepared
from likeness.proof.verdicts import Calibration
from likeness.records import (
    Exactly,
    Hint,
    ImageInfo,
    ObjectBody,
    ObjectRef,
    ObjectState,
    OlderThan,
    Point,
    PointWrite,
    State,
    Version,
)
from likeness.settings import MIB, Limits
from likeness.stopwatch import Stage, untimed
from likeness.sync import settings_digest, sync_key
from likeness.tenants import Tenants

_WRITES = 3
_PARALLEL = 4
# One message may hold any number of records; what is under way at a time bounds the memory.
CHUNK = 10

T = TypeVar("T")
R = TypeVar("R")


class Result(StrEnum):
    """What reconciling one object came to."""

    INDEXED = "indexed"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    REJECTED = "rejected"
    FAILED = "failed"


class Outcome(Struct, frozen=True):
    """`loops` counts the writes it took; `error` is why it failed and must be tried again.

    `unannounced` is why nobody was told of its duplicates: the point names them all the same.
    """

    ref: ObjectRef
    result: Result
    reason: str | None = None
    loops: int = 0
    error: LikenessError | None = None
    unannounced: str | None = None


class _Look(Struct, frozen=True):
    """One object as the index and the bucket say it is, in that order of reading."""

    hint: Hint
    point: Point | None
    state: ObjectState | None

    @property
    def ref(self) -> ObjectRef:
        return self.hint.ref


class _Prepared(Struct, frozen=True):
    """An object that was read and decoded, ready to be embedded."""

    look: _Look
    prepared: Prepared
    image: ImageInfo
    texts: Mapping[str, str]


class Indexer:
    """Reconciles objects with the collection of its embedder's model."""

    def __init__(
        self,
        store: ObjectReader,
        index: VectorIndex,
        embedder: Embedder,
        schema: Schema | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.time,
        parallel: int = _PARALLEL,
        calibration: Calibration | None = None,
        keep_patches: bool = False,
        announce: Announce = no_announcement,
        tenants: Tenants | None = None,
        stage: Stage = untimed,
    ) -> None:
        """`parallel` objects are read from the store at a time; 1 keeps it in this thread.

        With a calibration, duplicates are found as they come in, and announced once written. With
        tenants, each object is its tenant's. `stage` is entered for what is timed: embed, qdrant.
        """
        self._stage = stage
        self._store = store
        self._index = index
        self._embedder = embedder
        self._schema = schema or Schema()
        self._limits = limits or Limits()
        self._clock = clock
        self._pool = ThreadPoolExecutor(parallel) if parallel > 1 else None
        self._prepared = False
        patches = embedder.spec.patches
        self._patches_dim = patches.dim if patches and keep_patches else None
        self._duplicates = (
            DuplicateDetector(index, embedder.spec, calibration, stage) if calibration else None
        )
        self._tell = announce
        self._tenants = tenants
        tenant_prefix = tenants.prefix if tenants else None
        self._settings = settings_digest(self._schema, self._limits, tenant_prefix)

    @property
    def model(self) -> str:
        return self._embedder.fingerprint

    def reconcile(
        self, hints: Sequence[Hint], create: bool = True, announce: bool = True
    ) -> dict[ObjectRef, Outcome]:
        """Make the index agree with the bucket on these objects; never raises for one of them.

        Bad images become points in the state “rejected” (a permanent fault, acknowledged). What
        must be tried again has an `error`. One embedding run and one write serve the whole batch.

        `create`: the collection, where there is none. `announce`: duplicates that are found.
        """
        pending = newest(hints)
        outcomes = {hint.ref: Outcome(hint.ref, Result.UNCHANGED) for hint in pending}
        for at in range(0, len(pending), CHUNK):
            self._reconcile_chunk(pending[at : at + CHUNK], outcomes, create, announce)
        return outcomes

    def _reconcile_chunk(
        self, hints: list[Hint], outcomes: dict[ObjectRef, Outcome], create: bool, announce: bool
    ) -> None:
        try:
            self._prepare_index(create)
            self._reconcile(hints, outcomes, announce)
        except LikenessError as error:
            if isinstance(error, IndexMissing):
                self._prepared = False  # somebody dropped the collection: the retry makes it anew
            # The index itself is down: nothing that was not seen to agree is acknowledged.
            for ref in (hint.ref for hint in hints):
                if not outcomes[ref].error:
                    outcomes[ref] = failed(ref, error)

    def _prepare_index(self, create: bool) -> None:
        if not self._prepared:
            self._index.prepare(self.model, self._embedder.dim, self._patches_dim, create)
            self._prepared = True

    def _reconcile(
        self, pending: list[Hint], outcomes: dict[ObjectRef, Outcome], announce: bool
    ) -> None:
        news: set[ObjectRef] = set()
        for loop in range(_WRITES + 1):
            looks: list[_Look] = []
            agreed: list[_Look] = []
            for look in self._look(pending, outcomes):
                (agreed if self._agrees(look) else looks).append(look)
            if announce:
                self._announce([look for look in agreed if look.ref in news], outcomes)
            if not looks:
                return
            if loop < _WRITES:
                pending = self._mend(looks, outcomes, loop + 1, news)
        for look in looks:
            error = IndexContended(f"{look.ref.key} kept changing while it was indexed")
            outcomes[look.ref] = Outcome(look.ref, Result.FAILED, error.slug, _WRITES, error)

    def _look(self, hints: list[Hint], outcomes: dict[ObjectRef, Outcome]) -> list[_Look]:
        # The index is read before the bucket: a write that comes between them is seen as a
        # difference, never taken for agreement.
        ids = [hint.ref.point_id for hint in hints]
        with self._stage("qdrant"):
            points = self._index.retrieve_payloads(self._embedder.fingerprint, ids)

        def look(hint: Hint) -> _Look:
            return _Look(hint, points.get(hint.ref.point_id), self._store.head(hint.ref))

        return self._each(look, hints, lambda hint: hint.ref, outcomes)

    def _agrees(self, look: _Look) -> bool:
        point, state = look.point, look.state
        if point is None or point.object is None or state is None:
            return (point is None or point.object is None) and state is None
        # a key declared or a limit raised since: a hint at the object takes it in anew
        wanted = sync_key(self._embedder.fingerprint, self._settings, state)
        found = sync_key(point.model, point.settings, point.object)
        return found == wanted and point.object.version_id == state.version_id

    def _mend(
        self,
        looks: list[_Look],
        outcomes: dict[ObjectRef, Outcome],
        loop: int,
        news: set[ObjectRef],
    ) -> list[Hint]:
        """Write what the bucket said; returns the hints that need another look. `news` gets those
        whose picture was not there before.
        """
        writes = [self._write(look, State.GONE) for look in looks if look.state is None]
        present = [look for look in looks if look.state]
        prepared = []
        # Decoded one at a time, in this thread: four at once, each in its thread's own arena,
        # took 3.2 GB for ten RGBA pictures of 50 megapixels; so they take 0.9 GB.
        for look, body in self._each(self._read, present, lambda look: look.ref, outcomes):
            if body is None:
                continue  # changed meanwhile: the next look says to what
            try:
                prepared.append(self._prepare(look, body))
            except ImageError as error:
                writes.append(self._rejected(look, error))
            except (ConfigurationError, MemoryError) as error:
                outcomes[look.ref] = failed(look.ref, error)
        if prepared:
            with self._stage("embed"):
                found = self._embedder.extract([item.prepared.tensor for item in prepared])
            writes += [self._live(item, found, row) for row, item in enumerate(prepared)]
        if self._duplicates:
            writes = self._duplicates.annotate(writes)
        if writes:
            with self._stage("qdrant"):
                self._index.write(self._embedder.fingerprint, writes)
        before = {look.ref: look.point.sha256 for look in looks if look.point}
        for point in (write.point for write in writes):
            if point.sha256 != before.get(point.ref):
                news.add(point.ref)
            outcomes[point.ref] = Outcome(point.ref, _RESULTS[point.state], point.reason, loop)
        return [look.hint for look in looks if not outcomes[look.ref].error]

    def _announce(self, looks: list[_Look], outcomes: dict[ObjectRef, Outcome]) -> None:
        """Tell of duplicates that stand in the index now: a write may have lost to another.

        A bus that does not take them must not hold the index up: the points say it too.
        """
        points = [look.point for look in looks if look.point and look.point.partners]
        if not points:
            return
        try:
            self._tell(points)
        except Unavailable as error:
            for point in points:
                outcome = outcomes[point.ref]
                outcomes[point.ref] = msgspec.structs.replace(outcome, unannounced=str(error))

    def _read(self, look: _Look) -> tuple[_Look, ObjectBody | ImageError | None]:
        """The object's bytes, why they are too many, or None where the object has changed."""
        assert look.state is not None
        limit = self._limits.max_bytes
        if look.state.size > limit:
            return look, ImageTooLarge(
                f"{look.state.size / MIB:.1f} MiB; at most {limit / MIB:.1f} MiB are indexed"
            )
        try:
            return look, self._store.read(look.ref, look.state.etag, limit)
        except ObjectChanged:
            return look, None
        except ImageTooLarge as error:
            return look, error

    def _prepare(self, look: _Look, body: ObjectBody | ImageError) -> _Prepared:
        """Raises ImageError for bytes that can never be indexed."""
        assert look.state is not None
        if isinstance(body, ImageError):
            raise body
        image, info = decode(body.data, self._limits, self._embedder.decode_size)
        texts = {**body.tags, **look.state.metadata}
        return _Prepared(look, self._embedder.preprocess(image), info, texts)

    def _live(self, item: _Prepared, found: BatchFeatures, row: int) -> PointWrite:
        try:
            check_vector(found.vectors[row])
        except ImageError as error:
            return self._rejected(item.look, error)
        meta, misfits = self._schema.parse(item.texts)
        detail = f"metadata left out, not of its type: {', '.join(misfits)}" if misfits else None
        facts: dict[str, Any] = {
            "image": item.image,
            "meta": meta,
            "detail": detail,
            "vector": found.vectors[row],
            "colours": item.prepared.colours.tobytes(),
        }
        if found.local is not None:
            salience = None if found.salience is None else found.salience[row]
            facts["local"] = pack(found.local[row], salience)
        if found.patches is not None and self._patches_dim:
            facts["patches"] = found.patches[row]
        return self._write(item.look, State.LIVE, **facts)

    def _rejected(self, look: _Look, error: ImageError) -> PointWrite:
        return self._write(look, State.REJECTED, reason=error.slug, detail=str(error))

    def _write(self, look: _Look, state: State, **rest: Any) -> PointWrite:
        stored = look.point.version if look.point else Version()
        condition: OlderThan | Exactly
        if look.hint.sequencer > stored.sequencer:
            version = Version(look.hint.sequencer)
            condition = OlderThan(version)
        else:
            # S3 disagrees although the stored version is as new: undelete, misordered sequencers,
            # drift
            version = Version(stored.sequencer, stored.rev + 1)
            condition = Exactly(stored)
        point = Point(
            ref=look.ref,
            state=state,
            version=version,
            model=self._embedder.fingerprint,
            settings=self._settings,
            indexed_at_s=self._clock(),
            object=look.state,
            tenant=self._tenants.owner(look.ref.key) if self._tenants else None,
            **rest,
        )
        return PointWrite(point, condition)

    def _each(
        self,
        work: Callable[[T], R],
        items: Sequence[T],
        ref: Callable[[T], ObjectRef],
        outcomes: dict[ObjectRef, Outcome],
    ) -> list[R]:
        """Do the work for each item, side by side; a store's fault fails that item alone."""

        def guarded(item: T) -> R | StoreUnavailable | ConfigurationError:
            try:
                return work(item)
            except (StoreUnavailable, ConfigurationError) as error:
                return error

        done = []
        results = self._pool.map(guarded, items) if self._pool else map(guarded, items)
        for item, result in zip(items, results, strict=True):
            if isinstance(result, StoreUnavailable | ConfigurationError):
                outcomes[ref(item)] = failed(ref(item), result)
            else:
                done.append(result)
        return done


def newest(hints: Sequence[Hint]) -> list[Hint]:
    """One hint for each object, the latest."""
    found: dict[ObjectRef, Hint] = {}
    for hint in hints:
        known = found.get(hint.ref)
        if known is None or hint.sequencer > known.sequencer:
            found[hint.ref] = hint
    return list(found.values())


_RESULTS = {
    State.LIVE: Result.INDEXED,
    State.GONE: Result.REMOVED,
    State.REJECTED: Result.REJECTED,
}


def failed(ref: ObjectRef, error: LikenessError | MemoryError) -> Outcome:
    if isinstance(error, MemoryError):
        error = ConfigurationError("the function's memory is too small for this image")
    return Outcome(ref, Result.FAILED, error.slug, error=error)
