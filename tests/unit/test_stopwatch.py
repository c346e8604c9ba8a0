"""How long stages take, whatever becomes of them."""

from __future__ import annotations

import time

import pytest

from likeness.stopwatch import Stopwatch


def test_a_stage_that_fails_is_timed_too() -> None:
    watch = Stopwatch()
    with watch.stage("qdrant"):
        time.sleep(0.01)
    once_ms = watch.took_ms["qdrant"]
    with pytest.raises(TimeoutError), watch.stage("qdrant"):
        time.sleep(0.01)
        raise TimeoutError
    assert watch.took_ms["qdrant"] >= once_ms + 10 > 20
