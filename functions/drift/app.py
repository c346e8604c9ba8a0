"""Composition root of the drift function: settings → handler."""

from __future__ import annotations

import os

from aws_lambda_powertools import Logger, Metrics

from likeness.adapters.index import open_index
from likeness.adapters.s3 import S3Store
from likeness.adapters.sqs import SqsQueue
from likeness.settings import Settings

from .handler import Handler

settings = Settings.from_env(os.environ)
index = open_index(settings)
handler = Handler(
    S3Store(),
    index,
    SqsQueue(settings.queue_url or ""),
    settings,
    Logger(service="drift"),
    Metrics(namespace=settings.metrics_namespace, service="drift"),
)
