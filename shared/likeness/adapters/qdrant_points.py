"""Points as Qdrant stores them: payloads, vectors, and the conditions of their writes."""

from __future__ import annotations

import base64
import binascii
import contextlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from likeness.adapters.qdrant_layout import NOTE_KIND, NOTE_VALUES, PATCHES, VECTOR
from likeness.errors import ConfigurationError, IndexUnavailable
from likeness.filters import META
from likeness.records import (
    POINT_NAMESPACE,
    Box,
    DuplicateMatch,
    ImageInfo,
    ObjectRef,
    ObjectState,
    Payload,
    Point,
    Regrouping,
    Relation,
    State,
    Vector,
    Version,
)

# Base64 that only reranking reads: excluded from answers unless requested.
_LOCAL, _COLOURS = "local", "colours"
BULKY = [_LOCAL, _COLOURS]
# The payload fields of a point's group and its original.
_MEMBERSHIP = {
    Relation.DUPLICATE: ("group", "original"),
    Relation.VARIANT: ("variant_group", "variant_original"),
}
_OURS = {"bucket", "key", "state", "model"}
_MALFORMED = (KeyError, TypeError, AttributeError, ValueError, IndexError)


@contextlib.contextmanager
def response_parsing() -> Iterator[None]:
    """Around code that reads a response: raises IndexUnavailable for an unexpected shape."""
    try:
        yield
    except _MALFORMED as error:
        raise IndexUnavailable("unexpected response from Qdrant") from error


def note_point_id(kind: str, note_id: str) -> str:
    return str(uuid.uuid5(POINT_NAMESPACE, f"{kind}\0{note_id}"))


def note_payload(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {NOTE_KIND: kind, NOTE_VALUES: dict(values)}


def to_payload(point: Point) -> dict[str, Any]:
    payload: dict[str, Any] = {
        "bucket": point.ref.bucket,
        "key": point.ref.key,
        "state": point.state.value,
        "v_hi": point.version.hi,
        "v_lo": point.version.lo,
        "rev": point.version.rev,
        "model": point.model,
        "settings": point.settings,
        "indexed_at": point.indexed_at_s,
    }
    if point.object:
        payload |= {
            "etag": point.object.etag,
            "version_id": point.object.version_id,
            "size": point.object.size,
            "content_type": point.object.content_type,
            "last_modified": point.object.last_modified_s,
        }
    if point.image:
        payload |= {
            "format": point.image.format,
            "width": point.image.width,
            "height": point.image.height,
            "sha256": point.image.sha256,
        }
    if point.reason:
        payload["reason"] = point.reason
    if point.detail:
        payload["detail"] = point.detail
    if point.meta:
        payload[META] = dict(point.meta)
    if point.local is not None:
        payload[_LOCAL] = base64.b64encode(point.local).decode()
    if point.colours is not None:
        payload[_COLOURS] = base64.b64encode(point.colours).decode()
    if point.content:
        payload["content"] = list(point.content)
    if point.tenant:
        payload["tenant"] = point.tenant
    return payload | _relations(point)


def _relations(point: Point) -> dict[str, Any]:
    """What is known of duplicates and variants."""
    fields = {
        "partners": msgspec.to_builtins(point.partners),
        "variants": msgspec.to_builtins(point.variants),
        **_membership(point, Relation.DUPLICATE),
        **_membership(point, Relation.VARIANT),
    }
    # a number: the engine in a folder cannot match false
    pending = {} if point.compared else {"compared": 0}
    return {name: value for name, value in fields.items() if value} | pending


def _membership(point: Point, relation: Relation) -> dict[str, str | None]:
    return dict(zip(_MEMBERSHIP[relation], point.membership(relation), strict=True))


def to_vectors(point: Point) -> dict[str, list[Any]]:
    vectors = {VECTOR: point.vector, PATCHES: point.patches}
    return {name: to_numbers(rows) for name, rows in vectors.items() if rows is not None}


def to_numbers(rows: Vector) -> list[Any]:
    """Unit rows as JSON numbers, with no more digits than the index stores.

    Patches are stored in half precision; with all digits they would be 65 kB of text.
    """
    digits = 7 if rows.ndim == 1 else 4
    rounded: list[Any] = np.round(rows.astype(np.float64), digits).tolist()
    return rounded


def from_payload(
    payload: Payload | None,
    vector: Sequence[float] | None = None,
    patches: Sequence[Sequence[float]] | None = None,
) -> Point:
    """Raises ConfigurationError for a point that another service wrote."""
    if payload is None or not payload.keys() >= _OURS:
        raise ConfigurationError(
            "the index holds points that Likeness did not write: choose another LIKENESS_ALIAS, or "
            "another server"
        )
    local, colours = (
        None if encoded is None else binascii.a2b_base64(encoded)
        for encoded in (payload.get(_LOCAL), payload.get(_COLOURS))
    )
    return Point(
        ref=ObjectRef(payload["bucket"], payload["key"]),
        state=State(payload["state"]),
        version=Version.from_halves(payload["v_hi"], payload["v_lo"], payload["rev"]),
        model=payload["model"],
        indexed_at_s=payload["indexed_at"],
        settings=payload.get("settings", ""),
        object=_object_state(payload),
        image=_image_info(payload),
        reason=payload.get("reason"),
        detail=payload.get("detail"),
        meta=payload.get(META) or {},
        vector=None if vector is None else np.asarray(vector, np.float32),
        patches=None if patches is None else np.asarray(patches, np.float32),
        local=local,
        colours=colours,
        content=Box(*payload["content"]) if "content" in payload else None,
        partners=_matches(payload, "partners"),
        original=payload.get("original"),
        group=payload.get("group"),
        tenant=payload.get("tenant"),
        variants=_matches(payload, "variants"),
        variant_original=payload.get("variant_original"),
        variant_group=payload.get("variant_group"),
        compared=bool(payload.get("compared", True)),
    )


def _matches(payload: Payload, name: str) -> tuple[DuplicateMatch, ...]:
    return msgspec.convert(payload.get(name, ()), tuple[DuplicateMatch, ...])


def _object_state(payload: Payload) -> ObjectState | None:
    if "etag" not in payload:
        return None
    return ObjectState(
        etag=payload["etag"],
        version_id=payload["version_id"],
        size=payload["size"],
        content_type=payload["content_type"],
        last_modified_s=payload["last_modified"],
    )


def _image_info(payload: Payload) -> ImageInfo | None:
    if "width" not in payload:
        return None
    names = ("format", "width", "height", "sha256")
    return ImageInfo(*(payload[name] for name in names))


def update_filter(points: Sequence[Point]) -> dict[str, Any]:
    """The condition of a write: each stored point has a smaller version. Converges in any order.

    One filter for the whole batch, with a condition for each point's id.
    """
    return {
        "should": [
            {"must": [{"has_id": [point.id]}, {"should": _older_than(point.version)}]}
            for point in points
        ]
    }


class PayloadChange(NamedTuple):
    """Fields to set on all points that a filter finds."""

    payload: dict[str, Any]
    filter: dict[str, Any]


def annotating_changes(points: Sequence[Point]) -> list[PayloadChange]:
    """The matches of points that are stored in this version and were not compared before: one
    change for all without any, and one for each of the others.
    """
    matched = [point for point in points if point.partners or point.variants]
    others = [point for point in points if not (point.partners or point.variants)]
    return [_annotation(part) for part in (others, *([point] for point in matched)) if part]


def _annotation(points: Sequence[Point]) -> PayloadChange:
    found = {"partners": points[0].partners, "variants": points[0].variants}
    payload = {name: msgspec.to_builtins(matches) for name, matches in found.items() if matches}
    return PayloadChange(
        {**payload, "compared": 1},
        {"must": [_match("compared", 0)], "should": [_unchanged(point) for point in points]},
    )


def regrouping_changes(wanted: Regrouping) -> list[PayloadChange]:
    """Two changes: of the original, and of the other images."""
    group, original = _MEMBERSHIP[wanted.relation]
    members = {"key": group, "match": {"any": list(wanted.merged)}}
    joining = [_without_group(point, group) for point in wanted.joining]
    moved: dict[str, Any] = {"should": [members, *joining] if wanted.merged else joining}
    itself = {"has_id": [wanted.original.id]}
    return [
        PayloadChange(
            {group: wanted.group, original: wanted.original.id}, {**moved, "must_not": [itself]}
        ),
        PayloadChange({group: wanted.group, original: None}, {**moved, "must": [itself]}),
    ]


def _without_group(point: Point, group: str) -> dict[str, Any]:
    return {"must": [_unchanged(point), {"is_empty": {"key": group}}]}


def _unchanged(point: Point) -> dict[str, Any]:
    version = point.version
    halves = (("v_hi", version.hi), ("v_lo", version.lo), ("rev", version.rev))
    return {"must": [{"has_id": [point.id]}, *(_match(*half) for half in halves)]}


def tombstone_filter(ids: Sequence[str], before_s: float) -> dict[str, Any]:
    """A filter for those of these points that are tombstones written before a time."""
    return {
        "must": [
            {"has_id": list(ids)},
            {"key": "state", "match": {"value": State.GONE.value}},
            {"key": "indexed_at", "range": {"lt": before_s}},
        ]
    }


def _older_than(version: Version) -> list[dict[str, Any]]:
    same_hi, same_lo = _match("v_hi", version.hi), _match("v_lo", version.lo)
    older: list[dict[str, Any]] = [
        {"key": "v_hi", "range": {"lt": version.hi}},
        {"must": [same_hi, {"key": "v_lo", "range": {"lt": version.lo}}]},
    ]
    if version.rev:
        older.append({"must": [same_hi, same_lo, {"key": "rev", "range": {"lt": version.rev}}]})
    return older


def _match(key: str, value: int) -> dict[str, Any]:
    return {"key": key, "match": {"value": value}}
