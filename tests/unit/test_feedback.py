"""Feedback with the real engine: which events are stored, and what evaluation makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from console.evaluation.judgements import Judgements, by_query
from likeness.errors import IndexUnavailable
from likeness.feedback import FeedbackEvent, FeedbackStore
from likeness.ports import VectorIndex
from tests import indexes

CLICK = FeedbackEvent("request-1", "image-1", "click", 12.5, "token")

Opener = Callable[[], VectorIndex]


@pytest.fixture
def open_index(tmp_path: Path) -> Iterator[Opener]:
    """Opens the same index again at each call."""
    opened: list[VectorIndex] = []

    def reopen() -> VectorIndex:
        for index in opened:
            index.close()
        opened.append(indexes.open_index(tmp_path / "index"))
        return opened[-1]

    yield reopen
    opened[-1].close()


@pytest.fixture
def feedback(open_index: Opener) -> FeedbackStore:
    return FeedbackStore(open_index())


def stored(feedback: FeedbackStore) -> set[FeedbackEvent]:
    listed = list(feedback.all())
    assert len(listed) == len(set(listed))
    return set(listed)


def test_without_feedback_nothing_is_listed(feedback: FeedbackStore) -> None:
    assert stored(feedback) == set()


def test_feedback_survives_a_restart(open_index: Opener) -> None:
    judged = FeedbackEvent("request-1", "image-2", "not_relevant", 13.0)
    feedback = FeedbackStore(open_index())
    feedback.add(CLICK)
    feedback.add(judged)
    assert stored(FeedbackStore(open_index())) == {CLICK, judged}


def test_a_repeated_event_is_stored_once_with_its_last_time(feedback: FeedbackStore) -> None:
    for at_s in (1.0, 2.0, 3.0):
        feedback.add(replace(CLICK, at_s=at_s))
    assert stored(feedback) == {replace(CLICK, at_s=3.0)}


def test_a_second_judgement_replaces_the_first_but_not_the_click(feedback: FeedbackStore) -> None:
    feedback.add(CLICK)
    feedback.add(replace(CLICK, kind="relevant"))
    feedback.add(replace(CLICK, kind="not_relevant"))
    assert stored(feedback) == {CLICK, replace(CLICK, kind="not_relevant")}


def test_events_on_other_results_and_requests_are_stored_separately(
    feedback: FeedbackStore,
) -> None:
    events = {
        replace(CLICK, request_id=request, id=image)
        # callers choose both, so they may contain any separator
        for request, image in [
            *[("a", "b c"), ("a b", "c"), ("a b c", ""), ("", "a b c")],
            *[("a\0b", "c"), ("a", "b\0c"), ('a","b', "c"), ("a", 'b","c')],
            *[("ü", "😀"), ("a", "b")],
        ]
    }
    for event in events:
        feedback.add(event)
    assert stored(feedback) == events


def test_more_than_one_page_is_listed_completely(feedback: FeedbackStore) -> None:
    events = {replace(CLICK, request_id=f"request-{n}") for n in range(501)}
    for event in events:
        feedback.add(event)
    assert stored(feedback) == events


def test_other_kinds_of_notes_are_not_listed(open_index: Opener) -> None:
    index = open_index()
    feedback = FeedbackStore(index)
    feedback.add(CLICK)
    index.put_note("not-duplicate", "1", {"group": "g", "image": "i"})
    assert stored(feedback) == {CLICK}


@pytest.mark.double("a closed folder stands for a server that is down")
def test_an_index_that_is_down_raises(open_index: Opener) -> None:
    index = open_index()
    index.close()
    with pytest.raises(IndexUnavailable):
        FeedbackStore(index).add(CLICK)
    with pytest.raises(IndexUnavailable):
        list(FeedbackStore(index).all())


def test_events_of_a_repeated_query_are_merged() -> None:
    events = [
        CLICK,
        replace(CLICK, request_id="request-2", id="image-2", kind="relevant"),
        replace(CLICK, request_id="request-2", id="image-3", kind="not_relevant"),
        replace(CLICK, id="image-4", query_id="another"),
    ]
    queries, without = by_query(events)
    assert without == 0
    assert {each.query_id: each for each in queries} == {
        "token": Judgements("token", {"image-2"}, {"image-3"}, {"image-1"}),
        "another": Judgements("another", clicked={"image-4"}),
    }


@pytest.mark.parametrize("order", [1, -1])
def test_the_last_judgement_counts_and_a_click_does_not_change_it(order: int) -> None:
    events = [
        replace(CLICK, at_s=1.0, kind="relevant"),
        replace(CLICK, at_s=2.0, kind="not_relevant", request_id="request-2"),
        replace(CLICK, at_s=3.0, request_id="request-3"),
    ]
    [query], _ = by_query(events[::order])
    assert query == Judgements("token", not_relevant={"image-1"})


def test_one_event_with_a_query_id_names_the_query_of_its_whole_request() -> None:
    unnamed = replace(CLICK, id="image-2", query_id=None)
    nowhere = replace(CLICK, request_id="request-2", query_id=None)
    queries, without = by_query([unnamed, CLICK, nowhere])
    assert (queries, without) == ([Judgements("token", clicked={"image-1", "image-2"})], 1)


def test_clicks_count_as_relevant_if_nothing_was_judged_relevant() -> None:
    clicked = Judgements("token", not_relevant={"a"}, clicked={"b"})
    assert clicked.right == {"b"}
    assert Judgements("token", {"c"}, {"a"}, {"b"}).right == {"c"}
    assert Judgements("token", {"c"}, {"a"}, {"b"}).restricted_to({"a", "b"}) == clicked
