"""Composition root of the search function: settings → ASGI app → handler."""

from __future__ import annotations

import gc

gc.disable()  # importing leaves no garbage, and looking for it took 7 % of a cold start

import os

from snapshot_restore_py import register_after_restore

from functions.search.api import create_app
from functions.search.gateway import create_handler
from functions.search.resources import open_logger, open_store
from likeness.adapters.qdrant import open_index
from likeness.embedding import Embedder
from likeness.search import Searcher
from likeness.settings import Settings

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
app = create_app(searcher, open_store, settings, open_logger)
handler = create_handler(app)

gc.freeze()
gc.enable()
