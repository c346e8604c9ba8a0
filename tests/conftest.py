"""Fixtures for more than one folder of tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
from hypothesis import HealthCheck, settings

import console  # noqa: F401 - limits OpenBLAS to one thread, before numpy is loaded
from tests import indexes, lambda_runtime
from tests.indexes import IndexAddress
from tests.tls_server import Keys

# In a new checkout the first text that is drawn takes seconds: Hypothesis tabulates Unicode for it.
settings.register_profile("likeness", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("likeness")

# They may name a production index, and most commands that the tests start inherit them.
for name in [name for name in os.environ if name.startswith("QDRANT_")]:
    del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if indexes.SERVER_URL and (mark := item.get_closest_marker("double")):
            item.add_marker(pytest.mark.skip(f"not with TEST_QDRANT_URL: {mark.args[0]}"))


@pytest.fixture(scope="session", autouse=True)
def drop_indexes_of_the_run() -> Iterator[None]:
    yield
    indexes.drop_run()


@pytest.fixture(scope="module", autouse=True)
def drop_indexes_of_the_module() -> Iterator[None]:
    with indexes.dropping():
        yield


@pytest.fixture(autouse=True)
def drop_indexes_of_the_test() -> Iterator[None]:
    with indexes.dropping():
        yield


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    """The endpoint of a shared local AWS; each test creates its own buckets and event buses."""
    with lambda_runtime.local_aws() as url:
        yield url


@pytest.fixture
def double() -> Iterator[ThreadingHTTPServer]:
    """The small Qdrant server, for tests with the mark `double`."""
    with indexes.running_double() as server:
        yield server


@pytest.fixture
def qdrant(request: pytest.FixtureRequest) -> IndexAddress:
    """A new index on a Qdrant server: the one at TEST_QDRANT_URL, or else the double."""
    if indexes.SERVER_URL:
        return indexes.on_server()
    return indexes.on_double(request.getfixturevalue("double"))


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command for the server's certificate")
    return Keys(tmp_path_factory.mktemp("keys"))
