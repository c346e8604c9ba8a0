"""The gallery: the indexed images, and the bucket that holds their objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from likeness.errors import ConfigurationError, InvalidRequest, NotIndexed, ObjectChanged
from likeness.filters import Schema
from likeness.images import thumbnail
from likeness.ports import IndexView, ObjectStore
from likeness.records import ObjectRef, Page, Point, State, ValueCount
from likeness.settings import Limits
from likeness.tenants import TenantIndex, Tenants, TenantStore

_MAX_FACET_VALUES = 50


class Facet(Struct, frozen=True):
    """A declared key's most frequent values, and how many live images have each."""

    key: str
    type: str
    values: Sequence[ValueCount]


class Gallery:
    """Everything, or one tenant's part of it. Safe to share between threads."""

    def __init__(
        self,
        index: IndexView,
        open_store: Callable[[], ObjectStore],
        schema: Schema | None = None,
        limits: Limits | None = None,
        tenants: Tenants | None = None,
    ) -> None:
        """`open_store` is called only when the bucket is needed."""
        self.index = index
        self.open_store = open_store
        self.schema = schema or Schema()
        self.limits = limits or Limits()
        self._tenants = tenants or Tenants()

    def for_tenant(self, tenant: str) -> Gallery:
        """The only place where a tenant's views are made. Nothing of other tenants can be seen or
        changed through them.
        """

        def open_store() -> ObjectStore:
            return TenantStore(self.open_store(), self._tenants, tenant)

        index = TenantIndex(self.index, tenant)
        return Gallery(index, open_store, self.schema, self.limits, self._tenants)

    def image(self, point_id: str) -> Point:
        """A live or rejected point. Raises NotIndexed for any other id."""
        return self.points([point_id])[0]

    def points(self, ids: Sequence[str]) -> list[Point]:
        """Live and rejected points. Raises NotIndexed naming the first id that is neither."""
        found = self.index.retrieve_with_vectors(ids)
        for point_id in ids:
            if point_id not in found or found[point_id].state is State.GONE:
                raise NotIndexed(f"no image with the id {point_id}")
        return [found[point_id] for point_id in ids]

    def status(self, ref: ObjectRef) -> Point | None:
        """The stored point of an object; None where there is none."""
        return self.index.retrieve_with_vectors([ref.point_id]).get(ref.point_id)

    def images(
        self,
        state: State,
        limit: int,
        cursor: str | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> Page:
        """Live or rejected images in id order; `filter` as in a Query."""
        page = self.index.scroll(limit, cursor, self._in_state(state, filter))
        # a point may have changed between being found and being read
        return Page([point for point in page.points if point.state is state], page.next_cursor)

    def facets(
        self, keys: Sequence[str] | None = None, filter: Mapping[str, Any] | None = None
    ) -> list[Facet]:
        """The values of these declared keys, or of all that can be counted, among live images.

        Raises UnknownFilterKey for a key that is not declared, InvalidRequest for one whose type
        cannot be counted.
        """
        paths, live = self.schema.countable, self._in_state(State.LIVE, filter)
        for key in keys or ():
            self.schema.check_declared(key, "keys")
            if key not in paths:
                raise InvalidRequest(
                    f"keys: {key} is a {self.schema.types[key]}; values of that type are not "
                    "counted"
                )
        return [
            Facet(
                key,
                self.schema.types[key],
                self.index.facet(paths[key], _MAX_FACET_VALUES, live),
            )
            for key in (paths if keys is None else dict.fromkeys(keys))
        ]

    def thumbnail(self, point: Point, side: int) -> bytes:
        """A JPEG of an image, at most `side` pixels wide and high, made from its object.

        Raises NotIndexed where there is none, ObjectChanged where the object was replaced after it
        was indexed, an ImageError where it cannot be decoded within the limits.
        """
        if point.state is not State.LIVE:
            raise NotIndexed(f"{point.ref.key} was rejected: it has no thumbnail")
        return thumbnail(self.read_indexed(point), self.limits, side)

    def read_indexed(self, point: Point) -> bytes:
        """The bytes of an object as it was indexed. Raises NotIndexed where there is none any more,
        ObjectChanged where it was replaced since.
        """
        if point.object is None:
            raise NotIndexed(f"no object is known for {point.ref.key}")
        store = self.open_store()
        try:
            return store.read(point.ref, point.object.etag, self.limits.max_bytes).data
        except ObjectChanged:
            if store.head(point.ref) is None:
                raise NotIndexed(f"the bucket no longer has the object {point.ref.key}") from None
            raise ObjectChanged(f"{point.ref.key} was replaced after it was indexed") from None

    def read(self, ref: ObjectRef) -> bytes:
        """The present bytes of an object. Raises NotIndexed where it cannot be read."""
        store = self.open_store()
        try:
            state = store.head(ref)
            if state is not None:
                return store.read(ref, state.etag, self.limits.max_bytes).data
        except ConfigurationError:
            pass  # access denied: the caller chose the key, and for them it is as good as absent
        raise NotIndexed(f"the bucket has no object {ref.key}")

    def _in_state(self, state: State, filter: Mapping[str, Any] | None) -> dict[str, Any]:
        in_state = {"key": "state", "match": {"value": state.value}}
        return {"must": [in_state, *([self.schema.compile(filter)] if filter else [])]}
