"""The library holds only what runs in Lambda: it is shipped with every function.

What the command, the training or the benchmarks use alone belongs in console/, where it makes no
cold start slower and no layer larger.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "shared" / "likeness"
ENTRY_POINTS = [
    f"functions.{file.parent.name}.app" for file in sorted((ROOT / "functions").glob("*/app.py"))
]
# Public names that no other code of the library or the functions uses, each with its reason.
ALLOWED = {
    "likeness.embedding.Network": "only likeness.embedding may import onnxruntime",
}


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Each module of the library and the functions with its syntax tree."""
    for root, folder in ((ROOT / "shared", LIBRARY), (ROOT, ROOT / "functions")):
        for file in sorted(folder.rglob("*.py")):
            yield module_name(file, root), ast.parse(file.read_text())


def definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The public functions and classes at the top of a module."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def names_outside(tree: ast.Module, definition: ast.AST) -> set[str]:
    """Names that a module uses outside one of its definitions."""
    return {
        node.id
        for statement in tree.body
        if statement is not definition
        for node in ast.walk(statement)
        if isinstance(node, ast.Name)
    }


def imported_names(tree: ast.Module) -> set[str]:
    """“module.name” for each name that is imported, and for each attribute of an imported module.

    Import statements inside functions count too.
    """
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    attributes = {
        f"{imported[node.value.id]}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in imported
    }
    return {*imported.values(), *attributes}


def test_every_module_of_the_library_is_imported_by_an_entry_point() -> None:
    graph = grimp.build_graph(
        "likeness", "functions", cache_dir=None, exclude_type_checking_imports=True
    )
    assert len(ENTRY_POINTS) == 6
    imported = set[str]().union(*(graph.find_upstream_modules(name) for name in ENTRY_POINTS))
    modules = {module_name(file, ROOT / "shared") for file in LIBRARY.rglob("*.py")}
    packages = {name for name in modules if any(m.startswith(f"{name}.") for m in modules)}
    assert modules - packages - imported == set()


def test_every_public_name_of_the_library_is_used_by_it_or_by_a_function() -> None:
    trees = dict(sources())
    imported = {name for tree in trees.values() for name in imported_names(tree)}
    unused = {
        f"{module}.{definition.name}"
        for module, tree in trees.items()
        if module.startswith("likeness")
        for definition in definitions(tree)
        if f"{module}.{definition.name}" not in imported
        and definition.name not in names_outside(tree, definition)
    }
    assert unused == ALLOWED.keys()
