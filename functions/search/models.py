"""A searcher for each model: the current one and, during a migration, the next.

Both are loaded at once: no answer after a switch waits for its model, and SnapStart keeps both.
"""

from __future__ import annotations

from pathlib import Path

from functions.search.resources import open_store, open_words
from likeness.embedding import Embedder
from likeness.ports import VectorIndex
from likeness.rerank.verdicts import load_calibration
from likeness.search import Searcher
from likeness.searchers import Searchers
from likeness.settings import Settings


def open_searchers(settings: Settings, index: VectorIndex) -> Searchers:
    """Raises ModelBundleError where a bundle is damaged."""

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

    return Searchers(index, [open_searcher(folder) for folder in settings.model_dirs])
