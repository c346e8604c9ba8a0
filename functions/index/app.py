"""Composition root of the index function: settings → handler."""

from __future__ import annotations

import gc

gc.disable()  # importing creates no garbage, and collecting it took 7% of a cold start

import os
import random

from aws_lambda_powertools import Logger, Metrics
from snapshot_restore_py import register_after_restore

from likeness.adapters.eventbridge import EventBus
from likeness.adapters.index import open_index
from likeness.adapters.s3 import S3Store
from likeness.duplicates import no_announcement
from likeness.embedding import open_embedders
from likeness.indexers import open_indexers
from likeness.settings import Settings
from likeness.stopwatch import Stopwatch

from .handler import Handler

settings = Settings.from_env(os.environ)
# Patient: if batches failed at once, every message in the queue would use up its retries.
index = open_index(settings, patient=True)
register_after_restore(index.reconnect)
# otherwise all copies of a snapshot would retry at the same times
register_after_restore(random.seed)
watch = Stopwatch()
indexers = open_indexers(
    settings,
    index,
    open_embedders(settings.model_dirs, settings.threads),
    S3Store(read_tags=settings.read_tags),
    EventBus(settings.event_bus).announce if settings.event_bus else no_announcement,
    watch.stage,
)
handler = Handler(
    indexers,
    Logger(service="index"),
    Metrics(namespace=settings.metrics_namespace, service="index"),
    watch,
)

gc.freeze()
gc.enable()
