"""What every VectorIndex must do, run against each of them.

The REST adapter talks to the small test server, and to a real one where TEST_QDRANT_URL is set.
"""

from __future__ import annotations

import importlib
import pkgutil
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from likeness import adapters
from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_index import QdrantIndex
from likeness.errors import ConfigurationError, IndexMissing
from likeness.filters import Schema
from likeness.ports import VectorIndex
from likeness.records import (
    DuplicateMatch,
    ImageInfo,
    NearestQuery,
    ObjectRef,
    ObjectState,
    Point,
    Regrouping,
    Relation,
    State,
    Vector,
    Version,
)
from tests import indexes
from tests.indexes import IndexAddress

MODEL, DIM = "0123456789abcdef", 8
SCHEMA = Schema.declare(
    {"brand": "keyword", "price": "float", "stock": "integer", "since": "datetime"}
)


STORES = {"embedded": EmbeddedIndex, "rest": QdrantIndex, "server": QdrantIndex}


@pytest.fixture(params=STORES)
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorIndex]:
    if request.param == "server":
        if not indexes.SERVER_URL:
            pytest.skip("no real Qdrant: TEST_QDRANT_URL is not set")
        address = indexes.on_server()
    elif request.param == "rest":
        address = indexes.on_double(request.getfixturevalue("double"))
    else:
        address = IndexAddress(tmp_path.as_uri())
    with closing(address.open(SCHEMA)) as opened:
        yield opened


def test_every_vector_store_is_tested_here() -> None:
    """A store is a class of the adapters that has all methods of VectorIndex."""
    methods = {name for name in dir(VectorIndex) if not name.startswith("_")}
    modules = [
        importlib.import_module(f"{adapters.__name__}.{module.name}")
        for module in pkgutil.iter_modules(adapters.__path__)
    ]
    stores = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
        if methods <= set(dir(value))
    }
    assert stores == set(STORES.values())


@pytest.fixture
def prepared(index: VectorIndex) -> VectorIndex:
    index.prepare(MODEL, DIM)
    return index


def unit(*values: float) -> Vector:
    vector = np.zeros(DIM, np.float32)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


def point(key: str, version: Version, vector: Vector | None = None, **meta: object) -> Point:
    state = State.GONE if vector is None else State.LIVE
    found = ObjectState("e1", "v1", 7, "image/png", 12.5) if vector is not None else None
    image = ImageInfo("PNG", 4, 3, "ab") if vector is not None else None
    ref = ObjectRef("photos", key)
    return Point(ref, state, version, MODEL, 99.5, found, image, meta=meta, vector=vector)


def put(index: VectorIndex, key: str, vector: Vector, sequencer: int = 1, **meta: object) -> Point:
    written = point(key, Version(sequencer), vector, **meta)
    index.write(MODEL, [written])
    return written


def keys(index: VectorIndex, vector: Vector, **options: object) -> list[str]:
    [found] = index.nearest([NearestQuery([vector], 10, **options)])  # type: ignore[arg-type]
    return [c.point.ref.key for c in found]


def stored(index: VectorIndex, key: str) -> Point:
    point_id = ObjectRef("photos", key).point_id
    return index.retrieve_payloads(MODEL, [point_id]).points[point_id]


def test_prepare_can_be_repeated(prepared: VectorIndex) -> None:
    put(prepared, "a", unit(1))
    prepared.prepare(MODEL, DIM)
    info = prepared.info()
    assert (info.model, info.dim, info.points) == (MODEL, DIM, 1)


def test_prepare_refuses_a_collection_of_another_dimension(prepared: VectorIndex) -> None:
    with pytest.raises(ConfigurationError, match="dimensions"):
        prepared.prepare(MODEL, DIM + 1)


def test_a_second_model_leaves_the_alias_where_it_is(prepared: VectorIndex) -> None:
    prepared.prepare("f" * 16, 4)
    assert prepared.info().model == MODEL


OTHER = "f" * 16


@pytest.fixture
def both(prepared: VectorIndex) -> VectorIndex:
    """Two models' collections; the alias points at the first one's."""
    prepared.prepare(OTHER, DIM)
    for key, model in {"old": MODEL, "new": OTHER}.items():
        written = msgspec.structs.replace(point(key, Version(1), unit(1)), model=model)
        prepared.write(model, [written])
    return prepared


def test_the_alias_moves_to_another_model_and_back(both: VectorIndex) -> None:
    assert sorted(both.models()) == sorted([MODEL, OTHER])
    for model, key in ((OTHER, "new"), (OTHER, "new"), (MODEL, "old")):
        both.switch(model)
        assert (both.info().model, keys(both, unit(1))) == (model, [key])
    with pytest.raises(IndexMissing):
        both.switch("e" * 16)
    assert both.info().model == MODEL


def test_a_reader_of_one_model_sees_its_collection_wherever_the_alias_points(
    both: VectorIndex,
) -> None:
    new = both.for_model(OTHER)
    assert (new.info().model, keys(new, unit(1))) == (OTHER, ["new"])
    both.switch(OTHER)
    old = both.for_model(MODEL)
    assert (old.info().model, old.info().points, keys(old, unit(1))) == (MODEL, 1, ["old"])
    assert [p.ref.key for p in old.scroll(5).points] == ["old"]
    wanted = [ObjectRef("photos", key).point_id for key in ("old", "new")]
    assert [p.ref.key for p in old.retrieve_with_vectors(wanted).values()] == ["old"]
    assert keys(new, unit(1)) == ["new"]


def test_the_searched_collection_cannot_be_dropped(both: VectorIndex) -> None:
    with pytest.raises(ConfigurationError, match="is searched"):
        both.drop(MODEL)
    old = both.for_model(MODEL)
    both.switch(OTHER)
    both.drop(MODEL)
    both.drop(MODEL)
    assert both.models() == [OTHER]
    assert keys(both, unit(1)) == ["new"]
    for use in (
        old.info,
        lambda: old.nearest([NearestQuery([unit(1)], 1)]),
        lambda: old.retrieve_with_vectors([str(uuid.uuid4())]),
    ):
        with pytest.raises(IndexMissing):
            use()
    with pytest.raises(IndexMissing):
        both.prepare(MODEL, DIM, create=False)
    both.prepare(MODEL, DIM)  # again, with nothing left of the old one
    assert (old.info().points, both.info().model) == (0, OTHER)


def test_clear_deletes_the_alias_with_all_its_collections(both: VectorIndex) -> None:
    both.put_note("seen", "a", {"n": 1})
    assert [name.rpartition("-")[2] for name in both.clear()] == [MODEL, OTHER, "notes"]
    assert (both.models(), both.list_notes("seen", 9)) == ([], ([], None))
    with pytest.raises(IndexMissing):
        both.info()
    assert both.clear() == []
    both.prepare(OTHER, DIM)
    assert (both.info().model, both.info().points) == (OTHER, 0)


def test_prepare_without_create_creates_no_collection(index: VectorIndex) -> None:
    with pytest.raises(IndexMissing):
        index.prepare(MODEL, DIM, create=False)
    assert index.models() == []
    index.prepare(MODEL, DIM)
    index.prepare(MODEL, DIM, create=False)
    assert index.info().model == MODEL


def test_reading_without_a_collection_raises_index_missing(index: VectorIndex) -> None:
    with pytest.raises(IndexMissing):
        index.info()
    with pytest.raises(IndexMissing):
        index.nearest([NearestQuery([unit(1)], 5)])
    with pytest.raises(IndexMissing):
        index.retrieve_with_vectors([str(uuid.uuid4())])
    with pytest.raises(IndexMissing):
        index.facet(SCHEMA.countable["brand"], 5)


def test_a_point_is_read_back_unchanged(prepared: VectorIndex) -> None:
    written = put(prepared, "a ü+%.jpg", unit(3, 4), sequencer=0x55AED6DCD90281E5AB, brand="acme")
    read = prepared.retrieve_with_vectors([written.id])[written.id]
    assert read.vector is not None
    np.testing.assert_allclose(read.vector, unit(3, 4), atol=1e-6)
    assert read.version == Version(0x55AED6DCD90281E5AB)
    bare = stored(prepared, "a ü+%.jpg")
    assert bare.vector is None
    assert (bare.ref, bare.state, bare.object, bare.image, bare.meta, bare.indexed_at_s) == (
        written.ref,
        State.LIVE,
        written.object,
        written.image,
        {"brand": "acme"},
        99.5,
    )


def test_unknown_ids_are_omitted(prepared: VectorIndex) -> None:
    assert prepared.retrieve_payloads(MODEL, [str(uuid.uuid4())]).points == {}
    assert prepared.retrieve_with_vectors([str(uuid.uuid4())]) == {}


def test_neighbours_are_sorted_by_their_cosine(prepared: VectorIndex) -> None:
    for key, vector in {"far": unit(0, 1), "near": unit(1, 0.2), "same": unit(1)}.items():
        put(prepared, key, vector)
    [found] = prepared.nearest([NearestQuery([unit(1)], 2)])
    assert [c.point.ref.key for c in found] == ["same", "near"]
    assert found[0].score == pytest.approx(1, abs=1e-5)
    assert found[1].score == pytest.approx(float(unit(1) @ unit(1, 0.2)), abs=1e-5)


def test_offset_and_threshold_shorten_the_list(prepared: VectorIndex) -> None:
    for i in range(5):
        put(prepared, f"k{i}", unit(1, i))
    assert keys(prepared, unit(1), offset=2) == ["k2", "k3", "k4"]
    assert keys(prepared, unit(1), score_threshold=0.7) == ["k0", "k1"]


def test_a_tombstone_is_never_found_but_can_be_read(prepared: VectorIndex) -> None:
    put(prepared, "a", unit(1))
    gone = point("a", Version(2))
    prepared.write(MODEL, [gone])
    assert keys(prepared, unit(1)) == []
    assert stored(prepared, "a").state is State.GONE
    assert stored(prepared, "a").object is None


def test_an_older_write_changes_nothing(prepared: VectorIndex) -> None:
    # the halves matter: these differ only above and only below bit 52
    for newer, older in (
        (2 << 60, 1 << 60),
        ((1 << 60) + 2, (1 << 60) + 1),
        (3 << 60, (2 << 60) + 5),
    ):
        key = f"{newer}"
        put(prepared, key, unit(1), newer)
        put(prepared, key, unit(0, 1), older)
        assert stored(prepared, key).version == Version(newer)
        put(prepared, key, unit(0, 1), newer)
        assert keys(prepared, unit(1), score_threshold=0.9).count(key) == 1


def test_of_two_revisions_of_one_version_the_first_is_stored(prepared: VectorIndex) -> None:
    put(prepared, "a", unit(1), 7)
    first, second = point("a", Version(7, 1)), point("a", Version(7, 1), unit(0, 1))
    prepared.write(MODEL, [first])
    prepared.write(MODEL, [second])
    assert stored(prepared, "a").version == Version(7, 1)
    assert stored(prepared, "a").state is State.GONE


def test_each_write_of_a_batch_has_its_own_condition(prepared: VectorIndex) -> None:
    put(prepared, "a", unit(1), 5)
    put(prepared, "b", unit(1), 5)
    late, newer, new = (
        point("a", Version(4)),
        point("b", Version(6)),
        point("c", Version(0, 1), unit(0, 0, 1)),
    )
    prepared.write(MODEL, [late, newer, new])
    assert [stored(prepared, key).state for key in "abc"] == [State.LIVE, State.GONE, State.LIVE]


def put_uncompared(index: VectorIndex, key: str, sequencer: int = 1) -> Point:
    written = msgspec.structs.replace(point(key, Version(sequencer), unit(1)), compared=False)
    index.write(MODEL, [written])
    return written


def with_matches(written: Point, *others: Point) -> Point:
    found = tuple(DuplicateMatch(other.id, other.ref.key, "copy", 0.9) for other in others)
    return msgspec.structs.replace(written, partners=found, variants=found[:1])


def test_annotations_are_stored_once_and_only_on_the_version_that_was_compared(
    prepared: VectorIndex,
) -> None:
    plain, matched, replaced = (put_uncompared(prepared, key) for key in "abc")
    put_uncompared(prepared, "c", sequencer=2)
    assert not stored(prepared, "a").compared
    annotated = [with_matches(each, plain) for each in (matched, replaced)]
    prepared.annotate(MODEL, [plain, *annotated])
    assert [stored(prepared, key).compared for key in "abc"] == [True, True, False]
    assert [len(stored(prepared, key).partners) for key in "abc"] == [0, 1, 0]
    assert stored(prepared, "b") == msgspec.structs.replace(
        annotated[0], vector=None, compared=True
    )
    prepared.annotate(MODEL, [with_matches(plain, matched)])  # a second function, later
    prepared.annotate(MODEL, [])
    assert stored(prepared, "a").partners == ()
    assert sorted(keys(prepared, unit(1))) == ["a", "b", "c"]


def regroup(
    index: VectorIndex, group: str, original: Point, merged: list[str], *joining: Point
) -> None:
    for relation in Relation:
        index.regroup(MODEL, [Regrouping(relation, group, original, merged, joining)])


def memberships(index: VectorIndex, *keys: str) -> list[tuple[str | None, str | None]]:
    points = [stored(index, key) for key in keys]
    for each in points:
        assert each.membership(Relation.VARIANT) == each.membership(Relation.DUPLICATE)
    return [each.membership(Relation.DUPLICATE) for each in points]


def test_groups_are_joined_and_merged_and_the_original_changes(prepared: VectorIndex) -> None:
    a, b, c, d = (put(prepared, key, unit(1)) for key in "abcd")
    regroup(prepared, "of c", c, [], c, d)
    assert memberships(prepared, "c", "d") == [("of c", None), ("of c", c.id)]
    regroup(prepared, "of b", b, ["of c"], b)
    assert memberships(prepared, *"bcd") == [("of b", None), ("of b", b.id), ("of b", b.id)]
    regroup(prepared, "of a", a, ["of b", "of nobody"], a)
    assert memberships(prepared, *"abcd") == [("of a", None), *[("of a", a.id)] * 3]
    # the first is deleted, and the next one takes its place
    regroup(prepared, "of b", b, ["of a"])
    assert memberships(prepared, *"bcd") == [("of b", None), ("of b", b.id), ("of b", b.id)]
    in_group = {"must": [{"key": "group", "match": {"value": "of b"}}]}
    assert [p.ref.key for p in prepared.scroll(9, filter=in_group).points if p.original]


def test_an_image_that_was_written_or_grouped_meanwhile_is_not_regrouped(
    prepared: VectorIndex,
) -> None:
    a, b, c = (put(prepared, key, unit(1)) for key in "abc")
    put(prepared, "b", unit(1), sequencer=2)
    regroup(prepared, "another", c, [], c)
    regroup(prepared, "of a", a, [], a, b, c)
    assert memberships(prepared, *"abc") == [("of a", None), (None, None), ("another", None)]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"key": "brand", "match": {"value": "acme"}}, {"a", "c"}),
        ({"key": "brand", "match": {"any": ["acme", "zeta"]}}, {"a", "b", "c"}),
        ({"key": "brand", "match": {"except": ["acme"]}}, {"b"}),
        ({"key": "stock", "match": {"value": 3}}, {"b"}),
        ({"key": "price", "range": {"gte": 10, "lt": 30}}, {"a", "b"}),
        ({"key": "since", "range": {"gt": "2026-01-01T00:00:00Z"}}, {"c"}),
        ({"key": "width", "range": {"gt": 100}}, set()),
        ({"key": "content_type", "match": {"value": "image/png"}}, {"a", "b", "c"}),
        ({"must_not": {"key": "brand", "match": {"value": "acme"}}}, {"b"}),
        (
            {
                "should": [
                    {"key": "stock", "match": {"value": 3}},
                    {"key": "price", "range": {"gt": 25}},
                ]
            },
            {"b", "c"},
        ),
    ],
)
def test_filters_mean_the_same_everywhere(
    prepared: VectorIndex, condition: dict[str, object], expected: set[str]
) -> None:
    rows = {
        "a": {"brand": "acme", "price": 10.0, "stock": 1, "since": "2025-05-01T00:00:00+00:00"},
        "b": {"brand": "zeta", "price": 20.0, "stock": 3, "since": "2025-06-01T00:00:00+00:00"},
        "c": {"brand": "acme", "price": 30.0, "stock": 5, "since": "2026-06-01T00:00:00+00:00"},
    }
    for key, meta in rows.items():
        put(prepared, key, unit(1), **meta)
    assert set(keys(prepared, unit(1), filter=SCHEMA.compile({"must": [condition]}))) == expected


def test_has_id_excludes_a_point(prepared: VectorIndex) -> None:
    a, _ = put(prepared, "a", unit(1)), put(prepared, "b", unit(1, 1))
    assert keys(prepared, unit(1), filter={"must_not": [{"has_id": [a.id]}]}) == ["b"]


def test_scroll_visits_every_point_once(prepared: VectorIndex) -> None:
    for i in range(7):
        put(prepared, f"k{i}", unit(1, i))
    seen: list[str] = []
    cursor = None
    while True:
        page = prepared.scroll(3, cursor)
        seen += [p.ref.key for p in page.points]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert sorted(seen) == [f"k{i}" for i in range(7)]


def test_scroll_is_in_id_order_and_may_begin_at_any_id(prepared: VectorIndex) -> None:
    ids = sorted(put(prepared, f"k{i}", unit(1, i)).id for i in range(40))
    assert [p.id for p in prepared.scroll(50).points] == ids
    assert [p.id for p in prepared.scroll(50, ids[7]).points] == ids[7:]
    assert prepared.scroll(9, ids[7]).next_cursor == ids[16]


def test_only_old_tombstones_are_deleted(prepared: VectorIndex) -> None:
    live = put(prepared, "live", unit(1))
    tombstones = [
        msgspec.structs.replace(point(key, Version(2)), indexed_at_s=at_s)
        for key, at_s in {"old": 99.0, "young": 100.0, "not named": 1.0}.items()
    ]
    prepared.write(MODEL, list(tombstones))
    named = [live.id, *(gone.id for gone in tombstones[:2]), str(uuid.uuid4())]
    prepared.delete_tombstones(MODEL, named, 100.0)
    prepared.delete_tombstones(MODEL, named, 100.0)
    assert {p.ref.key for p in prepared.scroll(9).points} == {"live", "young", "not named"}


def test_a_tombstone_that_became_live_before_the_deletion_stays(prepared: VectorIndex) -> None:
    gone = msgspec.structs.replace(point("a", Version(1)), indexed_at_s=1.0)
    prepared.write(MODEL, [gone])
    alive = msgspec.structs.replace(point("a", Version(2), unit(1)), indexed_at_s=2.0)
    prepared.write(MODEL, [alive])
    prepared.delete_tombstones(MODEL, [gone.id], 100.0)
    assert stored(prepared, "a").state is State.LIVE


def test_scroll_filters_by_state(prepared: VectorIndex) -> None:
    put(prepared, "a", unit(1))
    gone = point("b", Version(2))
    prepared.write(MODEL, [gone])
    page = prepared.scroll(5, filter={"must": [{"key": "state", "match": {"value": "gone"}}]})
    assert [p.ref.key for p in page.points] == ["b"]


def test_facets_list_the_most_frequent_values_first(prepared: VectorIndex) -> None:
    for key, stock in {"a": 3, "b": 3, "c": 5, "d": 7}.items():
        brand = {"brand": "acme" if key in "bcd" else "Größe %"} if key != "d" else {}
        put(prepared, key, unit(1), stock=stock, **brand)

    def counted(key: str, limit: int, filter: object = None) -> list[tuple[object, int]]:
        compiled = SCHEMA.compile({"must": filter}) if filter else None
        found = prepared.facet(SCHEMA.countable[key], limit, compiled)
        return [(each.value, each.count) for each in found]

    assert counted("brand", 5) == [("acme", 2), ("Größe %", 1)]
    assert counted("stock", 2) == [(3, 2), (5, 1)]
    assert counted("stock", 5, {"key": "brand", "match": {"value": "acme"}}) == [(3, 1), (5, 1)]
    assert counted("stock", 5, {"key": "brand", "match": {"value": "none"}}) == []


PACKED, COLOURS = bytes(range(256)) * 8, bytes(432)


def rich(key: str, vector: Vector, patches: Vector | None = None) -> Point:
    return msgspec.structs.replace(
        point(key, Version(1), vector),
        local=PACKED,
        colours=COLOURS,
        patches=patches,
        partners=(DuplicateMatch(str(uuid.uuid4()), "b.jpg", "copy", 0.75),),
        original=str(uuid.uuid4()),
        group="1" * 36,
        tenant="acme",
    )


def test_descriptors_are_returned_only_where_requested(prepared: VectorIndex) -> None:
    written = rich("a", unit(1))
    prepared.write(MODEL, [written])
    bare, full = prepared.nearest(
        [NearestQuery([unit(1)], 1), NearestQuery([unit(1)], 1, full=True)]
    )
    read = [
        bare[0].point,
        stored(prepared, "a"),
        prepared.scroll(1).points[0],
        full[0].point,
        prepared.retrieve_with_vectors([written.id])[written.id],
    ]
    assert [(p.local, p.colours, p.vector is None) for p in read] == [
        *[(None, None, True)] * 3,
        *[(PACKED, COLOURS, False)] * 2,
    ]
    assert {p.partners for p in read} == {written.partners}
    assert {(p.original, p.group) for p in read} == {(written.original, written.group)}


def test_several_queries_are_answered_in_order(prepared: VectorIndex) -> None:
    for key, vector in {"x": unit(1), "y": unit(0, 1)}.items():
        put(prepared, key, vector)
    found = prepared.nearest(
        [NearestQuery([unit(0, 1)], 1), NearestQuery([unit(1)], 2), NearestQuery([unit(1)], 1)]
    )
    assert [[c.point.ref.key for c in answer] for answer in found] == [["y"], ["x", "y"], ["x"]]


def test_patches_reorder_the_nearest(index: VectorIndex) -> None:
    index.prepare(MODEL, DIM, patches=2)
    assert index.info().patches == 2
    across, up = np.array([[1, 0], [1, 0]], np.float32), np.array([[0, 1], [1, 0]], np.float32)
    points = [rich("near", unit(1), across), rich("far", unit(1, 1), up), rich("out", -unit(1), up)]
    index.write(MODEL, list(points))
    [found] = index.nearest([NearestQuery([unit(1)], 3, patches=[up], pool=2)])
    assert [c.point.ref.key for c in found] == ["far", "near"]
    assert [c.score for c in found] == pytest.approx([2.0, 1.0], abs=1e-3)


def test_patches_are_read_where_they_are_asked_for(index: VectorIndex) -> None:
    index.prepare(MODEL, DIM, patches=2)
    up = np.array([[0, 1], [1, 0]], np.float32)
    written = rich("a", unit(1), up)
    index.write(MODEL, [written])
    for wanted in (True, False):
        read = index.retrieve_with_vectors([written.id], patches=wanted)[written.id].patches
        assert (read is not None) is wanted
        if read is not None:
            np.testing.assert_allclose(read, up, atol=1e-3)


def test_a_collection_without_patches_cannot_be_prepared_with_them(prepared: VectorIndex) -> None:
    with pytest.raises(ConfigurationError, match="LIKENESS_KEEP_PATCHES"):
        prepared.prepare(MODEL, DIM, patches=2)


def test_notes_are_stored_replaced_listed_and_deleted(prepared: VectorIndex) -> None:
    assert prepared.list_notes("seen", 5) == ([], None)
    prepared.delete_note("seen", "a")
    for name in "abc":
        prepared.put_note("seen", name, {"name": name})
    prepared.put_note("other", "a", {"name": "another kind"})
    prepared.put_note("seen", "b", {"name": "b", "again": True})
    prepared.delete_note("seen", "c")
    first, cursor = prepared.list_notes("seen", 1)
    rest, last = prepared.list_notes("seen", 5, cursor)
    found = sorted([*first, *rest], key=lambda note: str(note["name"]))
    assert (found, last) == ([{"name": "a"}, {"name": "b", "again": True}], None)
    assert prepared.info().points == 0
