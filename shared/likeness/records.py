"""Frozen values that travel between the parts: what S3 says, what the index holds."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Payload = Mapping[str, Any]

# Any fixed UUID would do; it only has to stay the same for as long as an index lives.
POINT_NAMESPACE = uuid.UUID("6f1d3a0e-2c58-5b8e-9a44-0c4e5ad1b7c3")

# Qdrant compares numbers in ranges as float64, exact up to 2**53 (see Version).
_LOW_BITS = 52
_LOW_MASK = (1 << _LOW_BITS) - 1


class State(StrEnum):
    """What a point says of its object. A keyword, so that filters can name it."""

    LIVE = "live"
    GONE = "gone"
    REJECTED = "rejected"


class ObjectRef(Struct, frozen=True, order=True):
    """Where an object lives. `key` is the plain key, never URL-encoded."""

    bucket: str
    key: str

    @property
    def point_id(self) -> str:
        """The id of this object's point: the same for every version of it."""
        return str(uuid.uuid5(POINT_NAMESPACE, f"{self.bucket}\0{self.key}"))


class Hint(Struct, frozen=True):
    """“Look at this object.” `sequencer` only breaks ties; 0 where the sender had none."""

    ref: ObjectRef
    sequencer: int = 0
    event_time_s: float | None = None


class Version(Struct, frozen=True, order=True):
    """A point's place in the order of writes: the S3 sequencer, then our own revision.

    A sequencer has up to 72 bits; a range filter over one 64-bit field dropped newer writes, so
    it is stored as two exact halves.
    """

    sequencer: int = 0
    rev: int = 0

    @property
    def hi(self) -> int:
        return self.sequencer >> _LOW_BITS

    @property
    def lo(self) -> int:
        return self.sequencer & _LOW_MASK

    @classmethod
    def from_halves(cls, hi: int, lo: int, rev: int) -> Version:
        return cls((hi << _LOW_BITS) | lo, rev)


class ObjectState(Struct, frozen=True):
    """The present state of an object, as S3's HeadObject told it."""

    etag: str
    version_id: str | None
    size: int
    content_type: str
    last_modified_s: float
    metadata: Mapping[str, str] = {}


class ListedObject(Struct, frozen=True):
    """One object as a bucket's listing tells it, which knows neither version nor metadata."""

    ref: ObjectRef
    etag: str
    size: int
    last_modified_s: float


class ObjectBody(Struct, frozen=True):
    """What GetObject told: the bytes, and the object's tags where they may be read."""

    data: bytes
    tags: Mapping[str, str] = {}


class ImageInfo(Struct, frozen=True):
    """What is known of a decoded image. `sha256` is that of the object's bytes."""

    format: str
    width: int
    height: int
    sha256: str


class Box(NamedTuple):
    """A part of a picture: left, top, right, bottom, as shares of its width and height."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


class DuplicateMatch(Struct, frozen=True):
    """An image that shows the same as another; `verdict` is exact, copy or edited."""

    id: str
    key: str
    verdict: str
    probability: float


class Point(Struct, frozen=True):
    """What the index holds of one object.

    Only where the state is live: `vector`, float32 (D,), a unit vector; `patches`, float32
    (n, d), unit rows, where the collection keeps them; `local`, local descriptors as
    `rerank.packing` packs them; `colours`, the layout of `preprocessing.Prepared` as bytes. They
    are None on points that were read without them.

    `settings` is a digest of the schema and limits that it was indexed under. `partners` are the
    duplicates that were there when it was indexed, the closest first. `group` names all that show
    the same, and `original` is the id of the first of them, None on that one itself. `tenant` is
    whose it is, where there are tenants.
    """

    ref: ObjectRef
    state: State
    version: Version
    model: str
    indexed_at_s: float
    object: ObjectState | None = None
    image: ImageInfo | None = None
    reason: str | None = None
    detail: str | None = None
    meta: Mapping[str, Any] = {}
    vector: Vector | None = None
    settings: str = ""
    patches: Vector | None = None
    local: bytes | None = None
    colours: bytes | None = None
    partners: Sequence[DuplicateMatch] = ()
    original: str | None = None
    group: str | None = None
    tenant: str | None = None

    @property
    def id(self) -> str:
        return self.ref.point_id

    @property
    def sha256(self) -> str | None:
        """Of the object's bytes, where they are an image."""
        return self.image.sha256 if self.image else None


class PointWrite(Struct, frozen=True):
    """A conditional write: replace the stored point only where `condition` holds.

    A point that is not stored yet is always inserted, as Qdrant's `update_filter` does it.
    """

    point: Point
    condition: OlderThan | Exactly


class OlderThan(Struct, frozen=True):
    """The stored sequencer is smaller: converges in any order, on every replica."""

    version: Version


class Exactly(Struct, frozen=True):
    """The stored version is this one: compare and set, needs strong ordering."""

    version: Version


class NearestQuery(Struct, frozen=True):
    """One search of the index: live neighbours of any of a query's `views`, unit vectors (D,).

    A neighbour of several views counts once, with its best score, and `offset` is for a single one.
    `filter` is Qdrant filter JSON as `filters.Schema.compile` returns it. `full` brings vectors and
    local descriptors along. With `patches`, float32 (n, d) of each view, the nearest `pool` by the
    view's vector are put into the order of late interaction (MaxSim) with them; scores are then its
    sums.
    """

    views: Sequence[Vector]
    limit: int
    offset: int = 0
    filter: Mapping[str, Any] | None = None
    score_threshold: float | None = None
    full: bool = False
    patches: Sequence[Vector] | None = None
    pool: int = 0


class Candidate(Struct, frozen=True):
    """One neighbour. `score` is its cosine, −1 … 1; where patches chose, see NearestQuery."""

    point: Point
    score: float


class ValueCount(Struct, frozen=True):
    """A keyword or an integer, and how many points have it."""

    value: str | int
    count: int


class CollectionInfo(Struct, frozen=True):
    """What readers find behind the alias. `patches`: their dimension, where they are kept.
    `points` is None for those who may not know.
    """

    name: str
    model: str
    dim: int
    points: int | None
    patches: int | None = None


class Page(Struct, frozen=True):
    """A page of points in id order, and the cursor of the next one."""

    points: Sequence[Point]
    next_cursor: str | None
