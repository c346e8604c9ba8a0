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
from console.bundles.publishing import publish_next_layer
from console.client import Client, ServiceError
from console.local.aws import ministack, use_aws
from console.local.data_folder import LocalService
from console.local.index_sharing import RunningIndex
from console.migration import lifecycle
from likeness.errors import IndexUnavailable, LikenessError
from likeness.model import load_golden, load_spec
from likeness.records import ObjectRef, Point, State, Version
from tests.console.test_commands import Local
from tests.indexes import IndexAddress
from tests.pictures import jpeg
from tests.service import BUNDLED, FIXED_FILTERS


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command points this process at a local AWS; afterwards it is restored."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # one that knows another AWS
    before = dict(os.environ)
    os.environ["COLUMNS"] = "200"
    yield
    os.environ.clear()
    os.environ.update(before)


def migrate(*arguments: str | Path, ok: bool = True) -> str:
    """Run in this process, because a new one takes seconds to load; the output as one line."""
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


def test_a_model_is_changed_back_and_finally_changed(local: Local, tmp_path: Path) -> None:
    old, new = load_spec(BUNDLED).fingerprint, load_spec(FIXED_FILTERS).fingerprint
    os.environ["LIKENESS_DATA"] = str(local.data)
    for seed in range(6):
        (tmp_path / f"{seed}.jpg").write_bytes(jpeg(seed))
    assert "no migration is under way" in migrate("status", ok=False)
    assert local.run("upload", tmp_path).returncode == 0

    said = migrate("start", FIXED_FILTERS)
    assert f"from model {old} to fixed-filters {new}" in said
    assert "stop `likeness serve`" in said
    said = migrate("switch", ok=False)
    assert "only 0.0% of the objects" in said and "was not deployed with the new model" in said

    local.stop()
    local.start()
    assert client(local).ready()["models"] == [old, new]
    migrate("fill")
    while "100.0% filled: 6 of 6 objects, 0 remain" not in (said := migrate("status")):
        assert "wait; if the number no longer changes" in said
    said = migrate("compare", "--sample", "6")
    assert (
        "share of the 10 nearest that both models return: 1.000" in said
    )  # six pictures have five others
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


def test_the_index_answers_only_callers_with_the_key(local: Local) -> None:
    service = LocalService.running(local.data)
    assert service is not None
    assert (local.data / "service.json").stat().st_mode & 0o077 == 0
    assert RunningIndex(service.index_port, service.index_key.encode()).models()
    with pytest.raises(IndexUnavailable):
        RunningIndex(service.index_port, b"another").models()
    assert RunningIndex(service.index_port, service.index_key.encode()).models()


def test_without_a_service_or_an_index_the_error_names_the_settings(tmp_path: Path) -> None:
    assert "name your index with QDRANT_URL" in migrate("status", "--data", tmp_path, ok=False)


def test_an_index_of_another_bucket_is_named_and_left_alone(
    qdrant: IndexAddress, tmp_path: Path
) -> None:
    old, new = load_spec(BUNDLED), load_spec(FIXED_FILTERS)
    index = qdrant.open()
    index.prepare(old.fingerprint, old.embedding.dim)
    point = Point(ObjectRef("theirs", "a.jpg"), State.GONE, Version(1), old.fingerprint, 5.0)
    index.write(old.fingerprint, [point])
    lifecycle.begin(index, new, str(FIXED_FILTERS), keep_patches=False)
    os.environ |= {**qdrant.env, "LIKENESS_BUCKET": "mine"}
    os.environ |= {"LIKENESS_QUEUE_URL": "http://unused", "LIKENESS_DATA": str(tmp_path)}
    steps = {"start": [FIXED_FILTERS], "switch": ["--force"], "finish": ["--yes"]}
    for step in ("start", "fill", "status", "compare", "switch", "rollback", "finish"):
        said = migrate(step, *steps.get(step, []), ok=False)
        assert f"index alias {qdrant.alias} at {qdrant.url}, images of s3://mine" in said
        assert "holds images of s3://theirs and none of s3://mine" in said
    assert (index.info().model, len(index.models())) == (old.fingerprint, 2)
    os.environ.pop("LIKENESS_BUCKET")
    assert "LIKENESS_BUCKET is not set" in migrate("switch", "--force", ok=False)
    os.environ["LIKENESS_BUCKET"] = "theirs"
    said = migrate("switch", "--force")
    assert f"switched searches are answered by model {new.fingerprint}" in said
    index.close()


def test_a_broken_bundle_is_not_started(local: Local, tmp_path: Path) -> None:
    broken = shutil.copytree(FIXED_FILTERS, tmp_path / "broken")
    (broken / "image.onnx").write_bytes(b"no network")
    said = migrate("start", broken, "--data", local.data, ok=False)
    assert "damaged or was replaced" in said


def test_a_bundle_becomes_a_layer(tmp_path: Path) -> None:
    spec = load_spec(BUNDLED)
    with ministack(tmp_path, "s3,lambda") as url:
        use_aws(url)
        boto3.client("s3").create_bucket(Bucket="staging")
        for staging in (None, ("staging", "layers/")):
            arn = publish_next_layer(BUNDLED, spec, "next-model", staging)
            assert re.fullmatch(r"arn:aws:lambda:us-east-1:\d+:layer:next-model:\d+", arn)
            where = boto3.client("lambda").get_layer_version_by_arn(Arn=arn)["Content"]["Location"]
            with urllib.request.urlopen(where) as layer:
                archive = zipfile.ZipFile(io.BytesIO(layer.read()))
            names = ("calibration.json", "golden.json", "image.onnx", "model.json")
            assert sorted(archive.namelist()) == [f"next-model/{name}" for name in names]
            archive.extractall(tmp_path)
            assert load_golden(tmp_path / "next-model", spec).model == spec.fingerprint
