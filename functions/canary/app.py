"""Composition root of the canary function: settings → handler."""

from __future__ import annotations

import os
from pathlib import Path

from aws_lambda_powertools import Logger, Metrics

from functions.canary.handler import Canary
from likeness.adapters.cloudwatch import AnswerCounts
from likeness.adapters.qdrant import open_index
from likeness.adapters.s3 import S3Store
from likeness.embedding import Embedder
from likeness.rerank.verdicts import load_calibration
from likeness.search import Searcher
from likeness.searchers import Searchers
from likeness.settings import Settings

settings = Settings.from_env(os.environ)
index = open_index(settings)
store = S3Store()


def open_searcher(folder: Path) -> Searcher:
    embedder = Embedder(folder, settings.threads)
    return Searcher(
        index.of(embedder.fingerprint) if settings.next_model_dir else index,
        embedder,
        lambda: store,
        settings.schema,
        settings.limits,
        load_calibration(folder, embedder.fingerprint),
        patches=settings.keep_patches,
    )


handler = Canary(
    Searchers(index, [open_searcher(folder) for folder in settings.model_dirs]),
    index,
    store,
    settings.limits,
    AnswerCounts(settings.metrics_namespace).last,
    Logger(service="canary"),
    Metrics(namespace=settings.metrics_namespace, service="canary"),
)
