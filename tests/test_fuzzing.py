"""Damaged files, events and tokens are accepted or raise their own error. See `make fuzz`."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fuzz.targets import TARGETS, seeds

# Pillow warns of damage that it tolerates; in production that is a line in the log.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
NAMES = sorted(TARGETS)
ODD = [b"", b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00"]


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    """A good file with some places overwritten, cut out, repeated, or filled from another one."""
    good = st.sampled_from(seeds(name))
    data, other = draw(good), draw(good)
    places = st.integers(0, len(data)) | st.integers(0, min(64, len(data)))
    for _ in range(draw(st.integers(1, 5))):
        start, length = draw(places), draw(st.sampled_from([0, 1, 2, 4, 64]))
        source = draw(st.integers(0, len(other)))
        pieces = st.sampled_from(
            [*ODD, data[start : start + length] * 2, other[source : source + 64]]
        )
        piece = draw(pieces | st.binary(max_size=4))
        data = data[:start] + piece + data[start + length :]
    return data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data


@pytest.mark.parametrize("name", NAMES)
def test_every_seed_is_accepted(name: str) -> None:
    assert len(seeds(name)) > 2
    for seed in seeds(name):
        TARGETS[name](seed)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_damaged_input_is_accepted_or_raises_its_own_error(name: str, data: Any) -> None:
    TARGETS[name](data.draw(damaged(name)))
