"""What the training scripts import from the library and the command exists.

The scripts need torch, which the tests' environment does not have: so their imports are read, and
only the imported modules of this repository are loaded.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from tests.service import ROOT

SCRIPTS = sorted((ROOT / "training").glob("*.py"))


def imported_names(source: str) -> set[tuple[str, str]]:
    """Pairs of a module of this repository and a name that is imported from it."""
    return {
        (node.module, alias.name)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        and node.module
        and node.module.partition(".")[0] in ("likeness", "console")
        for alias in node.names
    }


def test_imports_are_found() -> None:
    """Otherwise the test below would check nothing."""
    assert imported_names("import os\nfrom likeness.model import a, b\nfrom torch import nn") == {
        ("likeness.model", "a"),
        ("likeness.model", "b"),
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_name_that_a_script_imports_exists(script: Path) -> None:
    for module, name in sorted(imported_names(script.read_text())):
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
