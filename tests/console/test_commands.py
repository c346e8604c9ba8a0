"""The `likeness` command as a user runs it: a real service in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3
from PIL import Image

from console.local.data_folder import LocalService
from tests.fault_server import closed_port
from tests.lambda_runtime import client
from tests.pictures import jpeg, png, textured

LIKENESS = (sys.executable, "-c", "from console.app import main; main()")
COMMANDS = (
    "serve", "demo", "drop", "doctor", "upload", "backfill", "search", "compare", "status",
    "reconcile",
    "evaluate", "calibrate", "explain", "cost", "model", "migrate",
)  # fmt: skip


class Local:
    """A data folder, and the service over it while one is running."""

    def __init__(self, data: Path, *options: str) -> None:
        """`options` are further ones of `likeness serve`."""
        self.data = data
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ("--port", "0", "--schema", '{"brand": "keyword"}', *self.options)
        self.process = subprocess.Popen(
            [*LIKENESS, "serve", "--data", self.data, *options], stdout=subprocess.DEVNULL
        )
        deadline_s = time.monotonic() + 60
        while (running := LocalService.running(self.data)) is None or (
            running.pid != self.process.pid
        ):
            assert self.process.poll() is None and time.monotonic() < deadline_s
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        status = self.process.wait(30)
        self.process = None
        return status

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return run(*arguments, "--data", self.data)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.run(
        [*LIKENESS, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "sub dir").mkdir()
    for seed in range(4):
        (folder / "sub dir" / f"{seed} ü+.png").write_bytes(png(seed))
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not uploaded")
    (folder / "query.jpg").write_bytes(jpeg(2))
    return folder


def test_without_arguments_it_teaches() -> None:
    said = run()
    assert said.returncode in (0, 2)
    for command in COMMANDS:
        assert command in said.stdout
        assert "Usage" in run(command, "--help").stdout


def test_a_folder_becomes_searchable_and_rejects_are_listed(local: Local, folder: Path) -> None:
    done = local.run("upload", folder, "--meta", "brand=acme")
    assert done.returncode == 0, done.stderr
    assert "5 searchable, 1 rejected" in done.stdout
    assert "not-an-image" in done.stdout


def test_uploading_again_changes_nothing(local: Local, folder: Path) -> None:
    before = json.loads(local.run("status", "query.jpg", "--json").stdout)
    done = local.run("upload", folder, "--meta", "brand=acme")
    assert "5 searchable, 1 rejected" in done.stdout
    assert json.loads(local.run("status", "query.jpg", "--json").stdout) == before


def test_a_photo_finds_its_copies(local: Local, folder: Path) -> None:
    answer = found(local.run("search", folder / "query.jpg", "--json"))
    assert [result["key"] for result in answer["results"]][:2] == ["query.jpg", "sub dir/2 ü+.png"]
    assert answer["results"][0]["payload"]["brand"] == "acme"
    by_id = found(local.run("search", answer["results"][0]["id"], "--limit", "1", "--json"))
    assert [result["key"] for result in by_id["results"]] == ["sub dir/2 ü+.png"]
    table = local.run("search", folder / "query.jpg", "--limit", "1")
    for shown in ("query.jpg", "exact 100 %", "brand=acme"):
        assert shown in table.stdout


def test_two_images_are_compared_by_file_id_and_key(local: Local, folder: Path) -> None:
    file, key = folder / "query.jpg", "sub dir/2 ü+.png"
    answer = found(local.run("compare", file, key, "--key", "--json"))
    assert (answer["verdict"], answer["rests_on"]) == ("copy", "pixels")
    image_id = found(local.run("search", file, "--limit", "1", "--json"))["results"][0]["id"]
    said = local.run("compare", file, image_id)
    assert said.returncode == 0, said.stderr
    for shown in (f"{file} (file)", f"{image_id} (id)", "exact 100 %", "equal files"):
        assert shown in said.stdout
    refused = local.run("compare", folder / "broken.jpg", file)
    assert refused.returncode == 1
    assert "first: no image signature" in refused.stderr


def test_files_that_no_request_can_carry_are_reduced(local: Local, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1100, 1900, 3), np.uint8)
    image = Image.fromarray(noise)
    image.paste(textured(3, 1600, 900))
    image.save(tmp_path / "large.png")
    image.save(tmp_path / "large.bmp")
    answer = found(local.run("compare", tmp_path / "large.png", tmp_path / "large.bmp", "--json"))
    assert answer["verdict"] in {"exact", "copy"}


def test_an_answer_of_the_local_service_is_explained(local: Local, folder: Path) -> None:
    answer = found(local.run("search", folder / "query.jpg", "--limit", "1", "--json"))
    shown, request = answer["results"][0]["id"], answer["request_id"]
    said = local.run("explain", request, "--image", shown)
    assert said.returncode == 0, said.stderr
    assert f"{shown}: shown at rank 1" in said.stdout
    assert "on another page than this one (limit 1, offset 0)" in said.stdout
    [line] = json.loads(local.run("explain", request, "--json").stdout)
    assert line["shown"][0]["id"] == shown
    assert local.run("explain", "0" * 32).returncode == 1


def test_filters_reach_the_service(local: Local, folder: Path) -> None:
    wanted = '{"must": [{"key": "brand", "match": {"value": "other"}}]}'
    answer = found(local.run("search", folder / "query.jpg", "--filter", wanted, "--json"))
    assert answer["results"] == []
    refused = local.run("search", folder / "query.jpg", "--filter", wanted.replace("brand", "x"))
    assert refused.returncode == 1
    assert "'x' is not a declared key" in refused.stderr


def test_a_backfilled_prefix_becomes_searchable(local: Local) -> None:
    service = json.loads((local.data / "service.json").read_text())
    done = local.run("backfill", f"s3://{service['bucket']}/sub dir/")
    assert done.returncode == 0, done.stderr
    assert "4 searchable, 0 rejected" in done.stdout


def test_an_object_whose_event_was_lost_is_found_by_reconcile(local: Local) -> None:
    service = json.loads((local.data / "service.json").read_text())
    s3 = client("s3", service["aws_url"])
    told = s3.get_bucket_notification_configuration(Bucket=service["bucket"])
    told.pop("ResponseMetadata")
    s3.put_bucket_notification_configuration(Bucket=service["bucket"], NotificationConfiguration={})
    s3.put_object(Bucket=service["bucket"], Key="lost ü+.png", Body=png(40))
    s3.put_bucket_notification_configuration(
        Bucket=service["bucket"], NotificationConfiguration=told
    )
    assert local.run("reconcile", "--dry-run").returncode == 0  # its event may be under way
    only = local.run("reconcile", "--dry-run", "--lag", "0")
    assert only.returncode == 1, only.stderr
    assert "lost ü+.png" in only.stdout and "nothing was changed" in only.stdout
    sent = found(local.run("reconcile", "--lag", "0", "--json"))
    assert sent["differences"] == [{"key": "lost ü+.png", "kind": "missing"}]
    deadline_s = time.monotonic() + 60
    while local.run("status", "lost ü+.png").returncode:
        assert time.monotonic() < deadline_s
    assert local.run("reconcile", "--dry-run", "--lag", "0").returncode == 0
    s3.delete_object(Bucket=service["bucket"], Key="lost ü+.png")
    s3.close()


def test_a_browser_may_upload_from_the_page_to_the_bucket(local: Local) -> None:
    service = LocalService.running(local.data)
    assert service
    http = urllib3.PoolManager(retries=False)

    def get(path: str) -> Any:
        return http.request("GET", f"{service.api_url}/v1/{path}").json()

    wanted = {"content_type": "image/png", "metadata": {"brand": "acme"}}
    ticket = http.request("POST", f"{service.api_url}/v1/uploads", json=wanted).json()
    assert ticket["url"].startswith(get("config")["bucket_origin"] + "/")
    page = {"origin": service.api_url}
    # what a browser asks before it sends a form whose progress is watched
    asked = http.request(
        "OPTIONS", ticket["url"], headers={**page, "access-control-request-method": "POST"}
    )
    form = {**ticket["fields"], "file": ("a.png", png(77), "image/png")}
    sent = http.request("POST", ticket["url"], fields=form, headers=page)
    for answer in (asked, sent):
        assert answer.status in (200, 204)
        assert answer.headers["access-control-allow-origin"] == "*"
    deadline_s = time.monotonic() + 60
    while get(ticket["status_url"].removeprefix("/v1/"))["state"] != "live":
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    thumbnail = http.request("GET", f"{service.api_url}/v1/images/{ticket['id']}/thumbnail")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    http.clear()


def test_status_says_why_something_is_not_live(local: Local) -> None:
    said = local.run("status", "broken.jpg")
    assert said.returncode == 1
    assert "rejected" in said.stdout and "no image signature" in said.stdout
    assert "absent" in local.run("status", "nowhere.jpg").stdout


def test_doctor_reports_a_healthy_service(local: Local) -> None:
    said = local.run("doctor")
    assert said.returncode == 0, said.stdout + said.stderr
    for subject in ("versions", "model", "service", "index", "bucket", "queue"):
        assert f"ok    {subject}" in said.stdout


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_lost_when_the_service_stops_or_is_killed(
    local: Local, folder: Path, how: signal.Signals
) -> None:
    local.stop(how)
    said = local.run("search", folder / "query.jpg")
    assert said.returncode == 1
    assert "likeness serve" in said.stderr
    local.start()
    answer = found(local.run("search", folder / "query.jpg", "--json"))
    assert answer["results"][0]["key"] == "query.jpg"
    assert "5 searchable, 1 rejected" in local.run("upload", folder, "--meta", "brand=acme").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("search", "nowhere.jpg"), "neither a file nor an id"),
        (("search", "README.md", "--filter", "{"), "not JSON"),
        (("compare", "README.md", "nowhere.jpg"), "nowhere.jpg is neither a file nor an id"),
        (("compare", "README.md"), "Missing argument"),
        (("upload", "nowhere"), "there is no file or folder"),
        (("upload", "events"), "contains no images"),
        (("upload", "README.md", "--meta", "ü=1"), "ASCII"),
        (("upload", "README.md", "--meta", "brand"), "name=value"),
        (("upload", "s3://photos/"), "use `likeness backfill`"),
        (("upload", "events", "--dry-run"), "No such option"),
        (("backfill", "s3://"), "write s3://bucket/prefix"),
        (("backfill", "events"), "use `likeness upload`"),
        (("backfill", "s3://photos", "--meta", "a=b"), "No such option"),
        (("search", "README.md", "--url", "nowhere"), "http://"),
        (("status",), "Missing argument"),
        (("serve", "--schema", '{"brand": "colour"}', "--port", "0"), "colour"),
    ],
)
def test_mistakes_get_one_clear_line(
    local: Local, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    data = tmp_path if arguments[0] == "serve" else local.data
    done = run(*arguments, "--data", data)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("folder",), ("s3://photos/", "--dry-run"), ("--anyway",), ("--help",), ()]
)
def test_index_names_the_two_commands_that_replace_it(arguments: tuple[str, ...]) -> None:
    done = run("index", *arguments)
    assert done.returncode == 2
    assert "`likeness upload FOLDER`" in done.stderr
    assert "`likeness backfill s3://bucket/prefix`" in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_help_and_version_load_neither_networks_nor_aws_nor_arrays() -> None:
    code = (
        "import sys; import console.app; "
        "print([m for m in ('numpy', 'boto3', 'onnxruntime', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_service_that_does_not_answer_is_reported_at_once(tmp_path: Path) -> None:
    start_s = time.monotonic()
    done = run("search", "README.md", "--url", closed_port(), "--data", tmp_path)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert time.monotonic() - start_s < 20


def test_a_second_service_on_the_same_data_is_refused_and_harms_nothing(
    local: Local, folder: Path
) -> None:
    done = local.run("serve", "--port", "0")
    assert done.returncode == 1
    assert "stop it with Ctrl-C there" in done.stderr
    assert "rejected" in local.run("upload", folder, "--meta", "brand=acme").stdout


def test_the_doctor_checks_the_model_without_any_service(tmp_path: Path) -> None:
    said = run("doctor", "--data", tmp_path)
    assert said.returncode == 1
    assert "no local service is running" in said.stdout
    assert "likeness-small" in said.stdout


def test_the_demo_needs_a_folder_with_images(tmp_path: Path) -> None:
    (tmp_path / "x[").mkdir()
    (tmp_path / "x[" / "[bold].png").write_bytes(png(1))
    done = run("demo", tmp_path, "--data", tmp_path / "data")
    assert done.returncode == 1
    assert "contains 1 images; the demo needs" in done.stderr


def test_the_demo_leaves_folders_of_the_user_alone(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "diary.txt").write_text("mine")
    done = run("demo", "--data", tmp_path)
    assert done.returncode == 1
    assert "not the demo's" in done.stderr
    assert (tmp_path / "index" / "diary.txt").read_text() == "mine"


def test_the_demo_leaves_a_running_service_alone(local: Local) -> None:
    done = run("demo", "--data", local.data)
    assert done.returncode == 1
    assert "stop it" in done.stderr
    assert local.run("status", "query.jpg").returncode == 0


def found(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
