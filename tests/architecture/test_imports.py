"""Importing costs nothing and touches nothing: only the functions' app.py reads the environment."""

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
MODULES = [
    module.name
    for package in (likeness, functions, console)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not (module.name.startswith("functions.") and module.name.endswith(".app"))
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
    entry_points = list((ROOT / "functions").glob("*/app.py"))
    assert len(entry_points) == 6
    assert all(len(file.read_text().splitlines()) < 50 for file in entry_points)
