"""docs/reference/licences.md is of what is locked for the layers: `make sbom` makes it anew."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUNTIME, QDRANT_CLIENT = (
    ROOT / "layers" / "runtime" / name for name in ("requirements.txt", "qdrant-client.txt")
)


def packages(lock: Path) -> set[tuple[str, str]]:
    """Names and versions."""
    return set(re.findall(r"^([a-z0-9_.-]+)==([^ ;\\]+)", lock.read_text(), re.MULTILINE))


def test_the_licence_list_is_of_the_packages_that_are_deployed() -> None:
    listed = (ROOT / "docs" / "reference" / "licences.md").read_text()
    locked = packages(RUNTIME) | packages(QDRANT_CLIENT)
    written = set(re.findall(r"^\| ([a-z][\w.-]*) +\| ([^ ]+)", listed, re.MULTILINE))
    assert {(name.replace("_", "-"), version) for name, version in written} == locked
    assert len(locked) > 10


def test_no_package_is_in_two_layers_and_all_are_the_tested_versions() -> None:
    client, runtime = (dict(packages(lock)) for lock in (QDRANT_CLIENT, RUNTIME))
    assert "qdrant-client" in client
    assert not client.keys() & runtime.keys()
    assert (client | runtime).items() <= packages(ROOT / "locks" / "dev.txt")
