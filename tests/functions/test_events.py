"""Every kind of event, from the files that `sam local invoke` uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import hypothesis.strategies as st
import pytest
from hypothesis import given

from functions.index.events import is_queue_event, parse_event, parse_message
from likeness.adapters.sqs import hint_message
from likeness.errors import InvalidRequest
from likeness.records import Hint, ObjectRef

EVENTS = Path(__file__).parents[2] / "events"
HUGE_SEQUENCER = json.dumps(
    {"detail": {"bucket": {"name": "b"}, "object": {"key": "k", "sequencer": "F" * 40}}}
)
CAFE = ObjectRef("photos", "holiday/café + sun 100% 😀.jpg")


def event(name: str) -> Any:
    return json.loads((EVENTS / f"{name}.json").read_text())


def bodies(name: str) -> list[Hint]:
    records = event(name)["Records"]
    return [hint for record in records for hint in parse_message(record["body"])]


@pytest.mark.parametrize("name", ["sqs_s3", "sqs_sns_s3", "sqs_s3_test", "sqs_hint"])
def test_a_queue_event_is_recognised(name: str) -> None:
    assert is_queue_event(event(name))


@pytest.mark.parametrize("name", ["s3_put", "s3_test", "eventbridge", "hint"])
def test_a_direct_event_is_no_queue_event(name: str) -> None:
    assert not is_queue_event(event(name))


def test_a_key_in_an_s3_notification_is_decoded_once() -> None:
    [hint] = parse_event(event("s3_put"))
    assert hint.ref == CAFE
    assert hint.sequencer == 0x0055AED6DCD90281E5
    assert hint.event_time_s == pytest.approx(1795341600)


def test_a_key_in_an_eventbridge_event_is_not_decoded() -> None:
    [hint] = parse_event(event("eventbridge"))
    assert hint.ref == ObjectRef("photos", "a+b 100%25.jpg")
    assert hint.sequencer == 0x617F08299329D189


def test_a_removal_becomes_a_hint() -> None:
    [hint] = parse_event(event("s3_delete"))
    assert hint.ref == ObjectRef("photos", "holiday/old.jpg")


def test_one_message_may_hold_several_records() -> None:
    assert [hint.ref.key for hint in bodies("sqs_s3")] == [CAFE.key, "a.jpg", "b.jpg"]


def test_an_sns_envelope_is_unwrapped() -> None:
    assert [hint.ref for hint in bodies("sqs_sns_s3")] == [CAFE]


def test_an_eventbridge_event_may_come_through_the_queue() -> None:
    assert [hint.ref.key for hint in bodies("sqs_eventbridge")] == ["a+b 100%25.jpg"]


def test_the_s3_test_event_gives_no_hint() -> None:
    assert parse_event(event("s3_test")) == []
    assert bodies("sqs_s3_test") == []


def test_our_own_hint_has_no_sequencer() -> None:
    assert bodies("sqs_hint") == [Hint(ObjectRef("photos", "a+b %2B 😀.jpg"))]


@given(st.text(min_size=1, max_size=200).filter(lambda key: key.isprintable()))
def test_any_key_survives_encoding_and_decoding(key: str) -> None:
    ref = ObjectRef("photos", key)
    assert parse_message(hint_message(ref)) == [Hint(ref)]
    record = event("s3_put")
    record["Records"][0]["s3"]["object"]["key"] = quote_plus(key)
    assert parse_event(record)[0].ref == ref


@pytest.mark.parametrize(
    "body",
    [
        "",
        "not JSON",
        "[]",
        "null",
        "7",
        "{}",
        '{"Records": 7}',
        '{"Records": [{}]}',
        '{"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": ""}}}]}',
        '{"Records": [{"s3": {"bucket": {"name": "b"}, "object": {"key": "%ff"}}}]}',
        '{"Records": [{"s3": {"bucket": {"name": 7}, "object": {"key": "k"}}}]}',
        '{"detail": {"object": {"key": "k"}}}',
        '{"detail": {"bucket": {"name": "b"}, "object": {"key": "k", "sequencer": "xyz"}}}',
        '{"Type": "Notification", "Message": "no"}',
        '{"Type": "Notification"}',
        "[" * 100_000,
        '{"detail": {"bucket": {"name": "b"}, "object": {"key": "k", "sequencer": "-1F"}}}',
        HUGE_SEQUENCER,
        '{"detail": {"bucket": {"name": "b"}, "object": {"key": "\\ud800"}}}',
    ],
)
def test_any_other_message_is_refused(body: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_message(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Records", "s3", "detail", "bucket", "object", "key", "name", "Type"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_every_json_message_is_parsed_or_refused(message: Any) -> None:
    try:
        hints = parse_message(json.dumps(message))
    except InvalidRequest:
        return
    assert all(hint.ref.point_id for hint in hints)
