"""docs/reference/licences.md is of what is locked for the layer: `make sbom` makes it anew."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_licence_list_is_of_the_packages_that_are_deployed() -> None:
    lock = (ROOT / "layers" / "runtime" / "requirements.txt").read_text()
    listed = (ROOT / "docs" / "reference" / "licences.md").read_text()
    locked = set(re.findall(r"^([a-z0-9_.-]+)==([^ ;\\]+)", lock, re.MULTILINE))
    written = set(re.findall(r"^\| ([a-z][\w.-]*) +\| ([^ ]+)", listed, re.MULTILINE))
    assert {(name.replace("_", "-"), version) for name, version in written} == locked
    assert len(locked) > 10
