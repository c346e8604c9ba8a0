"""The curl examples of README.md and of docs/ run unchanged against the service.

A code block with a line that begins with curl is a script: bash runs it, and no call may fail.
`localhost:8000` is replaced by the service's address, and $LIKENESS_URL is set to it. The files and
object keys in the examples exist. So do $ID and $OTHER_ID, the ids of two images, $QUERY_ID and
$REQUEST_ID of an answer, and $GROUP, a group of duplicates in which $ID is a copy.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.local.service import http_server
from tests.pictures import encoded, jpeg, picture, png
from tests.service import ROOT, Service

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ADDRESS = "localhost:8000"
STRICT = 'set -euo pipefail; curl() { command curl --silent --show-error --fail-with-body "$@"; }\n'


def scripts(markdown: str) -> list[str]:
    """Code blocks, fenced or indented, that call curl."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    without_fences = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", without_fences, re.MULTILINE)
    return [block for block in [*fenced, *indented] if re.search(r"^\s*curl ", block, re.MULTILINE)]


def calls_the_service(script: str) -> bool:
    return ADDRESS in script or "$LIKENESS_URL" in script


FOUND = [
    (str(page.relative_to(ROOT)), script) for page in PAGES for script in scripts(page.read_text())
]
EXAMPLES = [(page, script) for page, script in FOUND if calls_the_service(script)]


def test_the_documents_show_how_to_search() -> None:
    pages = {page for page, script in EXAMPLES if "/v1/search" in script}
    assert {"README.md", "docs/reference/http-api.md"} <= pages


def test_examples_that_are_not_run_call_qdrant() -> None:
    """Otherwise an example with another address would never be tested."""
    for page, script in FOUND:
        assert calls_the_service(script) or "$QDRANT_URL" in script, f"{page}: {script}"


def test_code_blocks_are_found() -> None:
    """Otherwise the test below would run nothing."""
    markdown = "a\n\n    curl x\n    curl y\n\n```sh\nls\ncurl z\n```\n\n    ls\n\nb `curl`\n"
    assert [script.split() for script in scripts(markdown)] == [
        ["ls", "curl", "z"],
        ["curl", "x", "curl", "y"],
    ]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    text = "\n".join(script for _, script in EXAMPLES)
    keys = sorted(set(re.findall(r"\bkey\"?[:=] ?\"?([\w/-]+\.\w+)", text)))
    metadata = {key: {"brand": "acme", "price": "9"} for key in keys}
    with Service(tmp_path_factory.mktemp("index")) as service:
        service.fill({f"{n}.png": png(n) for n in range(6)})
        service.fill({"copy.jpg": jpeg(1)})
        service.fill({key: png(50 + n) for n, key in enumerate(keys)}, metadata)
        answer = service.search(key="0.png").json()
        [group] = service.http.get("/v1/duplicates").json()["groups"]
        with http_server(service.app, 0) as url:
            yield {
                "ADDRESS": url,
                "LIKENESS_URL": url,
                "LIKENESS_API_KEY": "unused: the service itself requires no key",
                "ID": service.id("copy.jpg"),
                "OTHER_ID": service.id("2.png"),
                "QUERY_ID": answer["query_id"],
                "REQUEST_ID": answer["request_id"],
                "GROUP": group["id"],
            }


@pytest.mark.parametrize(
    "script", [script for _, script in EXAMPLES], ids=[page for page, _ in EXAMPLES]
)
def test_an_example_runs_without_error(
    script: str, environment: dict[str, str], tmp_path: Path
) -> None:
    for name in re.findall(r"@([\w.-]+\.(?:jpe?g|png))", script):
        (tmp_path / name).write_bytes(encoded(picture(7, 320, 240), "JPEG"))
    completed = subprocess.run(
        ["bash", "-c", STRICT + script.replace(ADDRESS, environment["ADDRESS"])],
        cwd=tmp_path,
        env={**os.environ, **environment, "no_proxy": "*"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
