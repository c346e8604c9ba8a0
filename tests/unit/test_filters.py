"""The payload schema: declarations, parsing of metadata, and valid filters."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from qdrant_client import models

from likeness.errors import ConfigurationError, InvalidRequest, UnknownFilterKey
from likeness.filters import Schema, header_text
from likeness.ports import VectorIndex
from likeness.records import NearestQuery
from tests.indexes import open_index

SCHEMA = Schema.declare(
    {"brand": "keyword", "stock": "integer", "price": "float", "since": "datetime"}
)
BRAND = {"key": "brand", "match": {"value": "acme"}}

# Declaring


@pytest.mark.parametrize("name", ["a", "0", "sku_2", "colour-code", "x" * 64])
def test_names_that_s3_metadata_can_have_may_be_declared(name: str) -> None:
    assert Schema.declare({name: "keyword"}).types == {name: "keyword"}


@pytest.mark.parametrize(
    "name", ["", "Brand", "-a", "_a", "a b", "a.b", "a[]", "ü", "x" * 65, "a\n", 'a"', "meta.a"]
)
def test_another_name_is_refused_and_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match="payload key") as caught:
        Schema.declare({name: "keyword"})
    assert ascii(name) in str(caught.value)


@pytest.mark.parametrize("name", ["bucket", "content_type", "height", "size", "width"])
def test_a_system_field_cannot_be_declared_again(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{name}' is already a system field"):
        Schema.declare({name: "keyword"})


@pytest.mark.parametrize("kind", ["text", "Keyword", "", None, 1, True, [], {}, ["keyword"]])
def test_an_unknown_type_is_refused_with_the_key_it_was_given_to(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"'brand': type .* is not one of keyword, int"):
        Schema.declare({"brand": kind})


@pytest.mark.parametrize("types", [[], None, "brand", 1, [["brand", "keyword"]]])
def test_a_schema_is_an_object(types: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be an object"):
        Schema.declare(types)


def test_every_key_that_a_filter_may_name_has_an_index() -> None:
    assert SCHEMA.indexes == {
        "bucket": "keyword",
        "content_type": "keyword",
        "height": "integer",
        "size": "integer",
        "width": "integer",
        "meta.brand": "keyword",
        "meta.stock": "integer",
        "meta.price": "float",
        "meta.since": "datetime",
    }
    assert set(SCHEMA.indexes.values()) <= {kind.value for kind in models.PayloadSchemaType}


def test_a_schema_is_independent_of_its_source_mapping() -> None:
    types = {"brand": "keyword"}
    declared = Schema.declare(types)
    types["other"] = "keyword"
    assert "other" not in declared.types


# Parsing metadata


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("acme", "acme"),
        ("", ""),
        ("=?UTF-8?B?R3LDvG4=?=", "Grün"),
        ("=?utf-8?q?Gr=C3=BCn?=", "Grün"),
        ("=?ISO-8859-1?Q?Gr=FCn?=", "Grün"),
        ("=?utf-8?b?R3LDvA==?= =?utf-8?b?bg==?=", "Grün"),
        ("=?UTF-8?B?8J+YgA==?=", "😀"),
        ("a =?UTF-8?B?R3LDvG4=?=", "a =?UTF-8?B?R3LDvG4=?="),
        ("=?", "=?"),
        ("=?=", "=?="),
        ("=?utf-8?x?abc?=", "=?utf-8?x?abc?="),
        ("=?no-such-charset?b?YWJj?=", "=?no-such-charset?b?YWJj?="),
        ("=?hex?b?YWJj?=", "=?hex?b?YWJj?="),
        ("=?ü?q?abc?=", "=?ü?q?abc?="),
        ("=?utf-8?b?A?=", "=?utf-8?b?A?="),
        ("=?utf-8?b?/w==?=", "=?utf-8?b?/w==?="),
    ],
)
def test_a_keyword_is_its_text_decoded_where_s3_encoded_it(text: str, value: str) -> None:
    assert SCHEMA.parse({"brand": text}) == ({"brand": value}, [])


@pytest.mark.parametrize("text", ["Grün", "😀" * 200, "=é=?", "a\tb ü", "日本語 " * 30])
def test_written_metadata_is_read_back_unchanged(text: str) -> None:
    written = header_text(text)
    assert written.isascii()
    assert written.isprintable()
    assert SCHEMA.parse({"brand": written}) == ({"brand": text}, [])


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("stock", "12", 12),
        ("stock", "-3", -3),
        ("stock", " 7 ", 7),
        ("stock", str(2**53 - 1), 2**53 - 1),
        ("price", "9.5", 9.5),
        ("price", "1e3", 1000.0),
        ("price", "-0", 0.0),
        ("since", "2026-05-01", "2026-05-01T00:00:00+00:00"),
        ("since", "2026-05-01T10:00:00Z", "2026-05-01T10:00:00+00:00"),
        ("since", "2026-05-01T10:00:00+02:00", "2026-05-01T08:00:00+00:00"),
        ("since", "2026-05-01T10:00:00+00:00:30", "2026-05-01T09:59:30+00:00"),
        ("since", "=?utf-8?q?2026-05-01?=", "2026-05-01T00:00:00+00:00"),
    ],
)
def test_a_text_gets_its_declared_type(key: str, text: str, value: Any) -> None:
    values, misfits = SCHEMA.parse({key: text})
    assert (values, misfits) == ({key: value}, [])
    assert type(values[key]) is type(value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("stock", "twelve"),
        ("stock", ""),
        ("stock", "1.5"),
        ("stock", "1e3"),
        ("stock", str(2**53)),
        ("stock", str(-(2**53))),
        ("stock", "9" * 5000),
        ("price", "cheap"),
        ("price", "nan"),
        ("price", "inf"),
        ("price", "1e999"),
        ("since", "yesterday"),
        ("since", "2026-02-30"),
        ("since", "0001-01-01T00:00:00+14:00"),
        ("since", "9999-12-31T23:59:59-12:00"),
        ("since", "\ud800"),
        ("brand", "\ud800"),
        ("brand", "=?unicode_escape?b?XHVkODAw?="),
        ("brand", "=?utf-7?q?+2AA-?="),
    ],
)
def test_a_text_that_does_not_fit_its_type_is_left_out_and_named(key: str, text: str) -> None:
    assert SCHEMA.parse({key: text, "other": "x"}) == ({}, [key])


def test_undeclared_keys_are_left_out_silently() -> None:
    assert SCHEMA.parse({"brand": "acme", "colour": "red"}) == ({"brand": "acme"}, [])
    assert Schema().parse({"brand": "acme"}) == ({}, [])


RFC2047 = st.builds(
    "=?{}?{}?{}?=".format,
    st.sampled_from(["utf-8", "utf-7", "utf-16", "latin-1", "idna", "raw_unicode_escape", "x", ""]),
    st.sampled_from("bqBQx"),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20),
)


@given(st.dictionaries(st.sampled_from(sorted(SCHEMA.types)), RFC2047 | st.text(max_size=30)))
def test_no_metadata_stops_the_indexing_of_its_image(texts: dict[str, str]) -> None:
    values, misfits = SCHEMA.parse(texts)
    assert sorted([*values, *misfits]) == sorted(texts)
    json.dumps(values, ensure_ascii=False, allow_nan=False).encode()


# Compiling filters


def test_keys_are_translated_to_payload_paths() -> None:
    compiled = SCHEMA.compile(
        {
            "must": [BRAND, {"key": "width", "range": {"gt": 100}}],
            "must_not": {"key": "stock", "match": {"any": [0, 1]}},
            "should": [{"must": [{"key": "since", "range": {"lt": "2026-05-01"}}]}],
        }
    )
    assert compiled == {
        "must": [
            {"key": "meta.brand", "match": {"value": "acme"}},
            {"key": "width", "range": {"gt": 100.0}},
        ],
        "must_not": [{"key": "meta.stock", "match": {"any": [0, 1]}}],
        "should": [{"must": [{"key": "meta.since", "range": {"lt": "2026-05-01T00:00:00+00:00"}}]}],
    }


@pytest.mark.parametrize(
    "condition",
    [
        {"key": "price", "match": {"value": 1.5}},
        {"key": "since", "match": {"value": "2026-05-01"}},
        {"key": "brand", "range": {"gt": 1}},
        {"key": "brand", "match": {"value": 1}},
        {"key": "brand", "match": {"value": None}},
        {"key": "brand", "match": {"value": "\ud800"}},
        {"key": "brand", "match": {"value": ["acme"]}},
        {"key": "brand", "match": {"any": "acme"}},
        {"key": "brand", "match": {"any": ["acme", 1]}},
        {"key": "brand", "match": {"text": "acme"}},
        {"key": "brand", "match": {}},
        {"key": "brand", "match": {"value": "a", "any": ["b"]}},
        {"key": "brand", "match": "acme"},
        {"key": "stock", "match": {"value": True}},
        {"key": "stock", "match": {"value": 1.0}},
        {"key": "stock", "match": {"value": 2**63}},
        {"key": "stock", "match": {"any": [-(2**63) - 1]}},
        {"key": "stock", "range": {"gt": "1"}},
        {"key": "stock", "range": {"gt": True}},
        {"key": "stock", "range": {"gt": None}},
        {"key": "stock", "range": {}},
        {"key": "stock", "range": {"from": 1}},
        {"key": "stock", "range": [1, 2]},
        {"key": "price", "range": {"gt": math.nan}},
        {"key": "price", "range": {"lt": math.inf}},
        {"key": "price", "range": {"lt": 10**400}},
        {"key": "since", "range": {"gt": 2026}},
        {"key": "since", "range": {"gt": "soon"}},
        {"key": "brand"},
        {"key": "brand", "match": {"value": "a"}, "range": {"gt": 1}},
        {"key": "brand", "match": {"value": "a"}, "boost": 2},
        {"key": "brand", "is_empty": True},
        {"has_id": ["a"]},
        {"is_null": {"key": "brand"}},
        {"nested": {"key": "brand", "filter": {}}},
        {},
        [],
        "brand",
        1,
        None,
    ],
)
def test_the_error_for_a_malformed_condition_names_its_path(condition: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^filter\.must\[1\]"):
        SCHEMA.compile({"must": [BRAND, condition]})


@pytest.mark.parametrize(
    "key", ["colour", "meta.brand", "state", "v_hi", "key", "", "Brand", "\ud800"]
)
def test_the_error_for_an_undeclared_key_lists_the_declared_ones(key: str) -> None:
    with pytest.raises(UnknownFilterKey) as caught:
        SCHEMA.compile({"should": {"key": key, "match": {"value": "x"}}})
    message = str(caught.value)
    assert message.startswith(f"filter.should[0]: {key!r} is not a declared key")
    assert "brand, bucket, content_type, height, price, since, size, stock, width" in message
    message.encode()


@pytest.mark.parametrize("key", [None, 1, 2**70, True, ["brand"], {"a": 1}])
def test_a_key_that_is_not_a_string_is_unknown(key: Any) -> None:
    with pytest.raises(UnknownFilterKey, match=r"filter\.must\[0\]"):
        SCHEMA.compile({"must": [{"key": key, "match": {"value": "x"}}]})


@pytest.mark.parametrize("filter", [None, {}, [], [BRAND], "brand", 1, BRAND, {"min_should": {}}])
def test_a_filter_is_an_object_of_clauses(filter: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^filter: "):
        SCHEMA.compile(filter)


def nested(levels: int) -> dict[str, Any]:
    return {"must": [BRAND if levels == 1 else nested(levels - 1)]}


def test_filters_nest_four_deep() -> None:
    SCHEMA.compile(nested(4))


@pytest.mark.parametrize("levels", [5, 900])
def test_filters_nest_no_deeper_than_that(levels: int) -> None:
    with pytest.raises(InvalidRequest, match="nested more than 4 deep"):
        SCHEMA.compile(nested(levels))


@pytest.mark.parametrize("start", ["[", '{"must": [', '{"must": {"should": [[', '{"must": {"a": '])
def test_deep_nesting_of_any_kind_is_refused(start: str) -> None:
    end = "".join({"[": "]", "{": "}"}.get(c, "") for c in reversed(start))
    levels = 150
    with pytest.raises(InvalidRequest):
        SCHEMA.compile(json.loads(start * levels + "0" + end * levels))


def test_a_filter_has_64_conditions_and_no_more() -> None:
    SCHEMA.compile({"must": [BRAND] * 32, "should": [BRAND] * 32})
    with pytest.raises(InvalidRequest, match="more than 64 conditions"):
        SCHEMA.compile({"must": [BRAND] * 32, "should": [BRAND] * 33})
    with pytest.raises(InvalidRequest, match="more than 64 conditions"):
        SCHEMA.compile({"must": [{"should": [BRAND] * 9}] * 8})


TEXT = st.text(st.characters(exclude_categories=[]), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**62, 2**65)
    | st.floats()
    | TEXT
    | st.datetimes().map(lambda value: value.isoformat())
)
KEYS = st.sampled_from([*SCHEMA.types, "width", "bucket"])
BOUNDS = st.dictionaries(st.sampled_from(["lt", "lte", "gt", "gte"]), SCALARS, max_size=4)
MATCHES = st.one_of(
    st.fixed_dictionaries({"value": SCALARS}),
    st.fixed_dictionaries({"any": st.lists(TEXT | SCALARS, max_size=3)}),
    st.fixed_dictionaries({"except": st.lists(st.integers(), max_size=3)}),
)
CONDITIONS = st.one_of(
    st.fixed_dictionaries({"key": KEYS, "match": MATCHES}),
    st.fixed_dictionaries({"key": KEYS, "range": BOUNDS}),
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)
)
CLAUSES = st.sampled_from(["must", "should", "must_not"])
FILTERS = st.recursive(
    CONDITIONS,
    lambda inner: st.dictionaries(CLAUSES, inner | st.lists(inner, max_size=3), max_size=3),
    max_leaves=8,
)
BROKEN_FILTERS = st.recursive(
    JSON | CONDITIONS,
    lambda inner: st.dictionaries(CLAUSES | TEXT, inner | st.lists(inner, max_size=3), max_size=3),
    max_leaves=8,
)


@given(JSON | BROKEN_FILTERS | FILTERS)
@settings(max_examples=400, deadline=None)
@example({"must": [{"key": "stock", "match": {"value": 10**4000}}]})
@example({"must": [{"key": "stock", "range": {"gt": 10**4000}}]})
@example({"\ud800": 1})
@example({"must": [{"key": "brand", "match": {"\ud800": 1}}]})
@example({"must": [{"key": "stock", "match": {"any": [[]]}}]})
@example({"must": [{"key": "since", "range": {"gt": "0001-01-01T00:00:00+14:00"}}]})
@example({"must": [{"key": "since", "range": {"gt": "2026-01-01T00:00:00+00:00:30"}}]})
def test_any_json_value_is_compiled_or_refused(value: Any) -> None:
    try:
        compiled = SCHEMA.compile(value)
    except (InvalidRequest, UnknownFilterKey) as refused:
        str(refused).encode()
        return
    assert json.loads(json.dumps(compiled, allow_nan=False)) == compiled
    json.dumps(compiled, ensure_ascii=False).encode()
    models.Filter.model_validate(compiled, extra="forbid")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VectorIndex]:
    index = open_index(tmp_path_factory.mktemp("index"), SCHEMA)
    index.prepare("model", 4)
    yield index
    index.close()


@given(FILTERS)
@settings(max_examples=200, deadline=None)
def test_every_compiled_filter_is_accepted_by_qdrants_engine(
    engine: VectorIndex, value: Any
) -> None:
    with suppress(InvalidRequest, UnknownFilterKey):
        lookup = NearestQuery([np.ones(4, np.float32) / 2], 5, filter=SCHEMA.compile(value))
        assert engine.nearest([lookup]) == [[]]


@given(FILTERS)
@settings(max_examples=200, deadline=None)
def test_compiling_does_not_change_its_argument(value: Any) -> None:
    before = repr(value)
    with suppress(InvalidRequest, UnknownFilterKey):
        SCHEMA.compile(value)
    assert repr(value) == before


@pytest.mark.parametrize(
    "filter",
    [
        {"must": []},
        {"must": [BRAND], "should": [BRAND], "must_not": [BRAND]},
        {"must": {"key": "stock", "match": {"value": 2**63 - 1}}},
        {"must": {"key": "stock", "match": {"except": [-(2**63)]}}},
        {"must": {"key": "brand", "match": {"any": []}}},
        {"must": {"key": "price", "range": {"lt": 1, "lte": 2.5, "gt": -1, "gte": 0}}},
        {"must": {"key": "since", "range": {"gte": "2026-05-01T10:00:00.123456+02:00"}}},
        {"must": {"key": "content_type", "match": {"value": "image/png"}}},
        nested(4),
    ],
)
def test_a_compiled_filter_validates_against_qdrants_models(filter: Any) -> None:
    parsed = models.Filter.model_validate(SCHEMA.compile(filter), extra="forbid")
    said = parsed.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert said.keys() == filter.keys()
