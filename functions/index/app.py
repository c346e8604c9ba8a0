"""Composition root of the index function: settings → handler."""

from __future__ import annotations

import gc

gc.disable()  # importing leaves no garbage, and looking for it takes 7 % of a cold start

import os
import random
from pathlib import Path

from aws_lambda_powertools import Logger, Metrics
from snapshot_restore_py import register_after_restore

from functions.index.handler import Handler
from likeness.adapters.eventbridge import EventBus
from likeness.adapters.qdrant import open_index
from likeness.adapters.s3 import S3Store
from likeness.duplicates import say_nothing
from likeness.embedding import Embedder
from likeness.indexers import Indexers, ReadOnce
from likeness.indexing import Indexer
from likeness.rerank.verdicts import load_calibration
from likeness.settings import Settings

settings = Settings.from_env(os.environ)
# a batch that fails at once makes room for the next: the whole queue would use up its tries
index = open_index(settings, patient=True)
register_after_restore(index.reconnect)
register_after_restore(random.seed)  # or all that one snapshot becomes would wait alike
store = ReadOnce(S3Store(read_tags=settings.read_tags))
announce = EventBus(settings.event_bus).announce if settings.event_bus else say_nothing


def open_indexer(folder: Path) -> Indexer:
    embedder = Embedder(folder, settings.threads)
    return Indexer(
        store,
        index.of(embedder.fingerprint),  # duplicates are looked for among its own
        embedder,
        settings.schema,
        settings.limits,
        calibration=load_calibration(folder, embedder.fingerprint),
        keep_patches=settings.keep_patches,
        announce=announce,
    )


handler = Handler(
    Indexers(index, store, [open_indexer(folder) for folder in settings.model_dirs]),
    Logger(service="index"),
    Metrics(namespace="Likeness", service="index"),
)

gc.freeze()
gc.enable()
