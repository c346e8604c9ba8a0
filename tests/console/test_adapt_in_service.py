"""A running service's feedback adapts its model, and the adapted one takes over: as a user does."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import urllib3
from typer.testing import CliRunner

from console.adaptation import guards
from console.app import app
from console.client import Client
from console.local.aws import BUCKET
from console.local.data_folder import LocalService
from likeness.model import load_spec
from likeness.records import ObjectRef
from tests.console.test_commands import Local
from tests.console.test_migrate import client, migrate
from tests.labelled_pictures import PRODUCTS, view, write_products
from tests.service import BUNDLED

INDEXED = 2  # views of each product; another is a caller's photo


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, local: Local) -> Iterator[None]:
    """The command points this process at a local AWS; afterwards it is restored."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # one that knows another AWS
    before = dict(os.environ)
    os.environ |= {"COLUMNS": "200", "LIKENESS_DATA": str(local.data)}
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def products(local: Local, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the service, which nobody has told anything yet."""
    folder = write_products(tmp_path_factory.mktemp("products") / "shop", views=INDEXED)
    assert local.run("upload", folder).returncode == 0
    return folder


def adapt(*arguments: str | Path, status: int) -> str:
    """Run in this process; standard output."""
    done = CliRunner().invoke(app, ["adapt", "--feedback", *map(str, arguments)])
    assert done.exit_code == status, done
    return done.stdout if done.exception is None else f"{done.stdout} {done.exception}"


def key(product: int, number: int) -> str:
    return f"product-{product:02}/{number}.png"


def tell_what_is_right(local: Local) -> None:
    """For a photo of each product, its views in the index, wherever they are among the results."""
    running, service = LocalService.running(local.data), client(local)
    assert running is not None
    api = running.api_url
    for product in range(PRODUCTS):
        answer = service.search_image(view(product, 3), limit=50)
        for number in range(INDEXED):
            told = {
                "request_id": answer["request_id"],
                "query_id": answer["query_id"],
                "id": ObjectRef(BUCKET, key(product, number)).point_id,
                "kind": "relevant",
            }
            done = urllib3.request("POST", f"{api}/v1/feedback", json=told)
            assert done.status == 200, done.data


def rights_found(service: Client, model: str) -> int:
    """First results that are right for other photos of the products, once `model` answers."""
    deadline_s = time.monotonic() + 30
    while service.search_image(view(0, 2))["model"] != model:  # the alias is read now and then
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    answers = (service.search_image(view(n, 2), limit=1) for n in range(PRODUCTS))
    return sum(
        answer["results"][0]["key"].startswith(f"product-{number:02}/")
        for number, answer in enumerate(answers)
    )


def test_a_service_learns_from_its_feedback_without_reading_an_image_again(
    local: Local, products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "_ORIGINALS", 5)  # of which edited copies are looked for
    target = tmp_path / "models" / "mine"
    gate = ("--check", "--json", "--cache", tmp_path / "cache")
    assert "no feedback to learn from" in adapt(*gate, status=1)
    adapt(*gate, products, status=2)

    tell_what_is_right(local)
    report = json.loads(adapt(*gate, status=0))
    assert (report["outcome"], report["source"], report["products"]) == (
        "gain", "feedback", PRODUCTS,
    )  # fmt: skip
    said = adapt("--out", target, "--general", products, "--cache", tmp_path / "cache", status=0)
    assert "migrate start" in said

    old, new = load_spec(BUNDLED).fingerprint, load_spec(target).fingerprint
    migrate("start", target)
    total = PRODUCTS * INDEXED
    assert f"transformed {total} points; 0 objects were in it already" in migrate("fill")
    assert "100.0% filled" in migrate("status")
    assert "was not deployed with the new model" in migrate("switch", ok=False)
    local.stop()
    local.start()
    service = client(local)
    assert service.ready()["models"] == [old, new]
    found_before = rights_found(service, old)
    # both collections are kept up to date, and what is filled is not filled again
    late = tmp_path / "late"
    late.mkdir()
    (late / "late.png").write_bytes(view(PRODUCTS, 0))
    assert local.run("upload", late).returncode == 0
    assert f"transformed 0 points; {total + 1} objects were in it already" in migrate("fill")
    migrate("compare", "--sample", "20")
    assert f"searches are answered by model {new}" in migrate("switch")
    assert rights_found(service, new) >= found_before
    assert f"searches are answered by model {old}" in migrate("rollback")
    assert rights_found(service, old) == found_before
    migrate("switch")
    assert f"the collection of model {old} was dropped" in migrate("finish", "--yes")
    assert rights_found(service, new) >= found_before
