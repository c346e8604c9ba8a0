"""The README's curl examples, run as they stand against the service.

A block of code with a line that begins with curl is a script: bash runs it, and no call may fail.
`localhost:8000` becomes the service's address; files that are sent, and keys that are named, are
there. So are $ID and $OTHER_ID, two images' ids, $QUERY_ID and $REQUEST_ID of an answer, and
$GROUP, a group of duplicates that $ID is a copy in.
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

README = (ROOT / "README.md").read_text()
ADDRESS = "localhost:8000"
STRICT = 'set -euo pipefail; curl() { command curl --silent --show-error --fail-with-body "$@"; }\n'


def scripts(markdown: str) -> list[str]:
    """Blocks of code, fenced or indented, that call curl."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)
    without = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", without, re.MULTILINE)
    return [block for block in [*fenced, *indented] if re.search(r"^\s*curl ", block, re.MULTILINE)]


SCRIPTS = scripts(README)


def test_the_readme_shows_how_to_search() -> None:
    assert any("/v1/search" in script for script in SCRIPTS)


def test_blocks_of_code_are_found() -> None:
    """Or the test below would run nothing."""
    markdown = "a\n\n    curl x\n    curl y\n\n```sh\nls\ncurl z\n```\n\n    ls\n\nb `curl`\n"
    assert [script.split() for script in scripts(markdown)] == [
        ["ls", "curl", "z"],
        ["curl", "x", "curl", "y"],
    ]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    text = "\n".join(SCRIPTS)
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
                "ID": service.id("copy.jpg"),
                "OTHER_ID": service.id("2.png"),
                "QUERY_ID": answer["query_id"],
                "REQUEST_ID": answer["request_id"],
                "GROUP": group["id"],
            }


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_works_as_it_stands(
    script: str, environment: dict[str, str], tmp_path: Path
) -> None:
    for name in re.findall(r"@([\w.-]+\.(?:jpe?g|png))", script):
        (tmp_path / name).write_bytes(encoded(picture(7, 320, 240), "JPEG"))
    done = subprocess.run(
        ["bash", "-c", STRICT + script.replace(ADDRESS, environment["ADDRESS"])],
        cwd=tmp_path,
        env={**os.environ, **environment, "no_proxy": "*"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
