"""Which server the tests write to, and that nothing of theirs stays there."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests import indexes
from tests.fault_server import error, serve
from tests.indexes import IndexAddress

ROOT = Path(__file__).parents[1]
TESTS = """
import os
import pytest
from tests.indexes import open_index

OLD, NEW = "0" * 16, "1" * 16

@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    index = open_index(tmp_path_factory.mktemp("index"))
    index.prepare(OLD, 4)
    return index

def test_of_an_index_of_its_own(shared, tmp_path):
    index = open_index(tmp_path)
    index.prepare(NEW, 4)
    index.put_note("test", "1", {})
    assert open_index(tmp_path).models() == [NEW]
    assert shared.models() == [OLD]
    pytest.fail("on purpose")

def test_of_the_index_of_the_module(shared, qdrant):
    assert shared.models() == [OLD]
    qdrant.open().prepare(NEW, 4)
    pytest.fail("on purpose")

@pytest.mark.double("reads a folder")
def test_of_a_folder():
    pytest.fail("not skipped")

def test_no_exported_name_of_a_server_reaches_a_test():
    assert [name for name in os.environ if name.startswith("QDRANT_")] == []
"""


def test_a_run_writes_to_its_server_only_and_leaves_nothing_there_though_tests_fail(
    tmp_path: Path, double: ThreadingHTTPServer
) -> None:
    theirs = indexes.on_double(double)  # another service's index on the same server
    with closing(theirs.open()) as index:
        index.prepare("0" * 16, 4)
    before = content(theirs)
    (tmp_path / "test_written.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "tests.conftest"]
    with serve([error(500)]) as production:
        env = {
            **os.environ,
            "TEST_QDRANT_URL": theirs.url,
            "QDRANT_URL": production.url,
            "QDRANT_API_KEY": "production's",
        }
        done = subprocess.run(
            [*command, tmp_path], env=env, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert production.requests == []
    assert "2 failed, 1 passed, 1 skipped" in done.stdout, done.stdout
    assert done.stdout.count("- Failed: on purpose") == 2
    assert "not with TEST_QDRANT_URL: reads a folder" in done.stdout
    assert content(theirs) == before


def content(server: IndexAddress) -> list[object]:
    return [server.call("GET", path) for path in ("/collections", "/aliases")]
