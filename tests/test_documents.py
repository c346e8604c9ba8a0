"""The documents: every relative link resolves, and tables list what the code has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer
from cfnlint.decode import cfn_yaml

from console.app import app
from functions.search.openapi import OPERATIONS
from tests.service import ROOT

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "training/*.md", "layers/**/*.md")
    for page in ROOT.glob(pattern)
)
REFERENCE = ROOT / "docs" / "reference"
FOLDERS = {
    "benchmarks", "console", "docs", "events", "functions", "fuzz", "layers", "locks", "shared",
    "tests", "training",
}  # fmt: skip
_CODE = re.compile(r"`([\w.-]+/[\w./-]*)(?: [^`]*)?`")
_LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:")


def without_fences(markdown: str) -> str:
    return re.sub(r"^( *)```.*?^\1```", "", markdown, flags=re.MULTILINE | re.DOTALL)


def prose(markdown: str) -> str:
    """A document without its code blocks and code spans."""
    text = re.sub(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+", "\n", without_fences(markdown))
    return re.sub(r"(`+)[^`]+?\1", "", text)


def links(markdown: str) -> list[str]:
    """Targets of links and images within the repository."""
    return [to for to in _LINK.findall(prose(markdown)) if not _ELSEWHERE.match(to)]


def anchors(markdown: str) -> set[str]:
    """Anchors written as <a id="…">, and those that GitHub generates from headings
    (github/html-pipeline, its filter for tables of contents).
    """
    text = without_fences(markdown)
    found = dict.fromkeys(re.findall(r'<a id="([^"]+)">', text), 0)
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        found[name] = found.get(name, -1) + 1
        if found[name]:
            found[f"{name}-{found[name]}"] = 0
    return set(found)


def test_links_and_anchors_are_found() -> None:
    """Otherwise the tests below would check nothing."""
    markdown = (
        "# One `two`: three\n\n## Same\n\n## Same\n\n[a](b.md#c), [`d`](e.md) and ![f](g.png)\n"
        "[h\ni](j/), [k](https://example.com), `[l](m)`\n\n    [n](o)\n\n```\n[p](q)\n```\n"
        '<a id="0001"></a>\n'
    )
    assert links(markdown) == ["b.md#c", "e.md", "g.png", "j/"]
    assert anchors(markdown) == {"one-two-three", "same", "same-1", "0001"}


def _broken(page: Path) -> Iterator[str]:
    for link in links(page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)).resolve() if path else page
        missing = not target.exists()
        if missing or (anchor and anchor not in anchors(target.read_text())):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    assert not list(_broken(page))


def test_every_repository_path_in_the_documents_exists() -> None:
    mentioned = {
        (path, str(page.relative_to(ROOT)))
        for page in PAGES
        if page.name != "CHANGELOG.md"  # it mentions files of earlier releases
        for path in _CODE.findall(without_fences(page.read_text()))
        if path.partition("/")[0] in FOLDERS
    }
    assert ("shared/likeness/settings.py", "docs/reference/settings.md") in mentioned
    assert not [found for found in mentioned if not (ROOT / found[0]).exists()]


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        paths = [link.partition("#")[0] for link in links(page.read_text())]
        targets = {(page.parent / path).resolve() for path in paths}
        waiting += [to for to in targets - reached if to.suffix == ".md" and to.is_file()]
    generated = {ROOT / "training" / "MODEL_CARD.md"}  # the card's template
    assert not [str(page.relative_to(ROOT)) for page in PAGES if page not in reached | generated]


def _calls(markdown: str) -> Iterator[str]:
    """Calls of the command: lines of code, joined where they go on, and spans within prose."""
    text = markdown.replace("\\\n", " ")
    code = re.findall(r"^ {4}.*$", text, re.MULTILINE)
    code += re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in "\n".join(code).splitlines():
        found = re.search(r"(?:^|[ /])likeness ([a-z][^#&]*)", line.strip())
        if found and not line.strip().startswith(("#", "curl", "aws")):
            yield found[1]
    yield from re.findall(r"`(?:\.venv/bin/)?likeness ([a-z][^`]*)`", without_fences(markdown))


def _unknown(call: str) -> list[str]:
    """What of a call the command does not have."""
    command: Any = typer.main.get_command(app)
    for word in call.split():
        if not hasattr(command, "commands"):
            break
        words = word.replace("\\", "").split("|")  # migrate start|fill|…
        if unknown := [each for each in words if each not in command.commands]:
            return unknown
        command = command.commands[words[0]]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return sorted(set(re.findall(r"(?<= )--[a-z0-9-]+", call)) - known)


def test_every_call_of_the_command_that_is_shown_exists() -> None:
    calls = [
        (page.name, call)
        for page in PAGES
        if page.name != "CHANGELOG.md"  # it names what existed then
        for call in _calls(page.read_text())
    ]
    assert len(calls) > 100
    assert not [(page, call, _unknown(call)) for page, call in calls if _unknown(call)]


def test_the_reference_names_every_command_and_its_options() -> None:
    text = (REFERENCE / "command-line.md").read_text()
    commands: Any = typer.main.get_command(app)
    shown = [name for name, command in commands.commands.items() if not command.hidden]
    assert [name for name in shown if f"`likeness {name}" not in text] == []
    rows = re.findall(r"^\| `likeness ([^`]+)` \| (.*) \|$", text, re.MULTILINE)
    calls = [f"{call} {' '.join(re.findall(r'`(--[a-z0-9-]+)', rest))}" for call, rest in rows]
    assert len(calls) > 15
    assert not [(call, _unknown(call)) for call in calls if _unknown(call)]


def test_the_http_reference_names_every_route() -> None:
    text = (REFERENCE / "http-api.md").read_text()
    assert [
        operation.path
        for operation in OPERATIONS
        if f"{operation.method} {operation.path}" not in text
    ] == []


def test_the_settings_page_lists_every_variable_that_is_read() -> None:
    source = (ROOT / "shared" / "likeness" / "settings.py").read_text()
    read = set(re.findall(r'"((?:LIKENESS|QDRANT|POWERTOOLS)_[A-Z_]+)"', source))
    assert len(read) > 20
    listed = set(re.findall(r"`([A-Z_]+)`", (REFERENCE / "settings.md").read_text()))
    assert read <= listed


def test_the_parameters_page_lists_every_parameter_and_output_of_the_template() -> None:
    template = cfn_yaml.load(str(ROOT / "template.yaml"))
    text = (REFERENCE / "template-parameters.md").read_text()
    listed = set(re.findall(r"`(\w+)`", text))
    assert set(template["Parameters"]) | set(template["Outputs"]) <= listed
