"""The collections in Qdrant: their names, vectors, payload indexes and metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from likeness.errors import ConfigurationError
from likeness.filters import Schema

VECTOR, PATCHES = "image", "patches"
# A note has no vector; its payload holds its kind and its values.
NOTE_KIND, NOTE_VALUES = "kind", "note"
# A fingerprint, as `model.ModelSpec` computes it.
_MODEL = re.compile(r"[0-9a-f]{16}")
# What reconciliation and listings filter by: strict mode refuses conditions on unindexed fields.
# These get no HNSW links, which would take longer to build than those of all other fields. Searches
# filter by none of them but `tenant`, which every search filters by where there are tenants; what
# the missing links cost there has not been measured (decision 0082).
SYSTEM_INDEXES = {
    "state": "keyword",
    "v_hi": "integer",
    "v_lo": "integer",
    "rev": "integer",
    "indexed_at": "float",
    "compared": "integer",
    "group": "keyword",
    "original": "keyword",
    "variant_group": "keyword",
    "tenant": "keyword",
}


# As many payload indexes as Qdrant Cloud's strict mode allows.
_MAX_INDEXES = 100


class Layout(Struct, frozen=True):
    """Names and payload indexes of the collections of one alias.

    Raises ConfigurationError for more indexes than a server in strict mode has.
    """

    alias: str
    schema: Schema

    def __post_init__(self) -> None:
        if (count := len(self.indexes)) > _MAX_INDEXES:
            raise ConfigurationError(
                f"LIKENESS_PAYLOAD_SCHEMA declares {len(self.schema.types)} keys, which makes "
                f"{count} payload indexes with Likeness's own; Qdrant's strict mode has at most "
                f"{_MAX_INDEXES}: declare {count - _MAX_INDEXES} fewer"
            )

    def collection(self, model: str) -> str:
        return f"{self.alias}-{model}"

    def models(self, collections: Iterable[str]) -> list[str]:
        """The models that have one of these collections; those of other services are skipped."""
        prefix = f"{self.alias}-"
        suffixes = (name.removeprefix(prefix) for name in collections if name.startswith(prefix))
        return [model for model in suffixes if _MODEL.fullmatch(model)]

    @property
    def notes(self) -> str:
        """The collection of notes. No model can have this name: fingerprints are hexadecimal."""
        return f"{self.alias}-notes"

    def own(self, collections: Iterable[str]) -> list[str]:
        """Those of these collections that belong to this alias, sorted."""
        names = set(collections)
        return sorted(names & {self.notes, *map(self.collection, self.models(names))})

    @property
    def indexes(self) -> dict[str, str]:
        """Payload path → index type."""
        return {**SYSTEM_INDEXES, **self.schema.indexes}


def collection_metadata(model: str, dim: int, patches: int | None) -> dict[str, Any]:
    """The metadata stored with a collection."""
    return {"model": model, "dim": dim, **({"patches": patches} if patches else {})}


def read_metadata(name: str, description: Any) -> Mapping[str, Any]:
    """The metadata in a collection's description, by name or by alias.

    Raises ConfigurationError where it is not one of ours.
    """
    metadata = description["config"].get("metadata") or {}
    if not {"model", "dim"} <= metadata.keys():
        raise ConfigurationError(
            f"{name} in Qdrant is not a collection of Likeness: choose another LIKENESS_ALIAS, or "
            "another server"
        )
    found: Mapping[str, Any] = metadata
    return found


def check_alias(layout: Layout, aliased: str | None) -> None:
    """Raises ConfigurationError where the alias names a collection that is not ours."""
    if aliased is not None and not layout.models([aliased]):
        raise ConfigurationError(
            f"the alias {layout.alias} names the collection {aliased}, which is not Likeness's: "
            "choose another LIKENESS_ALIAS"
        )


def check_collection(name: str, metadata: Mapping[str, Any], expected: dict[str, Any]) -> None:
    """Raises ConfigurationError where an existing collection belongs to another model."""
    stored = {key: metadata.get(key) for key in ("model", "dim", "patches")}
    if (stored["model"], stored["dim"]) != (expected["model"], expected["dim"]):
        raise ConfigurationError(
            f"collection {name} holds model {stored['model']} with {stored['dim']} dimensions, "
            f"not {expected['model']} with {expected['dim']}"
        )
    if stored["patches"] != expected.get("patches"):
        raise ConfigurationError(
            f"collection {name} stores patches of {stored['patches']} dimensions, but the settings "
            f"require {expected.get('patches')}: remove the collection and index again, or restore "
            "the previous value of LIKENESS_KEEP_PATCHES"
        )


def check_droppable(name: str, aliased: str | None) -> None:
    """Raises ConfigurationError for the collection that the alias points at."""
    if name == aliased:
        raise ConfigurationError(f"collection {name} is searched at present: it cannot be removed")
