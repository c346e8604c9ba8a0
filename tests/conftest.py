"""Fixtures for more than one folder of tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import lambda_runtime
from tests.tls_server import Keys

# In a new checkout the first text that is drawn takes seconds: Hypothesis tabulates Unicode for it.
settings.register_profile("likeness", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("likeness")


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    """The endpoint of a shared local AWS; each test creates its own buckets and event buses."""
    with lambda_runtime.local_aws() as url:
        yield url


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    if not shutil.which("openssl"):
        pytest.skip("needs the openssl command for the server's certificate")
    return Keys(tmp_path_factory.mktemp("keys"))
