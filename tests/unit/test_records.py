"""Values that must stay as they are: ids that name stored points, versions that order writes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.records import ObjectRef, Point, State, Version

SEQUENCERS = st.integers(0, 2**100)


@given(SEQUENCERS, st.integers(0, 2**53))
def test_a_version_survives_being_split_into_halves(sequencer: int, rev: int) -> None:
    version = Version(sequencer, rev)
    assert Version.from_halves(version.hi, version.lo, version.rev) == version


@given(SEQUENCERS)
def test_both_halves_are_exact_as_the_doubles_that_qdrant_compares(sequencer: int) -> None:
    version = Version(sequencer)
    for half in (version.hi, version.lo):
        assert 0 <= half < 2**53
        assert struct.unpack("d", struct.pack("d", half)) == (half,)


@given(st.tuples(SEQUENCERS, st.integers(0, 9)), st.tuples(SEQUENCERS, st.integers(0, 9)))
def test_versions_order_by_sequencer_then_revision_and_so_do_their_halves(
    left: tuple[int, int], right: tuple[int, int]
) -> None:
    a, b = Version(*left), Version(*right)
    assert (a < b) == (left < right)
    assert (a < b) == ((a.hi, a.lo, a.rev) < (b.hi, b.lo, b.rev))


@pytest.mark.parametrize("sequencer", [0, 1, 2**52 - 1, 2**52, 2**53 + 1, 2**64 - 1, 2**72 - 1])
def test_a_neighbouring_sequencer_gives_other_halves(sequencer: int) -> None:
    first, second = Version(sequencer), Version(sequencer + 1)
    assert (first.hi, first.lo) < (second.hi, second.lo)


def test_a_new_version_is_the_oldest() -> None:
    assert Version() == Version(0, 0)
    assert Version() < Version(0, 1) < Version(1, 0)


@pytest.mark.parametrize(
    ("bucket", "key", "expected"),
    [
        ("photos", "a.jpg", "e6a57c8a-e3bf-5b77-85ea-c24a931dfb80"),
        ("photos", "shoes/Grün 😀+%2B.jpg", "a92cfe0c-509d-58cc-9961-9a00f94adb82"),
        ("photos", "", "5567c16c-215c-5966-9205-1fd4fa1d5ab4"),
    ],
)
def test_a_point_id_is_the_same_for_ever(bucket: str, key: str, expected: str) -> None:
    # stored indexes depend on these very values
    assert ObjectRef(bucket, key).point_id == expected


def test_buckets_and_keys_with_the_same_concatenation_have_different_points() -> None:
    pairs = [("ab", "c"), ("a", "bc"), ("abc", ""), ("a", "b/c"), ("a/b", "c"), ("a", "B/c")]
    assert len({ObjectRef(bucket, key).point_id for bucket, key in pairs}) == len(pairs)


def test_equal_text_in_another_unicode_form_is_another_key() -> None:
    composed, decomposed = ObjectRef("b", "\u00fc"), ObjectRef("b", "u\u0308")
    assert composed.point_id != decomposed.point_id


def test_a_point_has_the_id_of_its_object() -> None:
    ref = ObjectRef("photos", "a.jpg")
    assert Point(ref, State.GONE, Version(), "m", 0.0).id == ref.point_id


def test_records_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        ObjectRef("a", "b").key = "c"  # type: ignore[misc]
