"""The circuit breaker alone, with a clock that the tests set."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import pytest
from hypothesis import given

from likeness.adapters.circuit_breaker import CircuitBreaker
from likeness.errors import IndexUnavailable
from tests.scripted_qdrant import Clock


def opened_breaker(clock: Clock, probe_s: float = 5.0) -> CircuitBreaker:
    breaker = CircuitBreaker(clock, probe_s)
    for _ in range(5):
        breaker.check()
        breaker.failed()
    return breaker


def lets_through(breaker: CircuitBreaker) -> bool:
    try:
        breaker.check()
    except IndexUnavailable:
        return False
    return True


def test_a_success_resets_the_count_of_failures() -> None:
    breaker = CircuitBreaker(Clock())
    for _ in range(3):
        for _ in range(4):
            breaker.failed()
        breaker.succeeded()
    assert lets_through(breaker)


def test_a_paused_call_says_when_the_next_one_is_let_through() -> None:
    clock = Clock()
    breaker = opened_breaker(clock)
    clock.now_s = 1.5
    with pytest.raises(IndexUnavailable) as caught:
        breaker.check()
    assert caught.value.retry_after_s == 3.5
    clock.now_s += caught.value.retry_after_s
    assert lets_through(breaker)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["succeeds", "fails", "never ends"]), st.floats(0, 8)),
        max_size=60,
    )
)
def test_the_circuit_holds_back_only_after_five_failures_and_only_for_so_long(
    steps: list[tuple[str, float]],
) -> None:
    """Whatever calls do: one that is held back follows five failures in a row, is told a time of at
    most one pause or probe, and is let through after it; of those that wait for it, one alone.
    """
    clock, failures = Clock(), 0
    breaker = CircuitBreaker(clock, probe_s=6.0)
    for outcome, passes_s in steps:
        clock.now_s += passes_s
        try:
            breaker.check()
        except IndexUnavailable as refused:
            assert failures >= 5
            assert refused.retry_after_s is not None
            assert 0 < refused.retry_after_s <= 6.0
            clock.now_s += refused.retry_after_s + 1e-6  # sums of floats round
            assert lets_through(breaker)
            assert not lets_through(breaker)
        if outcome == "succeeds":
            breaker.succeeded()
            failures = 0
        elif outcome == "fails":
            breaker.failed()
            failures += 1


def test_a_failed_probe_pauses_the_calls_again() -> None:
    clock = Clock()
    breaker = opened_breaker(clock)
    clock.now_s = 5.1
    assert lets_through(breaker)
    breaker.failed()
    clock.now_s = 10.0
    assert not lets_through(breaker)
    clock.now_s = 10.2
    assert lets_through(breaker)


def test_only_one_of_many_threads_may_probe() -> None:
    for _ in range(30):
        clock = Clock()
        breaker = opened_breaker(clock)
        clock.now_s = 5.1
        start = threading.Barrier(8)

        def probe(start: threading.Barrier, breaker: CircuitBreaker) -> bool:
            start.wait()
            return lets_through(breaker)

        with ThreadPoolExecutor(8) as pool:
            tries = [pool.submit(probe, start, breaker) for _ in range(8)]
            assert sum(done.result() for done in tries) == 1


def test_the_next_probe_waits_for_one_that_takes_long() -> None:
    clock = Clock()
    breaker = opened_breaker(clock, probe_s=31.0)
    clock.now_s = 5.1
    assert lets_through(breaker)
    clock.now_s = 36.0
    assert not lets_through(breaker)
    clock.now_s = 36.2
    assert lets_through(breaker)


def test_a_probe_that_never_ends_does_not_keep_the_circuit_open_for_ever() -> None:
    clock = Clock()
    breaker = opened_breaker(clock)
    for i in range(1, 4):
        clock.now_s = 5.1 * i
        assert lets_through(breaker)
        assert not lets_through(breaker)
