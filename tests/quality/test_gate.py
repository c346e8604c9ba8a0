"""The bundled model's results do not get worse unnoticed."""

from __future__ import annotations

from pathlib import Path

from tests.quality.gate import BASELINE, measure


def test_the_bundled_model_is_not_worse_than_the_baseline(tmp_path: Path) -> None:
    """After an intended change of quality: `make baseline`, and explain it in the commit."""
    completed = measure(tmp_path, "--baseline", BASELINE)
    assert completed.returncode == 0, completed.stderr
