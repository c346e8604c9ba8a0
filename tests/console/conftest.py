"""A local service of a test module's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.console.test_commands import Local


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    local = Local(tmp_path_factory.mktemp("data") / "likeness")
    local.start()
    yield local
    if local.process:
        local.stop()
