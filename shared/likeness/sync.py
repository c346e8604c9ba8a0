"""When index and bucket are in sync: one definition for reconciliation and drift detection."""

from __future__ import annotations

import hashlib

import msgspec

from likeness.filters import Schema
from likeness.records import ListedObject, ObjectState, Point
from likeness.settings import Limits

# Increased when points hold more than before: a hint then indexes an object again.
_CONTENT_VERSION = 2


def settings_digest(schema: Schema, limits: Limits, tenant_prefix: str | None = None) -> str:
    """A digest of the settings that determine a point's content, such as the metadata schema.

    `tenant_prefix` is the key prefix before a tenant's name, None without tenants.
    """
    tenants = [] if tenant_prefix is None else [tenant_prefix]
    content = (_CONTENT_VERSION, schema, limits, *tenants)
    encoded = msgspec.json.encode(content, order="deterministic")
    return hashlib.sha256(encoded).hexdigest()[:8]


def sync_key(
    model: str, settings: str, state: ObjectState | ListedObject
) -> tuple[str, str, str, int]:
    """The values that must be equal on both sides. A bucket's listing has all of them.

    S3 gives the time of writing in whole seconds. The version id is left out: only HeadObject has
    it.
    """
    return model, settings, state.etag, int(state.last_modified_s)


def point_fingerprint(point: Point) -> bytes:
    """That of a point with an object; of one that was not compared yet it fits no object."""
    assert point.object is not None
    return sync_fingerprint(point.model, point.settings if point.compared else "", point.object)


def sync_fingerprint(model: str, settings: str, state: ObjectState | ListedObject) -> bytes:
    """The sync key hashed to 8 bytes: two different keys collide once in 2^64."""
    text = "\0".join(map(str, sync_key(model, settings, state)))
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
