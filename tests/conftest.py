"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests import lambda_runtime
from tests.tls_server import Keys


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    """The endpoint of a local AWS, shared: each test makes buckets and buses of its own."""
    with lambda_runtime.local_aws() as url:
        yield url


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command, which makes the server's certificate")
    return Keys(tmp_path_factory.mktemp("keys"))
