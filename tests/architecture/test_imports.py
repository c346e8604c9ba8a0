"""Importing costs nothing and touches nothing: only composition roots read the environment."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import console
import functions
import likeness

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = sorted((ROOT / "functions").glob("*/app.py"))
COMPOSITION_ROOTS = {
    *(f"functions.{file.parent.name}.app" for file in ENTRY_POINTS),
    "console.local.functions",  # imports two of them, for the local service
}
MODULES = [
    module.name
    for package in (likeness, functions, console)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if module.name not in COMPOSITION_ROOTS
]


@pytest.mark.parametrize("group", range(4))
def test_every_module_imports_with_an_empty_environment(group: int, tmp_path: Path) -> None:
    code = "import socket; socket.create_connection = None\n" + "".join(
        f"import {name}\n" for name in MODULES[group::4]
    )
    environment = {"PYTHONPATH": f"{ROOT / 'shared'}:{ROOT}", "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, check=False, env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_entry_points_only_wire() -> None:
    assert len(ENTRY_POINTS) == 6
    assert all(len(file.read_text().splitlines()) < 50 for file in ENTRY_POINTS)
