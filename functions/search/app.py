"""Composition root of the search function: settings → ASGI app → handler."""

from __future__ import annotations

import functools
import os

from aws_lambda_powertools import Logger
from snapshot_restore_py import register_after_restore

from functions.search.api import create_app
from functions.search.gateway import create_handler
from likeness.adapters.qdrant import open_index
from likeness.embedding import Embedder
from likeness.ports import ObjectStore
from likeness.search import Searcher
from likeness.settings import Settings


@functools.cache
def open_store() -> ObjectStore:
    # boto3 costs 0.3 s, and most searches never touch the bucket
    from likeness.adapters.s3 import S3Store  # noqa: PLC0415

    return S3Store()


settings = Settings.from_env(os.environ)
index = open_index(settings)
register_after_restore(index.reconnect)
searcher = Searcher(
    index,
    Embedder(settings.model_dir, settings.threads),
    open_store,
    settings.schema,
    settings.limits,
)
app = create_app(searcher, open_store, settings, Logger(service="search"))
handler = create_handler(app)
