"""docs/reference/faults.md matches the marks on the tests."""

from __future__ import annotations

from tests.faults import page


def test_the_page_matches_the_marks() -> None:
    assert page.PAGE.read_text() == page.text(), "run `make faults`"


def test_every_required_fault_has_a_row() -> None:
    """A test that loses its mark would otherwise vanish from the page unnoticed."""
    faults = " · ".join(row.fails for found in page.rows().values() for row in found)
    for fault in (
        "Qdrant is down", "slow", "half-open", "5xx", "cuts its response off", "throttles",
        "three times", "any order", "after later ones", "between others", "killed",
        "not images", "flood",
    ):  # fmt: skip
        assert fault in faults
