"""Our requests as objects of qdrant-edge: collections, queries and filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import qdrant_edge as edge

from likeness.adapters.qdrant_layout import PATCHES, SYSTEM_INDEXES, VECTOR
from likeness.adapters.qdrant_points import to_numbers
from likeness.adapters.qdrant_queries import HNSW_EF, oversampling, window
from likeness.records import NearestQuery, Vector

_INDEX_TYPES = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "datetime": edge.PayloadSchemaType.Datetime,
}
_INDEX_PARAMS: Mapping[str, Any] = {
    "keyword": edge.KeywordIndexParams,
    "integer": edge.IntegerIndexParams,
    "float": edge.FloatIndexParams,
}


def payload_index(path: str, kind: str) -> Any:
    """The index of a payload field, for `edge.UpdateOperation.create_field_index`."""
    return _INDEX_PARAMS[kind](enable_hnsw=False) if path in SYSTEM_INDEXES else _INDEX_TYPES[kind]


def vector_params(metadata: Mapping[str, Any]) -> dict[str, edge.EdgeVectorParams]:
    """The vectors of a collection with this metadata."""
    cosine = edge.Distance.Cosine
    vectors = {
        VECTOR: edge.EdgeVectorParams(
            size=metadata["dim"],
            distance=cosine,
            on_disk=True,
            # as on a server (see qdrant_index); takes effect once the shard is optimised
            quantization_config=edge.ScalarQuantizationConfig(
                edge.ScalarType.Int8, always_ram=True
            ),
        )
    }
    if "patches" in metadata:
        vectors[PATCHES] = edge.EdgeVectorParams(
            size=metadata["patches"],
            distance=cosine,
            multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
            datatype=edge.VectorStorageDatatype.Float16,
        )
    return vectors


def query_request(query: NearestQuery, vector: Vector, patches: Vector | None) -> edge.QueryRequest:
    """A query for ids and scores alone, for one view.

    The prefetch is filtered too, or points outside the filter would fill it.
    """
    limit, offset = window(query)
    rescored = limit if patches is None else query.pool
    by_vector: dict[str, Any] = {
        "query": edge.Query.Nearest(to_numbers(vector), using=VECTOR),
        "filter": engine_filter(query.filter) if query.filter else None,
        "score_threshold": query.score_threshold,
        "params": edge.SearchParams(
            hnsw_ef=HNSW_EF,
            quantization=edge.QuantizationSearchParams(
                rescore=True, oversampling=oversampling(rescored)
            ),
        ),
    }
    if patches is not None:
        by_vector = {
            "prefetches": [edge.Prefetch(limit=query.pool, **by_vector)],
            "query": edge.Query.Nearest(to_numbers(patches), using=PATCHES),
        }
    return edge.QueryRequest(
        limit=limit, offset=offset, with_payload=False, with_vector=False, **by_vector
    )


def engine_filter(clauses: Mapping[str, Any]) -> edge.Filter:
    """Qdrant filter JSON → the engine's filter.

    Supports what `filters.Schema.compile` and the filters of qdrant_points contain.
    """
    must, should, must_not = (
        [_condition(condition) for condition in clauses.get(name, [])] or None
        for name in ("must", "should", "must_not")
    )
    return edge.Filter(must, should, must_not)


def _condition(condition: Mapping[str, Any]) -> Any:
    if "has_id" in condition:
        return edge.HasIdCondition(set(condition["has_id"]))
    if "is_empty" in condition:
        return edge.IsEmptyCondition(condition["is_empty"]["key"])
    if "key" not in condition:
        return engine_filter(condition)
    key = condition["key"]
    if "match" in condition:
        return edge.FieldCondition(key, match=_match(condition["match"]))
    bounds = condition["range"]
    dates = any(isinstance(bound, str) for bound in bounds.values())
    return edge.FieldCondition(
        key, range=edge.RangeDateTime(**bounds) if dates else edge.RangeFloat(**bounds)
    )


def _match(match: Mapping[str, Any]) -> Any:
    [(how, value)] = match.items()
    if how == "value":
        return edge.MatchValue(value)
    return edge.MatchAny(value) if how == "any" else edge.MatchExcept(value)
