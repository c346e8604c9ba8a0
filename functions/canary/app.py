"""Composition root of the canary function: settings → handler."""

from __future__ import annotations

import os

from aws_lambda_powertools import Logger, Metrics

from likeness.adapters.cloudwatch import AnswerMetrics
from likeness.adapters.index import open_index
from likeness.adapters.s3 import S3Store
from likeness.embedding import open_embedders
from likeness.searchers import open_searchers
from likeness.settings import Settings

from .handler import Canary

settings = Settings.from_env(os.environ)
index = open_index(settings)
store = S3Store()
embedders = open_embedders(settings.model_dirs, settings.threads)
handler = Canary(
    open_searchers(settings, index, embedders, lambda: store),
    index,
    store,
    settings.limits,
    AnswerMetrics(settings.metrics_namespace).last,
    Logger(service="canary"),
    Metrics(namespace=settings.metrics_namespace, service="canary"),
)
