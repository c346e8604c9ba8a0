"""A running service's feedback adapts its model, and the adapted one takes over: as a user does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
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


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    local = Local(tmp_path_factory.mktemp("data") / "likeness")
    local.start()
    yield local
    if local.process:
        local.stop()


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


def tell_what_is_right(service: Client) -> None:
    """For a photo of each product, its views in the index, wherever they are among the results."""
    for product in range(PRODUCTS):
        answer = service.search_image(view(product, 3), limit=50)
        for number in range(INDEXED):
            service._call(
                "POST",
                "/v1/feedback",
                json.dumps(
                    {
                        "request_id": answer["request_id"],
                        "query_id": answer["query_id"],
                        "id": ObjectRef(BUCKET, key(product, number)).point_id,
                        "kind": "relevant",
                    }
                ).encode(),
                {"content-type": "application/json"},
            )


def test_a_service_learns_from_its_feedback_without_reading_an_image_again(
    local: Local, products: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "_ORIGINALS", 5)  # of which edited copies are looked for
    service, target = client(local), tmp_path / "models" / "mine"
    gate = ("--check", "--json", "--cache", tmp_path / "cache")
    assert "no feedback to learn from" in adapt(*gate, status=1)
    adapt(*gate, products, status=2)

    tell_what_is_right(service)
    report = json.loads(adapt(*gate, status=0))
    assert (report["outcome"], report["source"], report["products"]) == (
        "gain", "feedback", PRODUCTS,
    )  # fmt: skip
    said = adapt(
        "--out", target, "--general", products, "--cache", tmp_path / "cache", status=0
    )
    assert "migrate start" in said

    old, new = load_spec(BUNDLED).fingerprint, load_spec(target).fingerprint
    before = service.search_image(view(0, 3), limit=50)
    migrate("start", target)
    total = PRODUCTS * INDEXED
    assert f"transformed {total} points; 0 objects were in it already" in migrate("fill")
    assert "100.0% filled" in migrate("status")
    assert "was not deployed with the new model" in migrate("switch", ok=False)
    local.stop()
    local.start()
    service = client(local)
    assert service.ready()["models"] == [old, new]
    # both collections are kept up to date, and what is filled is not filled again
    late = tmp_path / "late"
    late.mkdir()
    (late / "late.png").write_bytes(view(0, 3))
    assert local.run("upload", late).returncode == 0
    assert f"transformed 0 points; {total + 1} objects were in it already" in migrate("fill")
    migrate("compare", "--sample", "20")
    assert f"searches are answered by model {new}" in migrate("switch")
    found = service.search_image(view(0, 3), limit=50)
    assert f"searches are answered by model {old}" in migrate("rollback")
    again = client(local).search_image(view(0, 3), limit=50)
    assert (found["model"], again["model"]) == (new, old)
    migrate("switch")
    assert f"the collection of model {old} was dropped" in migrate("finish", "--yes")
    final = client(local).search_image(view(0, 3), limit=50)
    assert final["model"] == new
    assert [r["key"] for r in before["results"]]
