"""All fault tests share one local AWS, one Qdrant and one process of each function."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import qdrant_server
from tests.faults.service import Bucket, Functions


@pytest.fixture(scope="session")
def functions(aws: str) -> Iterator[Functions]:
    server = qdrant_server.start()
    functions = Functions(aws, qdrant_server.url_of(server))
    yield functions
    functions.close()
    server.shutdown()
    server.server_close()


@pytest.fixture
def bucket(functions: Functions) -> Iterator[Bucket]:
    bucket = Bucket(functions)
    yield bucket
    bucket.close()
