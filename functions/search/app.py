"""Composition root of the search function: settings → ASGI app → handler."""

from __future__ import annotations

import gc

gc.disable()  # importing leaves no garbage, and looking for it took 7 % of a cold start

import os
import random
from pathlib import Path

from snapshot_restore_py import register_after_restore

from functions.search.api import create_app
from functions.search.gateway import create_handler
from functions.search.resources import open_fetch, open_logger, open_store, open_words
from likeness.adapters.qdrant import open_index
from likeness.embedding import Embedder
from likeness.rerank.verdicts import load_calibration
from likeness.search import Searcher
from likeness.searchers import Searchers
from likeness.settings import Settings

settings = Settings.from_env(os.environ)
index = open_index(settings)
register_after_restore(index.reconnect)
register_after_restore(random.seed)  # or all that one snapshot becomes would wait alike


def open_searcher(folder: Path) -> Searcher:
    embedder = Embedder(folder, settings.threads)
    return Searcher(
        index.of(embedder.fingerprint) if settings.next_model_dir else index,
        embedder,
        open_store,
        settings.schema,
        settings.limits,
        load_calibration(folder, embedder.fingerprint),
        lambda: open_words(folder, settings.threads),
        settings.keep_patches,
    )


searchers = Searchers(index, [open_searcher(folder) for folder in settings.model_dirs])
fetch = open_fetch(settings.image_hosts)
app = create_app(searchers, index, open_store, settings, open_logger, fetch)
handler = create_handler(app)

gc.freeze()
gc.enable()
