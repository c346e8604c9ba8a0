"""How a Point is stored in Qdrant: names, payloads, vectors and filters, for both adapters."""

from __future__ import annotations

import base64
import binascii
import contextlib
import math
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from likeness.errors import ConfigurationError, IndexUnavailable
from likeness.filters import META, Schema
from likeness.records import (
    POINT_NAMESPACE,
    DuplicateMatch,
    ImageInfo,
    NearestQuery,
    ObjectRef,
    ObjectState,
    OlderThan,
    Payload,
    Point,
    PointWrite,
    State,
    Vector,
    Version,
)

VECTOR, PATCHES = "image", "patches"
# How far a search walks the graph: .96 of the exact ten nearest among a million images with 512,
# .976 with 1024, .98 with this (benchmarks/scale.py).
HNSW_EF = 1536
# What only reranking reads, as base64: never brought along unasked.
_LOCAL, _COLOURS = "local", "colours"
BULKY = [_LOCAL, _COLOURS]
# Notes are payload alone: what kind they are, and their values.
NOTE_KIND, NOTE_VALUES = "kind", "note"
# Equals come from the engine in any order, another one each time. Where no more than so many stand
# on either side of an answer's edge, we put them into ours, and pages join without gap or double.
_EDGE = 16
# A fingerprint, as `model.ModelSpec` makes them.
_MODEL = re.compile(r"[0-9a-f]{16}")
# What reconciliation and listings filter by; strict mode refuses unindexed conditions. No search
# filters by them, so the graph needs no links for them: they would take longer than all others.
SYSTEM_INDEXES = {
    "state": "keyword",
    "v_hi": "integer",
    "v_lo": "integer",
    "rev": "integer",
    "indexed_at": "float",
    "group": "keyword",
    "original": "keyword",
    "tenant": "keyword",
}


class Layout(Struct, frozen=True):
    """Names and payload indexes of our collections."""

    alias: str
    schema: Schema

    def collection(self, model: str) -> str:
        return f"{self.alias}-{model}"

    def models(self, collections: Iterable[str]) -> list[str]:
        """Those that have a collection among these; other services may have theirs beside ours."""
        ends = (name.removeprefix(f"{self.alias}-") for name in collections)
        return [model for model in ends if _MODEL.fullmatch(model)]

    @property
    def notes(self) -> str:
        """The collection of notes: no model's, whose names are hexadecimal."""
        return f"{self.alias}-notes"

    @property
    def indexes(self) -> dict[str, str]:
        return {**SYSTEM_INDEXES, **self.schema.indexes}


def oversampling(limit: int) -> float:
    """Candidates that int8 vectors give for each result, before their originals decide: two, but
    eighty in all. Among a million the best ten lie too close together for twenty (.86 found).
    """
    return max(2.0, 80 / limit)


class Understood(contextlib.AbstractContextManager[None]):
    """Around the reading of answers: what is not shaped as ours becomes IndexUnavailable."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, KeyError | TypeError | AttributeError | ValueError | IndexError):
            raise IndexUnavailable("the index answers with something that is not ours") from error


def metadata_of(model: str, dim: int, patches: int | None) -> dict[str, Any]:
    """What a collection says of itself."""
    return {"model": model, "dim": dim, **({"patches": patches} if patches else {})}


def check_collection(name: str, found: Mapping[str, Any] | None, wanted: dict[str, Any]) -> None:
    """Raises ConfigurationError where an existing collection is not this model's."""
    held = {key: (found or {}).get(key) for key in ("model", "dim", "patches")}
    if (held["model"], held["dim"]) != (wanted["model"], wanted["dim"]):
        raise ConfigurationError(
            f"collection {name} holds model {held['model']} with {held['dim']} dimensions, "
            f"not {wanted['model']} with {wanted['dim']}"
        )
    if held["patches"] != wanted.get("patches"):
        raise ConfigurationError(
            f"collection {name} keeps patches of {held['patches']} dimensions, the settings ask "
            f"for {wanted.get('patches')}: remove it and index anew, or set LIKENESS_KEEP_PATCHES "
            "as it was"
        )


def check_unused(name: str, aliased: str | None) -> None:
    """Raises ConfigurationError where readers would lose what they read."""
    if name == aliased:
        raise ConfigurationError(f"collection {name} is the one that is searched: it stays")


def note_point_id(kind: str, note_id: str) -> str:
    return str(uuid.uuid5(POINT_NAMESPACE, f"{kind}\0{note_id}"))


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
    if point.partners:
        payload["partners"] = msgspec.to_builtins(point.partners)
    if point.original:
        payload["original"] = point.original
    if point.group:
        payload["group"] = point.group
    if point.tenant:
        payload["tenant"] = point.tenant
    return payload


def to_vectors(point: Point) -> dict[str, list[Any]]:
    vectors = {VECTOR: point.vector, PATCHES: point.patches}
    return {name: to_numbers(rows) for name, rows in vectors.items() if rows is not None}


def to_numbers(rows: Vector) -> list[Any]:
    """Unit rows as JSON takes them: no more digits than the index keeps, or patches, which are
    kept in half precision, would be 65 kB of text.
    """
    digits = 7 if rows.ndim == 1 else 4
    rounded: list[Any] = np.round(rows.astype(np.float64), digits).tolist()
    return rounded


def from_payload(payload: Payload, vector: Sequence[float] | None = None) -> Point:
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
        local=local,
        colours=colours,
        partners=msgspec.convert(payload.get("partners", ()), tuple[DuplicateMatch, ...]),
        original=payload.get("original"),
        group=payload.get("group"),
        tenant=payload.get("tenant"),
    )


def window(query: NearestQuery) -> tuple[int, int]:
    """The limit and offset to ask the engine for, with some more on either side."""
    before, after = _around(query)
    return before + query.limit + after, query.offset - before


def merged(
    query: NearestQuery, answers: Iterable[Iterable[tuple[str, float]]]
) -> list[tuple[str, float]]:
    """Ids and scores of the best that any of the views found in its window, best first."""
    best: dict[str, float] = {}
    for point_id, score in chain.from_iterable(answers):
        if score > best.get(point_id, -math.inf):
            best[point_id] = score
    before, _ = _around(query)
    by_score = sorted(best.items(), key=lambda found: (-found[1], found[0]))
    return by_score[before : before + query.limit]


def _around(query: NearestQuery) -> tuple[int, int]:
    return min(query.offset, _EDGE), min(query.limit, _EDGE)


def by_view(query: NearestQuery) -> list[tuple[Vector, Vector | None]]:
    """Each view's vector and patches."""
    return list(zip(query.views, query.patches or repeat(None), strict=False))


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


def update_filter(writes: Sequence[PointWrite]) -> dict[str, Any]:
    """One filter for a whole batch: each point under its own id and its own condition."""
    return {
        "should": [{"must": [{"has_id": [write.point.id]}, *_condition(write)]} for write in writes]
    }


def tombstones(ids: Sequence[str], before_s: float) -> dict[str, Any]:
    """Those of these points that say “gone” since before a time."""
    return {
        "must": [
            {"has_id": list(ids)},
            {"key": "state", "match": {"value": State.GONE.value}},
            {"key": "indexed_at", "range": {"lt": before_s}},
        ]
    }


def _condition(write: PointWrite) -> list[dict[str, Any]]:
    version = write.condition.version
    same_hi = _equals("v_hi", version.hi)
    if isinstance(write.condition, OlderThan):
        older = [
            {"key": "v_hi", "range": {"lt": version.hi}},
            {"must": [same_hi, {"key": "v_lo", "range": {"lt": version.lo}}]},
        ]
        return [{"should": older}]
    return [same_hi, _equals("v_lo", version.lo), _equals("rev", version.rev)]


def _equals(key: str, value: int) -> dict[str, Any]:
    return {"key": key, "match": {"value": value}}
