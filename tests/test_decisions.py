"""docs/decisions: numbers, statuses, links and index agree with each other and with the code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "decisions"
INDEX = FOLDER / "README.md"
TOPICS = sorted(path for path in FOLDER.glob("*.md") if path != INDEX)
NUMBERED = r"\[\d{4}\]\((?:[\w-]+\.md)?#\d{4}\)"
STATUS = (
    rf"(?:accepted|refused)(?:, amended by {NUMBERED}(?:, {NUMBERED})*)?|superseded by {NUMBERED}"
)
RECORD = re.compile(
    r'^<a id="(?P<anchor>\d{4})"></a>\n'
    r"## (?P<number>\d{4}) · (?P<title>.+)\n"
    rf"Status: (?P<status>{STATUS}) · (?P<date>\d{{4}}-\d\d-\d\d)"
    rf"(?P<changes>(?: · (?:amends|supersedes) {NUMBERED}(?:, {NUMBERED})*)*)\n"
    r"\n\S",
    re.MULTILINE,
)
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
# Folders whose files may refer to a decision by its number.
SOURCES = ("shared", "functions", "console", "layers", "training", "benchmarks", "tests", "docs")
REFERENCE = re.compile(r"\bdecisions? (\d{4})\b", re.IGNORECASE)
CHANGES = {"amended by": "amends", "superseded by": "supersedes"}


class Decision(NamedTuple):
    """`status` and `changes` are Markdown, with links."""

    topic: str
    number: str
    title: str
    status: str
    day: str
    changes: str


class Row(NamedTuple):
    """A row of the index. `topic` is the file that it links to, `section` the file of its table."""

    section: str
    topic: str
    number: str
    title: str
    status: str


def records(topic: str, text: str) -> list[Decision]:
    """The well-formed records of a topic, in order; malformed ones are left out."""
    parts = ("number", "title", "status", "date", "changes")
    return [
        Decision(topic, *(found[part] for part in parts))
        for found in RECORD.finditer(text)
        if found["anchor"] == found["number"]
    ]


def without_code(markdown: str) -> str:
    fenced = re.sub(r"^ *```.*?^ *```$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`", "", fenced)


def without_links(markdown: str) -> str:
    return LINK.sub(r"\1", markdown)


def relations(text: str, verbs: Sequence[str]) -> set[tuple[str, str]]:
    """Pairs of a verb and a number: "amends 0001, 0002" has two."""
    found = re.findall(rf"({'|'.join(verbs)}) (\d{{4}}(?:, \d{{4}})*)", without_links(text))
    return {(verb, number) for verb, numbers in found for number in numbers.split(", ")}


def anchors(path: Path) -> set[str]:
    """Explicit anchors, and those that GitHub generates from headings."""
    text = path.read_text("utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = (re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return {*re.findall(r'<a id="([^"]+)">', text), *slugs}


def index_rows() -> list[Row]:
    rows, section = [], ""
    for line in INDEX.read_text("utf-8").splitlines():
        if heading := re.fullmatch(r"### \[.+\]\((.+\.md)\)", line):
            section = heading[1]
        row = re.fullmatch(r"\| \[(\d{4})\]\((.+\.md)#(\d{4})\) \| (.+) \| (.+) \|", line)
        if row and row[1] == row[3]:
            rows.append(Row(section, row[2], row[1], row[4], row[5]))
    return rows


DECISIONS = [found for path in TOPICS for found in records(path.name, path.read_text("utf-8"))]
BY_NUMBER = {decision.number: decision for decision in DECISIONS}


@pytest.mark.parametrize("path", TOPICS, ids=lambda path: path.stem)
def test_each_heading_begins_a_record_with_anchor_status_and_text(path: Path) -> None:
    text = path.read_text("utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert [f"{d.number} · {d.title}" for d in records(path.name, text)] == headings


@pytest.mark.parametrize(
    ("anchor", "heading", "status"),
    [
        ("0002", "0001 · A title", "Status: accepted · 2026-12-01"),
        ("0001", "1 · A title", "Status: accepted · 2026-12-01"),
        ("0001", "0001 · A title", "Accepted on 2026-12-01"),
        ("0001", "0001 · A title", "Status: proposed · 2026-12-01"),
        ("0001", "0001 · A title", "Status: accepted"),
        ("0001", "0001 · A title", "Status: superseded · 2026-12-01"),
        ("0001", "0001 · A title", "Status: superseded by 0002 · 2026-12-01"),
        ("0001", "0001 · A title", "Status: accepted · 2026-12-01 · amends everything"),
    ],
)
def test_a_malformed_record_is_detected(anchor: str, heading: str, status: str) -> None:
    good = '<a id="0001"></a>\n## 0001 · A title\nStatus: accepted · 2026-12-01\n\nText.\n'
    assert len(records("topic.md", good)) == 1
    bad = f'<a id="{anchor}"></a>\n## {heading}\n{status}\n\nText.\n'
    assert records("topic.md", bad) == []


def test_numbers_are_unique_and_without_gaps() -> None:
    numbers = sorted(decision.number for decision in DECISIONS)
    assert numbers == [f"{n:04}" for n in range(1, len(DECISIONS) + 1)]


def test_a_topic_lists_its_decisions_in_order() -> None:
    for path in TOPICS:
        numbers = [decision.number for decision in DECISIONS if decision.topic == path.name]
        assert numbers == sorted(numbers)


def test_dates_are_dates() -> None:
    assert all(date.fromisoformat(decision.day) for decision in DECISIONS)


def test_the_index_has_every_decision_with_its_title_and_status() -> None:
    listed = index_rows()
    assert len(listed) == len(DECISIONS)
    assert set(listed) == {
        Row(d.topic, d.topic, d.number, d.title, without_links(d.status)) for d in DECISIONS
    }


def test_a_changed_decision_and_the_one_that_changes_it_name_each_other() -> None:
    changed = {
        (d.number, CHANGES[verb], later)
        for d in DECISIONS
        for verb, later in relations(d.status, list(CHANGES))
    }
    changing = {
        (earlier, verb, d.number)
        for d in DECISIONS
        for verb, earlier in relations(d.changes, list(CHANGES.values()))
    }
    assert changed == changing
    assert all(earlier < later for earlier, _, later in changed)
    assert {number for change in changed for number in change[::2]} <= BY_NUMBER.keys()


@pytest.mark.parametrize("path", [INDEX, *TOPICS], ids=lambda path: path.stem)
def test_links_resolve(path: Path) -> None:
    for text, target in LINK.findall(without_code(path.read_text("utf-8"))):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target
        if re.fullmatch(r"\d{4}", text):
            assert anchor == text, f"{text} links to {target}"


def test_code_and_documents_name_decisions_that_exist() -> None:
    named = {
        (number, str(path.relative_to(ROOT)))
        for folder in SOURCES
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".yaml", ".js") and path != INDEX
        for number in REFERENCE.findall(path.read_text("utf-8"))
    }
    assert ("0014", "shared/likeness/image_headers.py") in named
    assert [where for where in sorted(named) if where[0] not in BY_NUMBER] == []
