"""When the index agrees with the bucket on an object: one notion, for reconciliation and drift."""

from __future__ import annotations

import hashlib

import msgspec

from likeness.filters import Schema
from likeness.records import ListedObject, ObjectState
from likeness.settings import Limits

# Raised when points hold more than they did: a hint then takes an object in anew.
_CONTENT = 2


def settings_digest(schema: Schema, limits: Limits, tenant_prefix: str | None = None) -> str:
    """Of what decides on a point's content, so that a key declared since is noticed.

    `tenant_prefix`: what tenants' names in keys come after, None without tenants.
    """
    tenants = [] if tenant_prefix is None else [tenant_prefix]
    decisive = msgspec.json.encode((_CONTENT, schema, limits, *tenants), order="deterministic")
    return hashlib.sha256(decisive).hexdigest()[:8]


def sync_key(
    model: str, settings: str, found: ObjectState | ListedObject
) -> tuple[str, str, str, int]:
    """What must be equal on both sides. All of it stands in a listing, too.

    S3 tells when an object was written in whole seconds; its version is known to HeadObject alone.
    """
    return model, settings, found.etag, int(found.last_modified_s)


def sync_fingerprint(model: str, settings: str, found: ObjectState | ListedObject) -> bytes:
    """The agreement in 8 bytes: two that differ share them once in 2^64."""
    text = "\0".join(map(str, sync_key(model, settings, found)))
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
