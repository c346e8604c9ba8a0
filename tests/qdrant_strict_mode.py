"""Qdrant's strict mode in the tests' server: limits of a collection, enforced with 400."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

DEFAULT_LIMIT = 10


class LimitExceeded(Exception):
    """What the server says to a request beyond a limit."""


def check(config: Mapping[str, Any], schema: Mapping[str, Any], route: str, body: Any) -> None:
    """Raise LimitExceeded for a request beyond a limit. `route`: method and path, `PUT /points`.

    `config` has the names of Qdrant's `strict_mode_config`, `schema` the indexed payload fields.
    """
    if not config.get("enabled"):
        return
    if route == "PUT /index":
        _check_index_count(config, schema)
    elif route == "PUT /points":
        _at_most(config, "upsert_max_batchsize", len(body["points"]), "upsert limit")
        _check_filter(config, "unindexed_filtering_update", schema, body.get("update_filter"))
    elif route == "POST /points/delete":
        _check_filter(config, "unindexed_filtering_update", schema, body.get("filter"))
    elif route == "POST /points/batch":
        for operation in body["operations"]:
            [change] = operation.values()
            _check_filter(config, "unindexed_filtering_update", schema, change.get("filter"))
    elif route == "POST /points/query/batch":
        _at_most(config, "search_max_batchsize", len(body["searches"]), "search batch size")
        for search in body["searches"]:
            _check_search(config, schema, search)
    elif route == "POST /points/count":
        _check_filter(config, "unindexed_filtering_retrieve", schema, body.get("filter"))
    elif route in ("POST /points/query", "POST /points/scroll", "POST /facet"):
        _check_search(config, schema, body)


def _check_search(config: Mapping[str, Any], schema: Mapping[str, Any], search: Any) -> None:
    prefetch = search.get("prefetch") or []
    for inner in prefetch if isinstance(prefetch, list) else [prefetch]:
        _check_search(config, schema, inner)
    params = search.get("params") or {}
    oversampling = (params.get("quantization") or {}).get("oversampling")
    _at_most(config, "max_query_limit", search.get("limit") or DEFAULT_LIMIT, "limit")
    _check_filter(config, "unindexed_filtering_retrieve", schema, search.get("filter"))
    _at_most(config, "search_max_oversampling", oversampling, "oversampling")
    _at_most(config, "search_max_hnsw_ef", params.get("hnsw_ef"), "hnsw_ef")


def _at_most(config: Mapping[str, Any], setting: str, value: float | None, name: str) -> None:
    limit = config.get(setting)
    if limit is not None and value is not None and value > limit:
        raise _exceeded(
            f'Limit exceeded {value} > {limit} for "{name}"',
            f'Reduce the "{name}" parameter to or below {limit}.',
        )


def _check_index_count(config: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    limit = config.get("max_payload_index_count")
    if limit is not None and len(schema) >= limit:
        raise _exceeded(
            f"Collection already has the maximum number of payload indices ({limit})",
            "Please delete an existing index before creating a new one.",
        )


def _check_filter(
    config: Mapping[str, Any], setting: str, schema: Mapping[str, Any], filter: Any
) -> None:
    conditions = list(_conditions(filter or {}))
    _limit(config, "filter_max_conditions", len(conditions), "Filter condition limit")
    size = max(map(_size, conditions), default=0)
    _limit(config, "condition_max_size", size, "Condition size limit")
    if config.get(setting) is not False:
        return
    for condition in conditions:
        if "key" not in condition:
            continue
        key, kinds = condition["key"], _index_kinds(condition)
        if schema.get(key, {}).get("data_type") not in kinds:
            raise _exceeded(
                f'Index required but not found for "{key}" of one of the following types: '
                f"[{', '.join(kinds)}]",
                "Create an index for this key or use a different filter.",
            )


def _limit(config: Mapping[str, Any], setting: str, value: int, name: str) -> None:
    limit = config.get(setting)
    if limit is not None and value > limit:
        raise _exceeded(f"{name} reached ({value} > {limit})", "Reduce your filter.")


def _conditions(filter: Any) -> Iterator[dict[str, Any]]:
    """The innermost conditions of a filter."""
    for clause in ("must", "should", "must_not"):
        conditions = filter.get(clause) or []
        for condition in conditions if isinstance(conditions, list) else [conditions]:
            if condition.keys() & {"must", "should", "must_not"}:
                yield from _conditions(condition)
            else:
                yield condition


def _size(condition: Mapping[str, Any]) -> int:
    match = condition.get("match") or {}
    values = condition.get("has_id") or match.get("any") or match.get("except")
    return len(values) if values else 1


def _index_kinds(condition: Mapping[str, Any]) -> list[str]:
    if bounds := condition.get("range"):
        is_date = any(isinstance(bound, str) for bound in bounds.values())
        return ["datetime"] if is_date else ["float", "integer"]
    match = condition.get("match") or {}
    values = match.get("any") or match.get("except") or [match.get("value")]
    return {bool: ["bool"], int: ["integer"]}.get(type(values[0]), ["keyword", "uuid"])


def _exceeded(why: str, advice: str) -> LimitExceeded:
    return LimitExceeded(f"Bad request: {why}. Help: {advice}")
