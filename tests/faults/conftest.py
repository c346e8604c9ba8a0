"""All fault tests share one local AWS, one Qdrant and one process of each function."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.service import Bucket, Functions
from tests.indexes import empty_on_server


@pytest.fixture(scope="session")
def functions(aws: str) -> Iterator[Functions]:
    with empty_on_server() as qdrant:
        if not qdrant.url.startswith("http:"):
            pytest.skip("the proxy that disturbs connections to Qdrant has no TLS")
        functions = Functions(aws, qdrant)
        yield functions
        functions.close()


@pytest.fixture
def bucket(functions: Functions) -> Iterator[Bucket]:
    bucket = Bucket(functions)
    yield bucket
    bucket.close()
