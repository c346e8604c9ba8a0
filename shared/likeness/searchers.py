"""Searchers: while one model takes another's place, the one that the alias names answers.

Each searcher reads its own model's collection, wherever the alias points: an answer that has begun
ends with the model that it began with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from likeness.embedding import Embedder, TextEmbedder
from likeness.errors import IndexMissing, IndexOfOtherModel
from likeness.ports import ObjectStore, VectorIndex
from likeness.proof.verdicts import load_calibration
from likeness.search import Searcher
from likeness.settings import Settings

# How long an alias is taken to stand where it was seen. Both collections are kept up to date, so
# that an answer by the one that was just left is right too.
_SEEN_FOR_S = 2.0

T = TypeVar("T")


class Searchers:
    """Safe to share between threads."""

    def __init__(
        self,
        index: VectorIndex,
        searchers: Sequence[Searcher],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """The current model's searcher comes first. A single one is never asked about."""
        self._index = index
        self._searchers = {searcher.model: searcher for searcher in reversed(searchers)}
        self._current = searchers[0]
        self._clock = clock
        self._named = self._current
        self._named_until_s = float("inf") if len(self._searchers) == 1 else float("-inf")

    @property
    def models(self) -> list[str]:
        """Those that can answer, the current one first."""
        return sorted(self._searchers, key=lambda model: model != self._current.model)

    def run(self, work: Callable[[Searcher], T]) -> T:
        """Have work done by the model that is searched with; all of it by one.

        It is done again where the collection was dropped meanwhile: another one is searched then.
        """
        searcher = self._searcher()
        try:
            return work(searcher)
        except IndexMissing:
            if len(self._searchers) == 1:
                raise
            self._named_until_s = float("-inf")
            other = self._searcher()
            if other is searcher:
                raise
            return work(other)

    def _searcher(self) -> Searcher:
        if self._clock() >= self._named_until_s:
            try:
                model = self._index.info().model
            except IndexMissing:  # nothing is indexed yet, and the searcher says so
                return self._current
            if model not in self._searchers:
                raise IndexOfOtherModel(
                    f"the alias names the index of model {model}, this service embeds with "
                    f"{' or '.join(self.models)}: `likeness migrate status` says what stands where"
                )
            self._named = self._searchers[model]
            self._named_until_s = self._clock() + _SEEN_FOR_S
        return self._named


def open_searchers(
    settings: Settings,
    index: VectorIndex,
    embedders: Sequence[Embedder],
    open_store: Callable[[], ObjectStore],
    open_text_embedder: Callable[[Path, int], TextEmbedder] | None = None,
) -> Searchers:
    """One for each of the settings' bundles, all loaded: no answer after a switch waits for its
    model, and SnapStart keeps both.

    `open_text_embedder` is called where a query is text. Raises ModelBundleError for a damaged
    bundle.
    """

    def open_searcher(folder: Path, embedder: Embedder) -> Searcher:
        return Searcher(
            index.for_model(embedder.fingerprint) if settings.next_model_dir else index,
            embedder,
            open_store,
            settings.schema,
            settings.limits,
            load_calibration(folder, embedder.fingerprint),
            partial(open_text_embedder, folder, settings.threads) if open_text_embedder else None,
            settings.keep_patches,
        )

    return Searchers(index, list(map(open_searcher, settings.model_dirs, embedders)))
