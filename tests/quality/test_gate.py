"""What the bundled model finds does not get worse unnoticed."""

from __future__ import annotations

from pathlib import Path

from tests.quality.gate import BASELINE, measure


def test_the_bundled_model_finds_what_it_found_before(tmp_path: Path) -> None:
    """Where a change is meant to cost or gain: `make baseline`, and say in the commit why."""
    done = measure(tmp_path, "--baseline", BASELINE)
    assert done.returncode == 0, done.stderr
