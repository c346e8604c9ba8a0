"""The payload schema: which metadata is stored, its types, and filters on it.

User metadata reaches us as text (S3 metadata, object tags). A schema such as
{"brand": "keyword", "price": "float"} declares the stored keys and their types. Filters are
Qdrant filter JSON (https://qdrant.tech/documentation/concepts/filtering/) on declared keys only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.errors import MessageError
from typing import Any

from msgspec import Struct

from likeness.errors import ConfigurationError, InvalidRequest, UnknownFilterKey

# User metadata has its own object in a stored payload, apart from system fields.
META = "meta"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SURROGATE = re.compile("[\ud800-\udfff]")  # Qdrant rejects unpaired surrogates
_CLAUSES = ("must", "should", "must_not")
_MAX_CONDITIONS = 64
_MAX_DEPTH = 4

# Fields of every live image that can be filtered by without being declared.
_SYSTEM_TYPES = {
    "bucket": "keyword",
    "content_type": "keyword",
    "height": "integer",
    "size": "integer",
    "width": "integer",
}


def _keyword(text: str) -> str:
    if _SURROGATE.search(text):
        raise ValueError(text)
    return text


def _integer(text: str) -> int:
    value = int(text)
    if abs(value) >= 1 << 53:
        raise ValueError(text)
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _datetime(text: str) -> str:
    value = datetime.fromisoformat(text)
    # in UTC, because Qdrant does not accept offsets with seconds
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "keyword": _keyword,
    "integer": _integer,
    "float": _finite,
    "datetime": _datetime,
}


class Schema(Struct, frozen=True):
    """Declared metadata keys and their types: keyword, integer, float or datetime."""

    types: Mapping[str, str] = {}

    @classmethod
    def declare(cls, types: Any) -> Schema:
        """Raises ConfigurationError for a bad name or type."""
        if not isinstance(types, Mapping):
            raise ConfigurationError("the payload schema must be an object of key: type")
        for key, kind in types.items():
            if not _NAME.fullmatch(key):
                raise ConfigurationError(
                    f"payload key {key!r}: only a-z, 0-9, - and _ are allowed, as in S3 metadata"
                )
            if key in _SYSTEM_TYPES:
                raise ConfigurationError(f"payload key {key!r} is already a system field")
            if not isinstance(kind, str) or kind not in _PARSERS:
                raise ConfigurationError(
                    f"payload key {key!r}: type {kind!r} is not one of {', '.join(_PARSERS)}"
                )
        return cls(dict(types))

    @property
    def indexes(self) -> dict[str, str]:
        """Stored payload path → type, for every key that can be filtered by."""
        return {self._path(key): kind for key, kind in self._all_types().items()}

    @property
    def countable(self) -> dict[str, str]:
        """Stored payload path of each declared key that supports facets."""
        return {
            key: self._path(key)
            for key, kind in self.types.items()
            if kind in ("keyword", "integer")
        }

    def parse(self, texts: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
        """Typed values of the declared keys, and the keys whose text is not of their type."""
        values: dict[str, Any] = {}
        invalid = []
        for key, kind in self.types.items():
            if key not in texts:
                continue
            try:
                values[key] = _PARSERS[kind](_decoded(texts[key]))
            except (ValueError, OverflowError):
                invalid.append(key)
        return values, invalid

    def check_declared(self, key: str, where: str) -> None:
        """Raises UnknownFilterKey for an undeclared key."""
        if key not in self.types:
            known = ", ".join(sorted(self.types)) or "none"
            raise UnknownFilterKey(
                f"{where}: {key!r} is not a declared key; declared keys: {known}"
            )

    def compile(self, filter: Any) -> dict[str, Any]:
        """Validate a caller's filter and translate its keys to paths of the stored payload.

        Raises InvalidRequest for a malformed filter, UnknownFilterKey for an undeclared key.
        """
        budget = [_MAX_CONDITIONS]
        return self._compile_filter(filter, "filter", _MAX_DEPTH, budget)

    def _all_types(self) -> dict[str, str]:
        return {**_SYSTEM_TYPES, **self.types}

    def _path(self, key: str) -> str:
        return key if key in _SYSTEM_TYPES else f"{META}.{key}"

    def _compile_filter(
        self, filter: Any, where: str, depth: int, budget: list[int]
    ) -> dict[str, Any]:
        if not isinstance(filter, Mapping) or not filter:
            raise InvalidRequest(f"{where}: expected an object with {', '.join(_CLAUSES)}")
        if depth == 0:
            raise InvalidRequest(f"{where}: nested more than {_MAX_DEPTH} deep")
        if unknown := set(filter) - set(_CLAUSES):
            raise InvalidRequest(f"{where}: unknown field {sorted(unknown)[0]!r}")
        compiled: dict[str, Any] = {}
        for clause, conditions in filter.items():
            listed = conditions if isinstance(conditions, list) else [conditions]
            budget[0] -= len(listed)
            if budget[0] < 0:
                raise InvalidRequest(f"{where}: more than {_MAX_CONDITIONS} conditions")
            compiled[clause] = [
                self._compile_condition(condition, f"{where}.{clause}[{i}]", depth, budget)
                for i, condition in enumerate(listed)
            ]
        return compiled

    def _compile_condition(
        self, condition: Any, where: str, depth: int, budget: list[int]
    ) -> dict[str, Any]:
        if not isinstance(condition, Mapping):
            raise InvalidRequest(f"{where}: expected a condition object")
        if "key" not in condition:
            return self._compile_filter(condition, where, depth - 1, budget)
        key = condition["key"]
        kind = self._all_types().get(key) if isinstance(key, str) else None
        if kind is None:
            known = ", ".join(sorted(self._all_types()))
            raise UnknownFilterKey(
                f"{where}: {key!r} is not a declared key; declared keys: {known}"
            )
        rest = {name: value for name, value in condition.items() if name != "key"}
        if len(rest) != 1 or not rest.keys() <= {"match", "range"}:
            raise InvalidRequest(f"{where}: expected key with either match or range")
        if "match" in rest:
            return {"key": self._path(key), "match": _compile_match(rest["match"], kind, where)}
        return {"key": self._path(key), "range": _compile_range(rest["range"], kind, where)}


def _compile_match(match: Any, kind: str, where: str) -> dict[str, Any]:
    if kind not in ("keyword", "integer"):
        raise InvalidRequest(f"{where}: a {kind} key needs range, not match")
    if not isinstance(match, Mapping) or len(match) != 1:
        raise InvalidRequest(f"{where}.match: expected one of value, any, except")
    [(how, value)] = match.items()
    if how not in ("value", "any", "except"):
        raise InvalidRequest(f"{where}.match: unknown field {how!r}; use value, any or except")
    values = [value] if how == "value" else value
    if not isinstance(values, list) or not all(_matchable(v, kind) for v in values):
        raise InvalidRequest(f"{where}.match.{how}: expected {kind} values")
    return {how: value}


def _matchable(value: Any, kind: str) -> bool:
    if kind == "keyword":
        return isinstance(value, str) and not _SURROGATE.search(value)
    # bool is a subclass of int, but not a payload type; Qdrant's integers have 64 bits
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def _compile_range(bounds: Any, kind: str, where: str) -> dict[str, Any]:
    if kind == "keyword":
        raise InvalidRequest(f"{where}: a keyword key needs match, not range")
    if not isinstance(bounds, Mapping) or not bounds or bounds.keys() - {"lt", "lte", "gt", "gte"}:
        raise InvalidRequest(f"{where}.range: expected lt, lte, gt or gte")
    return {name: _bound(value, kind, f"{where}.range.{name}") for name, value in bounds.items()}


def _bound(value: Any, kind: str, where: str) -> Any:
    try:
        if kind == "datetime" and isinstance(value, str):
            return _datetime(value)
        if kind != "datetime" and type(value) in (int, float):
            return _finite(value)
    except (ValueError, OverflowError):
        pass
    raise InvalidRequest(f"{where}: expected a {'date and time' if kind == 'datetime' else kind}")


def header_text(text: str) -> str:
    """Metadata as S3 returns it: as RFC 2047 encoded words where it is not ASCII."""
    if text.isascii():
        return text
    from email.header import Header  # noqa: PLC0415 - rare, and slow to import

    return Header(text, "utf-8", maxlinelen=10_000).encode()


def _decoded(text: str) -> str:
    """S3 returns non-ASCII metadata as RFC 2047 encoded words (guide, "User-defined metadata")."""
    if not text.startswith("=?"):
        return text
    from email.header import decode_header, make_header  # noqa: PLC0415 - rare, and slow to import

    try:
        return str(make_header(decode_header(text)))
    except (LookupError, ValueError, MessageError):
        return text
