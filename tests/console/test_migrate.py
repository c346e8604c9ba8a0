"""`likeness migrate` as a user runs it: a real service, stopped once to load the second model."""

from __future__ import annotations

import io
import os
import re
import shutil
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from typer.testing import CliRunner

from console.app import app
from console.bundles import packaging
from console.client import Client, ServiceError
from console.local import runner as local_service
from console.local.index_sharing import RunningIndex
from console.local.runner import LocalService
from likeness.errors import IndexUnavailable, LikenessError
from likeness.model import load_golden, load_spec
from tests.console.test_commands import Local
from tests.pictures import jpeg
from tests.service import BUNDLED, FIXED_FILTERS


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    local = Local(tmp_path_factory.mktemp("data") / "likeness")
    local.start()
    yield local
    if local.process:
        local.stop()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command points this process at a local AWS; afterwards it is as it was."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # one that knows another AWS
    before = dict(os.environ)
    os.environ["COLUMNS"] = "200"
    yield
    os.environ.clear()
    os.environ.update(before)


def migrate(*arguments: str | Path, ok: bool = True) -> str:
    """Here, not in a process of its own, which takes seconds to load; what it said, as one line."""
    done = CliRunner().invoke(app, ["migrate", *map(str, arguments)])
    assert (done.exit_code == 0) is ok, done
    said = done.output
    if isinstance(done.exception, LikenessError | RuntimeError | ServiceError):
        said += str(done.exception)
    return " ".join(said.split())


def client(local: Local) -> Client:
    service = LocalService.running(local.data)
    assert service is not None
    return Client(service.api_url)


def test_a_model_is_changed_and_back_and_for_good(local: Local, tmp_path: Path) -> None:
    old, new = load_spec(BUNDLED).fingerprint, load_spec(FIXED_FILTERS).fingerprint
    os.environ["LIKENESS_DATA"] = str(local.data)
    for seed in range(6):
        (tmp_path / f"{seed}.jpg").write_bytes(jpeg(seed))
    assert "no migration is under way" in migrate("status", ok=False)
    assert local.run("index", tmp_path).returncode == 0

    said = migrate("start", FIXED_FILTERS)
    assert f"from model {old} to fixed-filters {new}" in said
    assert "stop `likeness serve`" in said
    said = migrate("switch", ok=False)
    assert "only 0.0% of the objects" in said and "was not deployed with it" in said

    local.stop()
    local.start()
    assert client(local).ready()["models"] == [old, new]
    migrate("fill")
    while "100.0% filled: 6 of 6 objects, 0 remain" not in (said := migrate("status")):
        assert "wait, or `likeness migrate fill`" in said
    said = migrate("compare", "--sample", "6")
    assert "of the 10 nearest, both models name 1.000" in said  # six pictures have five others
    assert re.search(r"old model \d\.\d+ \[.*\] new model \d\.\d+ \[", said)

    assert f"searches are answered by model {new}" in migrate("switch")
    assert "migrate rollback" in migrate("status")
    assert f"searches are answered by model {old}" in migrate("rollback")
    migrate("switch")
    said = migrate("finish", "--yes")
    assert f"the collection of model {old} was dropped" in said
    assert f"LIKENESS_MODEL_DIR={FIXED_FILTERS} likeness serve" in said
    found = client(local).search(key="3.jpg")
    assert (found["model"], found["results"][0]["score"] > 0) == (new, True)


def test_only_who_has_the_key_reaches_the_index(local: Local) -> None:
    service = LocalService.running(local.data)
    assert service is not None
    assert (local.data / "service.json").stat().st_mode & 0o077 == 0
    assert RunningIndex(service.index_port, service.index_key.encode()).models()
    with pytest.raises(IndexUnavailable):
        RunningIndex(service.index_port, b"another").models()
    assert RunningIndex(service.index_port, service.index_key.encode()).models()


def test_without_a_service_or_an_index_it_says_what_to_set(tmp_path: Path) -> None:
    assert "name the index of yours with QDRANT_URL" in migrate(
        "status", "--data", tmp_path, ok=False
    )


def test_a_broken_bundle_is_not_started(local: Local, tmp_path: Path) -> None:
    broken = shutil.copytree(FIXED_FILTERS, tmp_path / "broken")
    (broken / "image.onnx").write_bytes(b"no network")
    said = migrate("start", broken, "--data", local.data, ok=False)
    assert "damaged or was replaced" in said


def test_a_bundle_becomes_a_layer(tmp_path: Path) -> None:
    spec = load_spec(BUNDLED)
    with local_service.ministack(tmp_path, "s3,lambda") as url:
        local_service.use_aws(url)
        boto3.client("s3").create_bucket(Bucket="staging")
        for staging in (None, ("staging", "layers/")):
            arn = packaging.as_next_layer(BUNDLED, spec, "next-model", staging)
            assert re.fullmatch(r"arn:aws:lambda:us-east-1:\d+:layer:next-model:\d+", arn)
            where = boto3.client("lambda").get_layer_version_by_arn(Arn=arn)["Content"]["Location"]
            with urllib.request.urlopen(where) as layer:
                archive = zipfile.ZipFile(io.BytesIO(layer.read()))
            names = ("calibration.json", "golden.json", "image.onnx", "model.json")
            assert sorted(archive.namelist()) == [f"next-model/{name}" for name in names]
            archive.extractall(tmp_path)
            assert load_golden(tmp_path / "next-model", spec).model == spec.fingerprint
