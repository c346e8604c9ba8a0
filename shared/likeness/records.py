"""Immutable values shared by all modules: objects in S3, points in the index, queries."""

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

# An arbitrary UUID, which must stay the same as long as any index exists.
POINT_NAMESPACE = uuid.UUID("6f1d3a0e-2c58-5b8e-9a44-0c4e5ad1b7c3")

# Qdrant compares numbers in ranges as float64, which is exact up to 2**53 (see Version).
_LOW_BITS = 52
_LOW_MASK = (1 << _LOW_BITS) - 1


class State(StrEnum):
    """State of a point's object: indexed, deleted, or not indexable. Stored as a keyword."""

    LIVE = "live"
    GONE = "gone"
    REJECTED = "rejected"


class Relation(StrEnum):
    """What the images of a group are to each other. Of duplicates all but one may be deleted; a
    variant is never a duplicate.
    """

    DUPLICATE = "duplicate"
    VARIANT = "variant"


class ObjectRef(Struct, frozen=True, order=True):
    """Bucket and key of an object. `key` is never URL-encoded."""

    bucket: str
    key: str

    @property
    def point_id(self) -> str:
        """The id of this object's point, the same for all its versions."""
        return str(uuid.uuid5(POINT_NAMESPACE, f"{self.bucket}\0{self.key}"))


class Hint(Struct, frozen=True):
    """“This object may have changed.” `sequencer` only breaks ties; 0 where it is unknown."""

    ref: ObjectRef
    sequencer: int = 0
    event_time_s: float | None = None


class Version(Struct, frozen=True, order=True):
    """A point's place in the order of writes: the S3 sequencer, then our own revision.

    A sequencer has up to 72 bits. As a single 64-bit field, range filters dropped newer writes;
    two halves are exact.

    A point is written only where the stored one has a smaller version, on every replica. So a
    revision is a compare-and-set: of two that follow the same version only the first is stored.
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
    """The current state of an object, from HeadObject."""

    etag: str
    version_id: str | None
    size: int
    content_type: str
    last_modified_s: float
    metadata: Mapping[str, str] = {}


class ListedObject(Struct, frozen=True):
    """An object in a bucket's listing, which contains neither version nor metadata."""

    ref: ObjectRef
    etag: str
    size: int
    last_modified_s: float


class ObjectBody(Struct, frozen=True):
    """An object's content, and its tags where reading them is enabled."""

    data: bytes
    tags: Mapping[str, str] = {}


class ImageInfo(Struct, frozen=True):
    """Format and size of a decoded image. `sha256` is the hash of the object's bytes."""

    format: str
    width: int
    height: int
    sha256: str


class Box(NamedTuple):
    """A part of an image: left, top, right, bottom, as fractions of its width and height."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def intersection(self, other: Box) -> Box:
        """The part that both have in common; without area where there is none."""
        return Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )

    def placed_in(self, outer: Box) -> Box:
        """This part of a part `outer` of an image, as a part of the image."""
        width, height = outer.right - outer.left, outer.bottom - outer.top
        return Box(
            outer.left + self.left * width,
            outer.top + self.top * height,
            outer.left + self.right * width,
            outer.top + self.bottom * height,
        )

    def relative_to(self, outer: Box) -> Box:
        """This part of an image as a part of its part `outer`, in which it begins."""
        width, height = outer.right - outer.left, outer.bottom - outer.top
        return Box(
            max(0.0, (self.left - outer.left) / width),
            max(0.0, (self.top - outer.top) / height),
            (self.right - outer.left) / width,
            (self.bottom - outer.top) / height,
        )


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


class DuplicateMatch(Struct, frozen=True):
    """A duplicate of an image (`verdict` is exact, copy or edited), or a variant of it."""

    id: str
    key: str
    verdict: str
    probability: float


class Membership(NamedTuple):
    """A group that an image is in, and the id of the group's original; None on the original."""

    group: str | None
    original: str | None


class Point(Struct, frozen=True):
    """One object in the index.

    Only where the state is live: `vector`, float32 (D,), a unit vector; `patches`, float32
    (n, d), unit rows, where the collection stores them; `local`, local descriptors as packed by
    `descriptor_packing`; `colours`, the layout of `preprocessing.Prepared` as bytes. They are None
    on points that were read without them.

    `content` is the part of the image inside its bars, where the model cuts them and it has any.
    `settings` is a digest of the schema and limits at indexing time. `partners` are the duplicates
    that existed when it was indexed, the closest first. `group` is the duplicate group, and
    `original` the id of its oldest image, None on that image itself. `variants`, `variant_group`
    and `variant_original` are the same of variants. `compared` is false until they were looked for.
    `tenant` is the object's tenant, where there are tenants.
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
    content: Box | None = None
    partners: Sequence[DuplicateMatch] = ()
    original: str | None = None
    group: str | None = None
    tenant: str | None = None
    variants: Sequence[DuplicateMatch] = ()
    variant_original: str | None = None
    variant_group: str | None = None
    compared: bool = True

    @property
    def id(self) -> str:
        return self.ref.point_id

    @property
    def sha256(self) -> str | None:
        """Hash of the object's bytes, where they are an image."""
        return self.image.sha256 if self.image else None

    def membership(self, relation: Relation) -> Membership:
        """The group of this relation that the image is in."""
        if relation is Relation.VARIANT:
            return Membership(self.variant_group, self.variant_original)
        return Membership(self.group, self.original)

    def matches(self, relation: Relation) -> Sequence[DuplicateMatch]:
        """The images of this relation that were found, the closest first."""
        return self.variants if relation is Relation.VARIANT else self.partners


class Regrouping(Struct, frozen=True):
    """Images that become one group, with the oldest of them as its original.

    They are the members of the groups `merged`, and the `joining` images, each unless it has got a
    group or another version since it was read.
    """

    relation: Relation
    group: str
    original: Point
    merged: Sequence[str]
    joining: Sequence[Point]


class StoredPoints(Struct, frozen=True):
    """Points by id, as a writer reads them. Ids that no replica has are not among them.

    The replicas hold the `differing` ones in different forms, of which `points` has one.
    """

    points: Mapping[str, Point]
    differing: frozenset[str] = frozenset()


class NearestQuery(Struct, frozen=True):
    """A nearest-neighbour query: live neighbours of any of its `views`, unit vectors (D,).

    A neighbour of several views counts once, with its best score; `offset` requires a single view.
    `filter` is Qdrant filter JSON as returned by `filters.Schema.compile`. `full` also returns
    vectors and local descriptors. With `patches`, float32 (n, d) for each view, the nearest `pool`
    points by vector are reordered by late interaction (MaxSim), and scores are its sums.
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
    """One neighbour. `score` is its cosine, −1 … 1, or with patches the sum of NearestQuery."""

    point: Point
    score: float


class ValueCount(Struct, frozen=True):
    """A facet value, and how many points have it."""

    value: str | int
    count: int


class CollectionInfo(Struct, frozen=True):
    """The collection that readers search. `patches`: their dimension, where they are stored.

    `points` is None where the caller is not permitted to see it. `restrictions` are what the
    server's limits cost searches, in words.
    """

    name: str
    model: str
    dim: int
    points: int | None
    patches: int | None = None
    replicas: int = 1
    restrictions: Sequence[str] = ()


class Page(Struct, frozen=True):
    """A page of points in id order, and the cursor of the next one."""

    points: Sequence[Point]
    next_cursor: str | None
