"""Composition root of the search function: settings → ASGI app → handler."""

from __future__ import annotations

import gc

gc.disable()  # importing leaves no garbage, and looking for it took 7 % of a cold start

import os
import random

from snapshot_restore_py import register_after_restore

from functions.search.api import create_app
from functions.search.gateway import create_handler
from functions.search.resources import open_fetch, open_logger, open_store, open_words
from likeness.adapters.qdrant import open_index
from likeness.embedding import Embedder
from likeness.rerank.verdicts import load_calibration
from likeness.search import Searcher
from likeness.settings import Settings

settings = Settings.from_env(os.environ)
index = open_index(settings)
register_after_restore(index.reconnect)
register_after_restore(random.seed)  # or all that one snapshot becomes would wait alike
embedder = Embedder(settings.model_dir, settings.threads)
searcher = Searcher(
    index,
    embedder,
    open_store,
    settings.schema,
    settings.limits,
    load_calibration(settings.model_dir, embedder.fingerprint),
    lambda: open_words(settings.model_dir, settings.threads),
    settings.keep_patches,
)
fetch = open_fetch(settings.image_hosts)
app = create_app(searcher, index, open_store, settings, open_logger, fetch)
handler = create_handler(app)

gc.freeze()
gc.enable()
