"""The wheel, built and installed into an environment of its own, works from an empty folder.

Its dependencies are those of the environment that runs the tests, so that nothing is downloaded.
`make test-wheel` installs them too, on another Python, and runs the demo.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from console.local.data_folder import LocalService
from tests.pictures import jpeg

ROOT = Path(__file__).parents[1]
SOURCES = ["pyproject.toml", "README.md", "LICENSE", "shared", "functions", "console"]
SHIPPED = {".py", ".typed", ".html", ".css", ".js", ".svg", ".json", ".onnx"}
# An environment that has the wheel and its dependencies already.
INSTALLED = os.environ.get("LIKENESS_WHEEL_ENVIRONMENT")
# Nothing here leads to the repository or to a service that runs on this machine.
ENVIRONMENT = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    completed = subprocess.run(
        command,
        cwd=cwd,
        env={**ENVIRONMENT, "NO_PROXY": "*", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools writes into the source folder."""
    copy, out = (tmp_path_factory.mktemp(name) for name in ("sources", "dist"))
    for name in [*SOURCES, "layers/model"]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    run(sys.executable, "-c", build, cwd=copy)
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def binaries(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the installed `likeness` and its Python."""
    if INSTALLED:
        return Path(INSTALLED).resolve() / "bin"
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", environment, cwd=environment)
    install = ["-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--no-deps"]
    run(environment / "bin" / "python", *install, wheel, cwd=environment)
    [packages] = environment.glob("lib/python3*/site-packages")
    # A plain line adds the folder only: its .pth files, which lead to the repository, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


@pytest.fixture(scope="module")
def served(
    binaries: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, LocalService]]:
    """The installed service, and the folder that it runs in, which was empty."""
    folder = tmp_path_factory.mktemp("empty")
    with subprocess.Popen(
        [binaries / "likeness", "serve", "--port", "0"],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            assert any("Ctrl-C" in line for line in process.stdout)  # the last line at the start
            service = LocalService.running(folder / ".likeness")
            assert service
            yield folder, service
        finally:
            process.terminate()


def test_only_our_own_packages_are_installed(wheel: Path) -> None:
    top_level = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    packages = {top for top in top_level if not top.endswith(".dist-info")}
    assert packages == {"likeness", "likeness_console", "likeness_functions"}


def test_what_writes_to_a_server_is_an_extra_that_the_command_includes(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        [name] = [name for name in files.namelist() if name.endswith("/METADATA")]
        metadata = files.read(name).decode().splitlines()
    needed = [line.removeprefix("Requires-Dist: ") for line in metadata if "Requires-Dist" in line]
    plain = {re.split(r"[<>=!~ ;\[]", line)[0] for line in needed if "extra ==" not in line}
    assert "msgspec" in plain and not plain & {"httpx", "qdrant-client"}
    assert {line.partition(";")[0] for line in needed if 'extra == "index"' in line} >= {
        "httpx>=0.28",
        "qdrant-client>=1.20",
    }
    assert 'likeness[index]; extra == "local"' in needed


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    """A new package that pyproject.toml does not list would be left out."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    names = set(zipfile.ZipFile(wheel).namelist())
    for package, folder in settings["package-dir"].items():
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in SHIPPED and "__pycache__" not in file.parts:
                assert f"{package.replace('.', '/')}/{file.relative_to(ROOT / folder)}" in names
    assert "likeness/py.typed" in names


def test_the_installed_package_runs_and_not_the_repository(binaries: Path, tmp_path: Path) -> None:
    code = "import likeness, likeness_console as c; print(likeness.__file__, c.__file__)"
    assert str(ROOT) not in run(binaries / "python", "-c", code, cwd=tmp_path)


def test_the_installed_service_has_its_page(served: tuple[Path, LocalService]) -> None:
    _, service = served
    with urlopen(f"{service.api_url}/", timeout=30) as page:
        assert b"<title>" in page.read()


def test_an_image_is_uploaded_and_found_by_the_installed_command(
    served: tuple[Path, LocalService], binaries: Path
) -> None:
    folder, _ = served
    (folder / "photos").mkdir()
    for n in range(3):
        (folder / "photos" / f"{n}.jpg").write_bytes(jpeg(n))
    run(binaries / "likeness", "upload", "photos", cwd=folder)
    found = run(binaries / "likeness", "search", "photos/1.jpg", cwd=folder, COLUMNS="120")
    assert "1.jpg" in found


def test_another_service_is_searched_by_its_url(
    served: tuple[Path, LocalService], binaries: Path, tmp_path: Path
) -> None:
    _, service = served
    (tmp_path / "photo.jpg").write_bytes(jpeg(1))
    command = [binaries / "likeness", "search", "photo.jpg"]
    assert "model" in run(*command, cwd=tmp_path, LIKENESS_URL=service.api_url)


@pytest.mark.skipif(not INSTALLED, reason="the demo of the wheel: `make test-wheel` runs it")
def test_the_demo_runs_in_an_empty_folder(binaries: Path, tmp_path: Path) -> None:
    assert "checks right" in run(binaries / "likeness", "demo", cwd=tmp_path)
