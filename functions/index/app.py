"""Composition root of the index function: settings → handler."""

from __future__ import annotations

import gc

gc.disable()  # importing leaves no garbage, and looking for it takes 7 % of a cold start

import os

from aws_lambda_powertools import Logger, Metrics
from snapshot_restore_py import register_after_restore

from functions.index.handler import Handler
from likeness.adapters.qdrant import open_index
from likeness.adapters.s3 import S3Store
from likeness.embedding import Embedder
from likeness.indexing import Indexer
from likeness.settings import Settings

settings = Settings.from_env(os.environ)
index = open_index(settings)
register_after_restore(index.reconnect)
handler = Handler(
    Indexer(
        S3Store(read_tags=settings.read_tags),
        index,
        Embedder(settings.model_dir, settings.threads),
        settings.schema,
        settings.limits,
    ),
    Logger(service="index"),
    Metrics(namespace="Likeness", service="index"),
)

gc.freeze()
gc.enable()
