"""An indexer for each model: the current one and, during a migration, the next."""

from __future__ import annotations

from pathlib import Path

from likeness.adapters.eventbridge import EventBus
from likeness.adapters.s3 import S3Store
from likeness.duplicates import no_announcement
from likeness.embedding import Embedder
from likeness.indexers import CachingReader, Indexers
from likeness.indexing import Indexer
from likeness.ports import VectorIndex
from likeness.proof.verdicts import load_calibration
from likeness.settings import Settings
from likeness.stopwatch import Stage, untimed
from likeness.tenants import Tenants


def open_indexers(settings: Settings, index: VectorIndex, stage: Stage = untimed) -> Indexers:
    """Raises ModelBundleError where a bundle is damaged."""
    store = CachingReader(S3Store(read_tags=settings.read_tags))
    announce = EventBus(settings.event_bus).announce if settings.event_bus else no_announcement

    def open_indexer(folder: Path) -> Indexer:
        embedder = Embedder(folder, settings.threads)
        return Indexer(
            store,
            index.for_model(embedder.fingerprint),  # duplicates are looked for among its own
            embedder,
            settings.schema,
            settings.limits,
            calibration=load_calibration(folder, embedder.fingerprint),
            keep_patches=settings.keep_patches,
            announce=announce,
            tenants=Tenants(settings.prefix) if settings.tenant_claim else None,
            stage=stage,
        )

    return Indexers(index, store, [open_indexer(folder) for folder in settings.model_dirs])
