"""The steps of a model change without downtime: begin, switch and back, finish.

Two collections exist side by side, and the index function keeps both equal to the bucket from
`begin` to `finish`, so the alias may point at either. The only state is a note in the index: which
model replaces which, and where the new model's bundle is.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from likeness.errors import ConfigurationError, IndexMissing
from likeness.model import ModelSpec
from likeness.ports import VectorIndex

_NOTE = "migration"


class Migration(Struct, frozen=True):
    """From one model to another, both named by fingerprint.

    `bundle` is the folder of the new model's bundle, on the machine where the migration began.
    """

    source: str
    target: str
    bundle: str


def current(index: VectorIndex) -> Migration | None:
    """The migration that is under way, if there is one."""
    notes, _ = index.list_notes(_NOTE, 1)
    return msgspec.convert(notes[0], Migration) if notes else None


def require_current(index: VectorIndex) -> Migration:
    """The migration that is under way. Raises ConfigurationError if there is none."""
    migration = current(index)
    if migration is None:
        raise ConfigurationError(
            "no migration is under way: start one with `likeness migrate start BUNDLE`"
        )
    return migration


def begin(index: VectorIndex, spec: ModelSpec, bundle: str, keep_patches: bool) -> Migration:
    """Create the new model's collection; from now on the index function writes to both.

    Repeating it only updates `bundle`, which may have moved. Raises ConfigurationError if another
    migration is under way, or the model is in use already.
    """
    searched = index.info()
    known = current(index)
    if known and known.target != spec.fingerprint:
        raise ConfigurationError(
            f"a migration to {known.target} is under way: end it with `likeness migrate finish`"
        )
    if searched.model == spec.fingerprint and not known:
        raise ConfigurationError(f"the service searches with model {spec.fingerprint} already")
    # the same decision as the index function's when it creates a collection
    patches = spec.patches if keep_patches or searched.patches else None
    index.prepare(spec.fingerprint, spec.embedding.dim, patches.dim if patches else None)
    migration = Migration(known.source if known else searched.model, spec.fingerprint, bundle)
    index.put_note(_NOTE, _NOTE, msgspec.to_builtins(migration))
    return migration


def switch(index: VectorIndex, model: str) -> None:
    """Point the alias at one of the two. Raises ConfigurationError if its collection is gone."""
    try:
        index.switch(model)
    except IndexMissing:
        raise ConfigurationError(f"the collection of model {model} was dropped") from None


def finish(index: VectorIndex, migration: Migration) -> str:
    """Drop the collection that is not searched and forget the migration; returns its model.

    A search that still reads the dropped collection is retried with the other one.
    """
    unused = unused_model(index, migration)
    index.drop(unused)
    index.delete_note(_NOTE, _NOTE)
    return unused


def unused_model(index: VectorIndex, migration: Migration) -> str:
    """The one of the two models that searches do not use."""
    searched = index.info().model
    if searched not in (migration.source, migration.target):
        raise ConfigurationError(
            f"the alias points at model {searched}, which is neither the old nor the new one"
        )
    return migration.source if searched == migration.target else migration.target
