"""Generates docs/reference/faults.md from the tests: a row for each mark `fault`.

    @pytest.mark.fault("what fails", seen="…", heals="…", lost="nothing")

marks a test, or one of its parameters.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reference" / "faults.md"
# The first sections of the page; the others follow.
_FIRST = ("faults/test_indexing.py", "faults/test_searching.py")
_HEAD = """\
# Faults

What happens when something fails. This page is generated from the tests that show it
(`make faults`). Each test ends with the index equal to the bucket, or with a search that finds what
it should. The tests run the real handlers in processes of their own, behind a real queue, and
disturb the connections to Qdrant and S3.

A call to Qdrant may take `QDRANT_TIMEOUT_S`, three attempts included. After five failed calls in a
row the circuit breaker opens for five seconds: searches fail at once, and the index function waits.
A request that would outlast its function is answered with 503 before Lambda ends it. The queue
delivers a message ten times, six minutes apart; then it goes to the dead-letter queue for 14 days.
"""
_TITLES = {
    "indexing": "Indexing",
    "searching": "Searches",
    "runtime": "Killed processes and restored snapshots",
    "qdrant_transport": "State from before a pause",
    "indexing_reconciliation": "Everything at once",
    "server_refusals": "Refusals of the Qdrant server",
    "handler": "A full index",
    "duplicate_detection": "Comparing with duplicates",
    "duplicate_groups": "Groups of duplicates",
    "indexing_reconciliation_replicas": "Everything at once, on replicas",
}


class Row(NamedTuple):
    fails: str
    seen: str
    lost: str
    heals: str
    test: str


def rows() -> dict[str, list[Row]]:
    """The rows of each test file that has any, by its path relative to tests/."""
    files = sorted(
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("test_*.py")
        if "pytest.mark.fault(" in path.read_text()
    )
    files.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    return {name: list(_rows_of(name)) for name in files}


def _rows_of(file: str) -> Iterator[Row]:
    module = importlib.import_module(f"tests.{file.removesuffix('.py').replace('/', '.')}")
    for name, test in vars(module).items():
        for mark in _faults(getattr(test, "pytestmark", []) if name.startswith("test_") else []):
            yield row(*mark.args, test=name, **mark.kwargs)


def row(fails: str, *, seen: str, heals: str, test: str, lost: str = "nothing") -> Row:
    return Row(fails, seen, lost, heals, test)


def _faults(marks: list[pytest.Mark]) -> Iterator[pytest.Mark]:
    """The marks of a test and of its parameters."""
    for mark in marks:
        if mark.name == "fault":
            yield mark
        elif mark.name == "parametrize":
            for parameters in mark.args[1]:
                for inner in getattr(parameters, "marks", ()):
                    yield from _faults([getattr(inner, "mark", inner)])


def text() -> str:
    parts = [_HEAD]
    for file, found in rows().items():
        topic = Path(file).stem.removeprefix("test_")
        parts.append(f"## {_TITLES.get(topic, topic.capitalize())}\n\nIn `tests/{file}`.\n")
        lines = ["| what fails | what is seen | lost | how it recovers | test |", "|---" * 5 + "|"]
        lines += [f"| {' | '.join(row[:4])} | `{_short(row.test)}` |" for row in found]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _short(test: str) -> str:
    return test.removeprefix("test_")


if __name__ == "__main__":
    PAGE.write_text(text())
