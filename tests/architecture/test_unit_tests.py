"""tests/unit mirrors the library: a test file begins with the name of the module that it tests."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "shared" / "likeness"


def test_every_unit_test_names_a_module_or_a_package_of_the_library() -> None:
    """`test_images_hostile_files.py` tests images.py, `test_rerank.py` the package rerank."""
    modules = {path.stem for path in LIBRARY.rglob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in LIBRARY.rglob("*/__init__.py")}
    names = modules | packages
    strangers = [
        path.name
        for path in (ROOT / "tests" / "unit").glob("test_*.py")
        if not any(f"{path.stem}_".startswith(f"test_{name}_") for name in names)
    ]
    assert strangers == []
