"""Limits that a collection's strict mode sets, and what it costs to stay within them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from likeness.adapters.qdrant_queries import HNSW_EF, MIN_OVERSAMPLED
from likeness.errors import ConfigurationError

# What one point of a conditional write adds to its filter (qdrant_points.update_filter).
_CONDITIONS_OF_A_POINT = 7
_MANY = 1_000_000


class StrictLimits(Struct, frozen=True):
    """The limits that our requests may exceed, named as in Qdrant's `strict_mode_config`."""

    search_max_hnsw_ef: int | None = None
    search_max_oversampling: float | None = None
    search_max_batchsize: int | None = None
    max_query_limit: int | None = None
    upsert_max_batchsize: int | None = None
    filter_max_conditions: int | None = None
    condition_max_size: int | None = None
    max_payload_index_count: int | None = None

    @classmethod
    def of(cls, description: Any) -> StrictLimits:
        """The limits in the description of a collection (`GET /collections/{name}`)."""
        config = description["config"].get("strict_mode_config") or {}
        return msgspec.convert(config, cls) if config.get("enabled") else UNLIMITED

    @property
    def hnsw_ef(self) -> int:
        return min(HNSW_EF, self.search_max_hnsw_ef or HNSW_EF)

    def oversampling(self, wanted: float) -> float:
        return min(wanted, self.search_max_oversampling or wanted)

    @property
    def page(self) -> int:
        """The most points that one search or scroll may ask for."""
        return self.max_query_limit or _MANY

    @property
    def searches(self) -> int:
        """The most searches of one batch."""
        return self.search_max_batchsize or _MANY

    @property
    def ids(self) -> int:
        """The most ids of one condition."""
        return self.condition_max_size or _MANY

    @property
    def writes(self) -> int:
        """The most points of one conditional write.

        Raises ConfigurationError where not even one may be written.
        """
        conditions = self.filter_max_conditions or _MANY
        if conditions < _CONDITIONS_OF_A_POINT:
            raise ConfigurationError(
                f"strict mode's filter_max_conditions is {conditions}: a conditional write needs "
                f"{_CONDITIONS_OF_A_POINT}"
            )
        return min(self.upsert_max_batchsize or _MANY, conditions // _CONDITIONS_OF_A_POINT)

    def check_indexes(self, paths: list[str]) -> None:
        """Raises ConfigurationError where these payload indexes are too many."""
        most = self.max_payload_index_count
        if most is not None and len(paths) > most:
            raise ConfigurationError(
                f"{len(paths)} payload indexes are needed, but strict mode's "
                f"max_payload_index_count is {most}: raise it, or declare fewer keys in "
                f"LIKENESS_PAYLOAD_SCHEMA. Beyond it: {', '.join(paths[most:])}"
            )

    def restrictions(self) -> Iterator[str]:
        """What the limits cost searches, one sentence for each setting that does."""
        # among a million images: benchmarks/scale.py
        if self.hnsw_ef < HNSW_EF:
            yield (
                f"search_max_hnsw_ef is {self.hnsw_ef}, not {HNSW_EF}: searches find fewer of the "
                "nearest images (of the nearest ten among a million, .96 with 512, .98 with 1536)"
            )
        if (self.search_max_oversampling or _MANY) < MIN_OVERSAMPLED:
            yield (
                f"search_max_oversampling is {self.search_max_oversampling:g}: searches for fewer "
                f"than {MIN_OVERSAMPLED} / {self.search_max_oversampling:g} images find fewer of "
                "the nearest (of the nearest ten among a million, .86 with 2)"
            )
        if self.page < 2 * MIN_OVERSAMPLED:
            yield f"max_query_limit is {self.page}: large pages take several searches"


UNLIMITED = StrictLimits()
