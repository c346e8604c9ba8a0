"""Composition root of the canary function: settings → handler."""

from __future__ import annotations

import os

from aws_lambda_powertools import Logger, Metrics
from snapshot_restore_py import register_after_restore

from functions.canary.handler import Canary
from likeness.adapters.cloudwatch import AnswerCounts
from likeness.adapters.qdrant import open_index
from likeness.adapters.s3 import S3Store
from likeness.embedding import Embedder
from likeness.rerank.verdicts import load_calibration
from likeness.search import Searcher
from likeness.settings import Settings

settings = Settings.from_env(os.environ)
index = open_index(settings)
register_after_restore(index.reconnect)
embedder = Embedder(settings.model_dir, settings.threads)
store = S3Store()
handler = Canary(
    Searcher(
        index,
        embedder,
        lambda: store,
        settings.schema,
        settings.limits,
        load_calibration(settings.model_dir, embedder.fingerprint),
        patches=settings.keep_patches,
    ),
    index,
    store,
    settings.limits,
    AnswerCounts(settings.metrics_namespace).last,
    Logger(service="canary"),
    Metrics(namespace=settings.metrics_namespace, service="canary"),
)
