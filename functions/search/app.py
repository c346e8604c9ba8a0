"""Composition root of the search function: settings → ASGI app → handler."""

from __future__ import annotations

import gc

gc.disable()  # importing creates no garbage, and collecting it took 7% of a cold start

import os
import random
from concurrent.futures import ThreadPoolExecutor

from likeness.embedding import open_embedders
from likeness.settings import Settings

settings = Settings.from_env(os.environ)

with ThreadPoolExecutor(1) as background:
    # onnxruntime loads a network without holding the GIL: the rest is imported meanwhile
    loading = background.submit(open_embedders, settings.model_dirs, settings.threads)

    from snapshot_restore_py import register_after_restore

    from likeness.adapters.index import open_search_index
    from likeness.searchers import open_searchers

    from .api import create_app
    from .gateway import create_handler
    from .resources import open_fetch, open_logger, open_record, open_store, open_text_embedder

    index = open_search_index(settings, lambda why: open_logger().warning("limited", why=why))
    register_after_restore(index.reconnect)
    # otherwise all copies of a snapshot would retry at the same times
    register_after_restore(random.seed)
    fetch = open_fetch(settings.image_hosts)
    record = open_record(settings.answer_log)

searchers = open_searchers(settings, index, loading.result(), open_store, open_text_embedder)
app = create_app(searchers, index, open_store, settings, open_logger, fetch, record)
handler = create_handler(app)

gc.freeze()
gc.enable()
