"""scripts/find-python finds an interpreter on the PATH or in a version manager's folder.

The tests link their own interpreter into folders like those of version managers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.service import ROOT

VERSION = "{}.{}".format(*sys.version_info)
ABSENT = "3.99"
Find = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Runs the script; tmp_path is its HOME, and tmp_path/bin and its tools are its PATH."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("ls", "sort"):
        tool = shutil.which(name)
        assert tool
        (tools / name).symlink_to(tool)

    def run(*versions: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(tmp_path / "bin"), str(tools)])
        return subprocess.run(
            ["/bin/sh", ROOT / "scripts" / "find-python", *versions],
            env={"PATH": path, "HOME": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def install(program: Path) -> Path:
    program.parent.mkdir(parents=True)
    program.symlink_to(sys.executable)
    return program


def shim(program: Path) -> None:
    """A script like pyenv's on the PATH for a version that is not selected."""
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n")
    program.chmod(0o755)


@pytest.mark.parametrize("name", [f"python{VERSION}", "python3", "python"])
def test_an_interpreter_on_the_path_is_found(find: Find, tmp_path: Path, name: str) -> None:
    program = install(tmp_path / "bin" / name)
    install(tmp_path / f".pyenv/versions/{VERSION}.1/bin/python{VERSION}")
    found = find(VERSION)
    assert (found.returncode, found.stdout) == (0, f"{program}\n")


@pytest.mark.parametrize(
    "folder",
    [
        f".pyenv/versions/{VERSION}.0",
        f".asdf/installs/python/{VERSION}.0",
        f".local/share/mise/installs/python/{VERSION}.0",
        f".local/share/uv/python/cpython-{VERSION}.0-linux-x86_64-gnu",
    ],
)
def test_a_version_managers_folder_is_searched_if_the_path_has_only_its_failing_shim(
    find: Find, tmp_path: Path, folder: str
) -> None:
    shim(tmp_path / "bin" / f"python{VERSION}")
    program = install(tmp_path / folder / "bin" / f"python{VERSION}")
    found = find(VERSION)
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{program}\n", "")


@pytest.mark.parametrize(
    ("variable", "below"),
    [
        ("PYENV_ROOT", "versions"),
        ("ASDF_DATA_DIR", "installs/python"),
        ("MISE_DATA_DIR", "installs/python"),
        ("UV_PYTHON_INSTALL_DIR", ""),
    ],
)
def test_a_version_managers_folder_may_be_set_by_a_variable(
    find: Find, tmp_path: Path, variable: str, below: str
) -> None:
    root = tmp_path / "a custom folder"
    program = install(root / below / f"{VERSION}.0" / "bin" / f"python{VERSION}")
    assert find(VERSION, **{variable: str(root)}).stdout == f"{program}\n"


def test_the_newest_patch_release_is_chosen(find: Find, tmp_path: Path) -> None:
    programs = [
        install(tmp_path / f".pyenv/versions/{VERSION}.{patch}/bin/python{VERSION}")
        for patch in (9, 10)
    ]
    assert find(VERSION).stdout == f"{programs[1]}\n"


def test_an_interpreter_of_another_version_is_not_found_by_its_name(
    find: Find, tmp_path: Path
) -> None:
    install(tmp_path / "bin" / f"python{ABSENT}")
    install(tmp_path / f".pyenv/versions/{ABSENT}.0/bin/python{ABSENT}")
    found = find(ABSENT)
    assert (found.returncode, found.stdout) == (1, "")


def test_the_first_installed_version_of_several_is_found(find: Find, tmp_path: Path) -> None:
    program = install(tmp_path / f".pyenv/versions/{VERSION}.0/bin/python{VERSION}")
    assert find(ABSENT, VERSION).stdout == f"{program}\n"
