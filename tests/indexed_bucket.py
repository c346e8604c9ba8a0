"""A bucket, and the index that is made of it, for tests of duplicates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from likeness.duplicates import Duplicates
from likeness.embedding import Embedder
from likeness.filters import Schema
from likeness.indexing import Indexer, IndexerConfig, Outcome
from likeness.proof.verdicts import Calibration
from likeness.records import Hint, Point, Relation
from tests.calibrations import calibration_of
from tests.fake_bucket import FakeBucket
from tests.indexes import open_index


class World:
    """A bucket, and the index that is made of it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.index = open_index(folder)
        self.bucket = FakeBucket("photos")
        self.embedder = Embedder(model)
        self.calibration: Calibration | None = calibration_of(self.embedder.spec)
        self.duplicates = Duplicates(self.index)
        self._indexers: dict[Schema, Indexer] = {}

    def indexer(self, schema: Schema | None = None, **other: Any) -> Indexer:
        config = IndexerConfig(schema or Schema(), calibration=self.calibration, parallel=1)
        parts = {"store": self.bucket, "index": self.index, **other}
        return Indexer(embedder=self.embedder, config=config, **parts)

    def put(self, key: str, data: bytes) -> None:
        """Put an object, and index it in a batch of its own."""
        self.bucket.put(key, data)
        self.deliver(key)

    def remove(self, key: str) -> None:
        self.bucket.remove(key)
        self.deliver(key)

    def deliver(self, *keys: str, schema: Schema | None = None, **other: Any) -> list[Outcome]:
        hints = list(map(self.hint, keys))
        return list(self.indexer(schema, **other).reconcile(hints).values())

    def hint(self, key: str) -> Hint:
        return Hint(self.bucket.ref(key))

    def point(self, key: str) -> Point:
        point_id = self.id(key)
        return self.index.retrieve_with_vectors([point_id])[point_id]

    def id(self, key: str) -> str:
        return self.bucket.ref(key).point_id

    def matches(self, key: str) -> dict[str, str]:
        """The verdicts of an object's duplicates, by their keys."""
        return {match.key: match.verdict for match in self.point(key).partners}

    def groups(self, relation: Relation = Relation.DUPLICATE) -> list[tuple[str | None, list[str]]]:
        """For each group, the key of its original (None without one) and those of its copies."""
        groups, cursor = Duplicates(self.index, relation).groups(200)
        assert cursor is None
        keys = [
            (
                group.original.ref.key if group.original else None,
                sorted(p.ref.key for p in group.copies),
            )
            for group in groups
        ]
        return sorted(keys, key=lambda group: group[1])
