"""Searchers: during a migration there is one for each model, and the alias decides which answers.

Each searcher reads its own model's collection, wherever the alias points: an answer that has begun
finishes with the model that it began with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from likeness.embedding import Embedder, TextEmbedder
from likeness.errors import IndexMissing, IndexOfOtherModel
from likeness.gallery import Gallery
from likeness.ports import ObjectStore, SearchIndex
from likeness.proof.verdicts import load_calibration
from likeness.search import Searcher
from likeness.settings import Settings
from likeness.tenants import Tenants

# How long the alias is not read again. Both collections are kept up to date, so an answer from the
# one that the alias has just left is correct too.
_ALIAS_VALID_S = 2.0

T = TypeVar("T")


class Searchers:
    """Safe to share between threads."""

    def __init__(
        self,
        index: SearchIndex,
        searchers: Sequence[Searcher],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The current model's searcher comes first. With a single one the alias is never read."""
        self._index = index
        self._searchers = {searcher.model: searcher for searcher in reversed(searchers)}
        self._current = searchers[0]
        self._clock = clock
        self._selected = self._current
        self._valid_until_s = float("inf") if len(self._searchers) == 1 else float("-inf")

    @property
    def models(self) -> list[str]:
        """The models that can answer, the current one first."""
        return sorted(self._searchers, key=lambda model: model != self._current.model)

    def run(self, work: Callable[[Searcher], T], tenant: str | None = None) -> T:
        """Do all of `work` with the searcher of the model that the alias names, over the part of
        the gallery that `tenant` may see, or over everything.

        The work is repeated where the collection was dropped meanwhile, with the other model.
        """
        searcher = self._select()
        try:
            return work(searcher.for_tenant(tenant))
        except IndexMissing:
            if len(self._searchers) == 1:
                raise
            self._valid_until_s = float("-inf")
            other = self._select()
            if other is searcher:
                raise
            return work(other.for_tenant(tenant))

    def _select(self) -> Searcher:
        if self._clock() >= self._valid_until_s:
            try:
                model = self._index.info().model
            except IndexMissing:  # nothing is indexed yet, which the searcher reports itself
                return self._current
            if model not in self._searchers:
                raise IndexOfOtherModel(
                    f"the alias names the index of model {model}, but this service embeds with "
                    f"{' or '.join(self.models)}: `likeness migrate status` shows the collections"
                )
            self._selected = self._searchers[model]
            self._valid_until_s = self._clock() + _ALIAS_VALID_S
        return self._selected


def open_searchers(
    settings: Settings,
    index: SearchIndex,
    embedders: Sequence[Embedder],
    open_store: Callable[[], ObjectStore],
    open_text_embedder: Callable[[Path, int], TextEmbedder] | None = None,
) -> Searchers:
    """One searcher for each of the settings' bundles, all loaded: no answer after a switch waits
    for its model, and a SnapStart snapshot holds both.

    `open_text_embedder` is called only for a text query. Raises ModelBundleError for a damaged
    bundle.
    """
    tenants = Tenants(settings.prefix)

    def open_searcher(folder: Path, embedder: Embedder) -> Searcher:
        own_index = index.for_model(embedder.fingerprint) if settings.next_model_dir else index
        return Searcher(
            Gallery(own_index, open_store, settings.schema, settings.limits, tenants),
            embedder,
            load_calibration(folder, embedder.fingerprint),
            partial(open_text_embedder, folder, settings.threads) if open_text_embedder else None,
            use_patches=settings.keep_patches,
        )

    return Searchers(index, list(map(open_searcher, settings.model_dirs, embedders)))
