"""The search service for tests: the real app, decoder, model and engine over a bucket in memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from aws_lambda_powertools import Logger
from msgspec import structs
from starlette.testclient import TestClient

from functions.search.api import create_app
from functions.search.service import Fetch
from likeness.embedding import Embedder, TextEmbedder
from likeness.filters import Schema
from likeness.gallery import Gallery
from likeness.indexing import Indexer, IndexerConfig
from likeness.ports import VectorIndex
from likeness.records import ObjectRef
from likeness.search import Searcher
from likeness.searchers import Searchers
from likeness.settings import Settings
from likeness.tenants import Tenants
from tests.calibrations import calibration_of
from tests.fake_bucket import FakeBucket
from tests.indexes import open_index

ROOT = Path(__file__).parents[1]
FIXED_FILTERS = ROOT / "tests" / "models" / "fixed-filters"
BUNDLED = ROOT / "layers" / "model"
SCHEMA = Schema.declare({"brand": "keyword", "price": "float"})


class Service:
    """FIXED_FILTERS is fast, without patches and local descriptors; BUNDLED has all features."""

    def __init__(
        self,
        folder: Path,
        model: Path = FIXED_FILTERS,
        fetch: Fetch | None = None,
        calibrated: bool = True,
        index: VectorIndex | None = None,
        **settings: Any,
    ) -> None:
        """`index`: by default a new one, see indexes.open_index."""
        schema = settings.get("schema", SCHEMA)
        self.index = index or open_index(folder, schema)
        self.bucket = FakeBucket("photos")
        self.embedder = Embedder(model)
        defaults = Settings(
            "file:///unused", model, "photos", upload_prefix="uploads/", schema=SCHEMA
        )
        self.settings = structs.replace(defaults, **settings)
        self.calibration = calibration_of(self.embedder.spec) if calibrated else None
        self.searcher = Searcher(
            Gallery(
                self.index,
                lambda: self.bucket,
                schema,
                self.settings.limits,
                Tenants(self.settings.prefix),
            ),
            self.embedder,
            self.calibration,
            lambda: TextEmbedder(model),
        )
        logger = Logger(service="search", logger_handler=logging.NullHandler())
        self.recorded: list[bytes] = []
        self.app = create_app(
            Searchers(self.index, [self.searcher]),
            self.index,
            lambda: self.bucket,
            self.settings,
            lambda: logger,
            fetch,
            self.recorded.append,
        )
        self.http = TestClient(self.app, raise_server_exceptions=False)

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.index.close()

    def fill(
        self, images: Mapping[str, bytes], metadata: Mapping[str, Mapping[str, str]] | None = None
    ) -> None:
        """Index images in this order, as the index function does."""
        for key, data in images.items():
            self.bucket.put(key, data, (metadata or {}).get(key))
        self._reconcile()

    def remove(self, key: str) -> None:
        self.bucket.remove(key)
        self._reconcile()

    def _reconcile(self) -> None:
        hints, self.bucket.events = self.bucket.events, []
        config = IndexerConfig(
            self.settings.schema,
            calibration=self.calibration,
            tenants=Tenants(self.settings.prefix) if self.settings.tenant_claim else None,
        )
        Indexer(self.bucket, self.index, self.embedder, config).reconcile(hints)

    def id(self, key: str) -> str:
        return ObjectRef("photos", key).point_id

    def search(self, **fields: Any) -> Any:
        return self.http.post("/v1/search", json=fields)

    def compare(self, first: Mapping[str, Any], second: Mapping[str, Any]) -> Any:
        return self.http.post("/v1/compare", json={"first": first, "second": second})
