"""Indexer: make the index agree with the bucket, one batch of hints at a time.

An event is only a hint: it may arrive late, twice, out of order or never. Reconciliation therefore
reads both sides, writes where they differ, and reads both again before a hint counts as done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from likeness.descriptor_packing import pack
from likeness.duplicate_candidates import NewImage
from likeness.duplicate_detection import DuplicateDetector
from likeness.duplicates import Announce, announced, no_announcement
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
from likeness.partner_pictures import PartnerPictures
from likeness.ports import ObjectReader, VectorIndex
from likeness.preprocessing import Prepared
from likeness.proof.verdicts import Calibration
from likeness.records import (
    WHOLE,
    Hint,
    ImageInfo,
    ObjectBody,
    ObjectRef,
    ObjectState,
    Point,
    State,
    Version,
)
from likeness.settings import MIB, Limits
from likeness.stopwatch import StageTimer, untimed
from likeness.sync import settings_digest, sync_key
from likeness.tenants import Tenants

_MAX_WRITES = 3
# One message may hold any number of records; the chunk bounds the memory that is needed at a time.
_CHUNK = 10


class Result(StrEnum):
    """What happened to one object."""

    INDEXED = "indexed"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    REJECTED = "rejected"
    FAILED = "failed"


class Outcome(Struct, frozen=True):
    """The result for one object. `loops` counts its writes; an outcome with an `error` must be
    retried.

    `unannounced` is why its duplicates were not announced; the stored point lists them all the
    same.
    """

    ref: ObjectRef
    result: Result
    reason: str | None = None
    loops: int = 0
    error: LikenessError | None = None
    unannounced: str | None = None


class IndexerConfig(Struct, frozen=True):
    """How objects are indexed.

    Duplicates are detected only with a `calibration`. `keep_patches` stores patch vectors, where
    the model has them. With `tenants`, each point carries the tenant that its key names. Objects
    are read from the store by `parallel` threads; 1 means the caller's own thread.
    """

    schema: Schema = Schema()
    limits: Limits = Limits()
    calibration: Calibration | None = None
    keep_patches: bool = False
    tenants: Tenants | None = None
    parallel: int = 4


class _Snapshot(Struct, frozen=True):
    """One object as the index and the bucket hold it, read in that order. `point` is one of the
    forms that the index's replicas hold where they `differ`.
    """

    hint: Hint
    point: Point | None
    differ: bool
    state: ObjectState | None

    @property
    def ref(self) -> ObjectRef:
        return self.hint.ref


class _DecodedImage(Struct, frozen=True):
    """An object that was read and decoded, ready to be embedded. `texts` is its raw metadata."""

    snapshot: _Snapshot
    prepared: Prepared
    info: ImageInfo
    texts: Mapping[str, str]
    data: bytes


Outcomes = dict[ObjectRef, Outcome]
_Item = TypeVar("_Item", Hint, _Snapshot)
_Done = TypeVar("_Done")


class Indexer:
    """Reconciles objects with the collection of its embedder's model."""

    def __init__(
        self,
        store: ObjectReader,
        index: VectorIndex,
        embedder: Embedder,
        config: IndexerConfig | None = None,
        announce: Announce = no_announcement,
        clock: Callable[[], float] = time.time,
        stage: StageTimer = untimed,
        partners: ObjectReader | None = None,
    ) -> None:
        """`announce` gets new points with duplicates once they are stored. `stage` is entered for
        each timed step: embed, qdrant, proof. `partners`: where the pictures of suspected
        duplicates are read, by default the store itself.
        """
        self._store = store
        self._index = index
        self._embedder = embedder
        self._config = config = config or IndexerConfig()
        self._publish = announce
        self._clock = clock
        self._stage = stage
        self._pool = ThreadPoolExecutor(config.parallel) if config.parallel > 1 else None
        self._collection_ready = False
        spec, calibration = embedder.spec, config.calibration
        self._patch_dim = spec.patches.dim if spec.patches and config.keep_patches else None
        pictures = PartnerPictures(partners or store, config.limits, spec.preprocessing, self._pool)
        own = index.for_model(embedder.fingerprint)
        self._duplicates = (
            DuplicateDetector(own, embedder, calibration, pictures, stage) if calibration else None
        )
        tenant_prefix = config.tenants.prefix if config.tenants else None
        self._settings = settings_digest(config.schema, config.limits, tenant_prefix)

    @property
    def model(self) -> str:
        return self._embedder.fingerprint

    def reconcile(
        self, hints: Sequence[Hint], create: bool = True, announce: bool = True
    ) -> Outcomes:
        """Make the index agree with the bucket on these objects; never raises for one of them.

        A file that cannot be indexed becomes a point in the state “rejected”: a permanent fault, so
        its hint is done. An outcome with an `error` must be retried. Each chunk of hints needs one
        embedding run and one write.

        `create` makes the collection where it is missing; `announce` publishes new duplicates.
        """
        outcomes: Outcomes = {}
        for chunk in chunks(hints):
            outcomes |= self._reconcile_chunk(chunk, create, announce)
        return outcomes

    def _reconcile_chunk(self, hints: list[Hint], create: bool, announce: bool) -> Outcomes:
        outcomes = {hint.ref: Outcome(hint.ref, Result.UNCHANGED) for hint in hints}
        try:
            self._prepare_collection(create)
            self._sync(hints, outcomes, announce)
        except LikenessError as error:
            if isinstance(error, IndexMissing):
                self._collection_ready = False  # it was dropped: the next attempt creates it again
            # The index itself failed, so no object is known to be in sync: retry all of them.
            for ref, outcome in outcomes.items():
                if not outcome.error:
                    outcomes[ref] = failed(ref, error)
        return outcomes

    def _prepare_collection(self, create: bool) -> None:
        if not self._collection_ready:
            self._index.prepare(self.model, self._embedder.dim, self._patch_dim, create)
            self._collection_ready = True

    def _sync(self, pending: list[Hint], outcomes: Outcomes, announce: bool) -> None:
        """Read both sides, write the differences, and read again, until nothing differs."""
        new_images: set[ObjectRef] = set()
        for writes in range(_MAX_WRITES + 1):
            in_sync: list[_Snapshot] = []
            differing: list[_Snapshot] = []
            for snapshot in self._read_both(pending, outcomes):
                (in_sync if self._is_in_sync(snapshot) else differing).append(snapshot)
            if announce:
                new = [each.point for each in in_sync if each.point and each.ref in new_images]
                self._announce(new, outcomes)
            if not differing:
                return
            if writes < _MAX_WRITES:
                new_images |= self._apply(differing, outcomes, writes + 1)
                pending = [each.hint for each in differing if not outcomes[each.ref].error]
        for snapshot in differing:
            error = IndexContended(f"{snapshot.ref.key} kept changing while it was indexed")
            outcomes[snapshot.ref] = failed(snapshot.ref, error, _MAX_WRITES)

    def _read_both(self, hints: list[Hint], outcomes: Outcomes) -> list[_Snapshot]:
        # The index is read before the bucket: a change between the two reads shows as a
        # difference and is never mistaken for agreement.
        ids = [hint.ref.point_id for hint in hints]
        with self._stage("qdrant"):
            stored = self._index.retrieve_payloads(self.model, ids)

        def read(hint: Hint) -> _Snapshot:
            point_id = hint.ref.point_id
            differ = point_id in stored.differing
            return _Snapshot(hint, stored.points.get(point_id), differ, self._store.head(hint.ref))

        return self._for_each(hints, read, outcomes)

    def _is_in_sync(self, snapshot: _Snapshot) -> bool:
        return self._is_stored(snapshot) and (snapshot.point is None or snapshot.point.compared)

    def _lacks_comparison(self, snapshot: _Snapshot) -> bool:
        """Whether all but the comparison was done, by a function that died or is still at work."""
        return bool(self._duplicates) and self._is_stored(snapshot)

    def _is_stored(self, snapshot: _Snapshot) -> bool:
        point, state = snapshot.point, snapshot.state
        if snapshot.differ:
            return False  # another write, newer than on any replica, makes them equal
        if point is None or point.object is None or state is None:
            return (point is None or point.object is None) and state is None
        # The settings are compared too: after a new metadata key or a higher limit, a hint
        # indexes the object again.
        wanted = sync_key(self.model, self._settings, state)
        stored = sync_key(point.model, point.settings, point.object)
        return stored == wanted and point.object.version_id == state.version_id

    def _apply(self, differing: list[_Snapshot], outcomes: Outcomes, loop: int) -> set[ObjectRef]:
        """Write what the bucket holds. Returns the objects whose image was not stored before."""
        points = [self._point(each, State.GONE) for each in differing if each.state is None]
        images, rejected = self._images([each for each in differing if each.state], outcomes)
        points += [*rejected, *(image.point for image in images)]
        stored = {each.ref for each in differing if self._lacks_comparison(each)}
        if new := [point for point in points if point.compared or point.ref not in stored]:
            with self._stage("qdrant"):
                self._index.write(self.model, new)
        for point in points:
            outcomes[point.ref] = Outcome(point.ref, _RESULTS[point.state], point.reason, loop)
        # only now: of two functions that write at the same moment, one at least finds the other's
        if self._duplicates:
            for ref, error in self._duplicates.compare(images).items():
                outcomes[ref] = failed(ref, error, loop)
        before = {e.ref: e.point.sha256 for e in differing if e.point and e.point.compared}
        return {point.ref for point in points if point.sha256 != before.get(point.ref)}

    def _images(
        self, present: list[_Snapshot], outcomes: Outcomes
    ) -> tuple[list[NewImage], list[Point]]:
        """Read, decode and embed objects that exist: live images, and points of rejected ones."""
        rejected: list[Point] = []
        decoded: list[_DecodedImage] = []
        # Decoded one at a time, in this thread: four threads, each with its own malloc arena,
        # took 3.2 GB for ten RGBA images of 50 megapixels; one takes 0.9 GB.
        for snapshot, body in self._for_each(present, self._read, outcomes):
            if body is None:
                continue  # changed since it was compared: the next loop reads it again
            try:
                decoded.append(self._decode(snapshot, body))
            except ImageError as error:
                rejected.append(self._rejected(snapshot, error))
            except (ConfigurationError, MemoryError) as error:
                outcomes[snapshot.ref] = failed(snapshot.ref, error)
        images, featureless = self._embedded(decoded)
        return images, [*rejected, *featureless]

    def _embedded(self, decoded: list[_DecodedImage]) -> tuple[list[NewImage], list[Point]]:
        """Live images, and points of those in which the model sees nothing."""
        images: list[NewImage] = []
        rejected: list[Point] = []
        if not decoded:
            return images, rejected
        with self._stage("embed"):
            features = self._embedder.extract([each.prepared.tensor for each in decoded])
        for row, each in enumerate(decoded):
            try:
                check_vector(features.vectors[row])
            except ImageError as error:
                rejected.append(self._rejected(each.snapshot, error))
            else:
                point = self._live(each, features, row)
                images.append(NewImage(point, each.prepared, each.data))
        return images, rejected

    def _read(self, snapshot: _Snapshot) -> tuple[_Snapshot, ObjectBody | ImageError | None]:
        """The object's bytes, the error if they are too many, or None if the object changed."""
        assert snapshot.state is not None
        limit = self._config.limits.max_bytes
        if snapshot.state.size > limit:
            return snapshot, ImageTooLarge(
                f"{snapshot.state.size / MIB:.1f} MiB; at most {limit / MIB:.1f} MiB are indexed"
            )
        try:
            return snapshot, self._store.read(snapshot.ref, snapshot.state.etag, limit)
        except ObjectChanged:
            return snapshot, None
        except ImageTooLarge as error:
            return snapshot, error

    def _decode(self, snapshot: _Snapshot, body: ObjectBody | ImageError) -> _DecodedImage:
        """Raises ImageError for bytes that can never be indexed."""
        assert snapshot.state is not None
        if isinstance(body, ImageError):
            raise body
        image, info = self._embedder.decode(body.data, self._config.limits)
        texts = {**body.tags, **snapshot.state.metadata}
        prepared = self._embedder.preprocess(image)
        return _DecodedImage(snapshot, prepared, info, texts, body.data)

    def _live(self, image: _DecodedImage, features: BatchFeatures, row: int) -> Point:
        meta, invalid = self._config.schema.parse(image.texts)
        detail = f"metadata ignored, not of its type: {', '.join(invalid)}" if invalid else None
        fields: dict[str, Any] = {
            "image": image.info,
            "meta": meta,
            "detail": detail,
            "vector": features.vectors[row],
            "colours": image.prepared.colours.tobytes(),
            "content": None if image.prepared.content == WHOLE else image.prepared.content,
            "compared": not self._duplicates,
        }
        if features.local is not None:
            salience = None if features.salience is None else features.salience[row]
            fields["local"] = pack(features.local[row], salience)
        if features.patches is not None and self._patch_dim:
            fields["patches"] = features.patches[row]
        return self._point(image.snapshot, State.LIVE, **fields)

    def _rejected(self, snapshot: _Snapshot, error: ImageError) -> Point:
        return self._point(snapshot, State.REJECTED, reason=error.slug, detail=str(error))

    def _point(self, snapshot: _Snapshot, state: State, **fields: Any) -> Point:
        stored = snapshot.point.version if snapshot.point else Version()
        if state is State.LIVE and self._lacks_comparison(snapshot):
            version = stored  # nothing is written
        elif snapshot.hint.sequencer > stored.sequencer:
            version = Version(snapshot.hint.sequencer)
        else:
            # The bucket differs although the stored version is as new: an undelete, sequencers
            # out of order, drift, or replicas that differ.
            version = Version(stored.sequencer, stored.rev + 1)
        tenants = self._config.tenants
        return Point(
            ref=snapshot.ref,
            state=state,
            version=version,
            model=self.model,
            settings=self._settings,
            indexed_at_s=self._clock(),
            object=snapshot.state,
            tenant=tenants.owner(snapshot.ref.key) if tenants else None,
            **fields,
        )

    def _announce(self, new: list[Point], outcomes: Outcomes) -> None:
        """Publish duplicates as they are stored: this indexer's write may have lost to another.

        A failing event bus must not stop indexing: the stored points list the duplicates too.
        """
        points = announced(new)
        if not points:
            return
        try:
            self._publish(points)
        except Unavailable as error:
            for point in points:
                outcome = outcomes[point.ref]
                outcomes[point.ref] = msgspec.structs.replace(outcome, unannounced=str(error))

    def _for_each(
        self, items: Sequence[_Item], work: Callable[[_Item], _Done], outcomes: Outcomes
    ) -> list[_Done]:
        """Do the work for each item, in parallel; an error of the store fails that item alone."""

        def guarded(item: _Item) -> _Done | StoreUnavailable | ConfigurationError:
            try:
                return work(item)
            except (StoreUnavailable, ConfigurationError) as error:
                return error

        done = []
        results = self._pool.map(guarded, items) if self._pool else map(guarded, items)
        for item, result in zip(items, results, strict=True):
            if isinstance(result, StoreUnavailable | ConfigurationError):
                outcomes[item.ref] = failed(item.ref, result)
            else:
                done.append(result)
        return done


_RESULTS = {
    State.LIVE: Result.INDEXED,
    State.GONE: Result.REMOVED,
    State.REJECTED: Result.REJECTED,
}


def chunks(hints: Sequence[Hint]) -> Iterator[list[Hint]]:
    """The newest hint for each object, a limited number at a time."""
    newest: dict[ObjectRef, Hint] = {}
    for hint in hints:
        known = newest.get(hint.ref)
        if known is None or hint.sequencer > known.sequencer:
            newest[hint.ref] = hint
    pending = list(newest.values())
    for at in range(0, len(pending), _CHUNK):
        yield pending[at : at + _CHUNK]


def failed(ref: ObjectRef, error: LikenessError | MemoryError, loops: int = 0) -> Outcome:
    if isinstance(error, MemoryError):
        error = ConfigurationError("the function's memory is too small for this image")
    return Outcome(ref, Result.FAILED, error.slug, loops, error)
