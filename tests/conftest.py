"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import lambda_runtime


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    """The endpoint of a local S3 and Secrets Manager, shared: each test makes its own bucket."""
    with lambda_runtime.local_aws() as url:
        yield url
