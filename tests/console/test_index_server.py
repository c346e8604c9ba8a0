"""`likeness serve`, `demo` and `drop` with a Qdrant server, which others use too."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3

from console.app import main
from console.client import Client, ServiceError
from console.local.aws import BUCKET
from console.local.data_folder import LocalService
from console.local.index_server import IndexServer, prepare, remembered_alias
from console.local.index_sharing import RunningIndex
from likeness.adapters.index import open_index
from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.errors import ConfigurationError
from likeness.filters import Schema
from likeness.model import load_spec
from likeness.ports import VectorIndex
from likeness.records import ObjectRef, ObjectState, Point, State, Version
from likeness.settings import Settings
from tests import qdrant_server
from tests.console.test_commands import Local, run
from tests.fault_server import Answer, FaultServer, Request, closed_port, error, ok
from tests.pictures import jpeg
from tests.service import BUNDLED

MODEL, DIM = load_spec(BUNDLED).fingerprint, load_spec(BUNDLED).embedding.dim
ALIAS, KEY = f"{BUCKET}-0123456789ab", "a key"
SETTINGS = {"LIKENESS_MODEL_DIR": str(BUNDLED)}


class Server:
    """A Qdrant server, and what is on it."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        self.key = key
        self._http = urllib3.PoolManager(headers={"api-key": key} if key else {})

    def index(self, alias: str) -> VectorIndex:
        return open_index(Settings(self.url, BUNDLED, alias=alias, index_api_key=self.key))

    def call(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._http.request(method, self.url + path, json=body)
        assert answer.status == 200, answer.data
        return answer.json()["result"]

    def aliases(self) -> dict[str, str]:
        found = self.call("GET", "/aliases")["aliases"]
        return {alias["alias_name"]: alias["collection_name"] for alias in found}

    def content(self) -> dict[str, Any]:
        """Aliases, and the points of each collection."""
        names = [each["name"] for each in self.call("GET", "/collections")["collections"]]
        every = {"limit": 99, "with_payload": True, "with_vector": True}
        points = {n: self.call("POST", f"/collections/{n}/points/scroll", every) for n in names}
        return {**points, "aliases": self.aliases()}


@pytest.fixture
def server() -> Iterator[Server]:
    started = qdrant_server.start(api_key=KEY)
    yield Server(qdrant_server.url_of(started), KEY)
    started.shutdown()
    started.server_close()


@pytest.fixture
def production(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """What an operator has exported leads here; a request would be an accident."""
    server = FaultServer([Answer(500)])
    monkeypatch.setenv("QDRANT_URL", server.url)
    monkeypatch.setenv("QDRANT_API_KEY", "production's")
    monkeypatch.setenv("LIKENESS_ALIAS", "images")
    yield server
    server.stop()


@dataclass(frozen=True)
class Ended:
    """How the command ended; the texts as one line each."""

    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def likeness(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that starts no service in this process: a new one takes seconds to load."""
    monkeypatch.setattr("signal.signal", lambda number, handler: None)  # pytest has its own
    monkeypatch.setattr("sys.stdin", io.StringIO())  # no answer to a question

    def run(*arguments: str | Path) -> Ended:
        monkeypatch.setattr("sys.argv", ["likeness", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = (" ".join(text.split()) for text in capsys.readouterr())
        return Ended(int(ended.value.code or 0), out, err)

    return run


def put(index: VectorIndex, bucket: str, key: str) -> str:
    """Write a live point; returns its id."""
    index.prepare(MODEL, DIM)
    vector = np.zeros(DIM, np.float32)
    vector[0] = 1
    state = ObjectState("e", None, 7, "image/png", 5.0)
    ref = ObjectRef(bucket, key)
    point = Point(ref, State.LIVE, Version(1), MODEL, 5.0, state, vector=vector)
    index.write(MODEL, [point])
    return point.id


def remember(data: Path, alias: str) -> None:
    data.mkdir(exist_ok=True)
    (data / "index-server.json").write_text(json.dumps({"alias": alias}))


def photos(folder: Path, count: int = 3) -> Path:
    folder.mkdir()
    for seed in range(count):
        (folder / f"{seed}.jpg").write_bytes(jpeg(seed, 320, 240))
    return folder


def running(local: Local) -> LocalService:
    service = LocalService.running(local.data)
    assert service is not None
    return service


def running_index(local: Local) -> RunningIndex:
    service = running(local)
    return RunningIndex(service.index_port, service.index_key.encode())


def keys_found(local: Local, image: Path) -> list[str]:
    found = Client(running(local).api_url).search_image(image.read_bytes())
    return [result["key"] for result in found["results"]]


def test_another_buckets_points_are_left_alone(tmp_path: Path, production: FaultServer) -> None:
    """The local S3 does not have their bucket: a hint would make them deleted images."""
    local = Local(tmp_path / "data")
    folder = EmbeddedIndex(local.data / "index", Layout("images", Schema()))
    foreign = put(folder, "photos", "a.jpg")
    deleted = put(folder, BUCKET, "a.jpg")
    folder.close()
    local.start()
    try:
        index = running_index(local)
        deadline_s = time.monotonic() + 30
        while index.retrieve_payloads(MODEL, [deleted]).points[deleted].state is not State.GONE:
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
        # the hints for both were sent together
        assert local.run("upload", photos(tmp_path / "photos")).returncode == 0
        assert index.retrieve_payloads(MODEL, [foreign]).points[foreign].state is State.LIVE
    finally:
        local.stop()
    assert production.paths == []


def test_two_folders_share_a_server_and_each_is_dropped_alone(
    server: Server,
    production: FaultServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    likeness: Run,
) -> None:
    put(server.index("images"), "photos", "a.jpg")
    before = server.content()
    monkeypatch.setenv("LIKENESS_QDRANT_API_KEY", KEY)
    folder, at = photos(tmp_path / "photos"), ("--qdrant", server.url)
    mine, other = Local(tmp_path / "mine", *at), Local(tmp_path / "other", *at)
    for local in (mine, other):
        local.start()
    try:
        assert mine.run("upload", folder).returncode == 0
        assert keys_found(mine, folder / "1.jpg")[0] == "1.jpg"
        assert keys_found(other, folder / "1.jpg") == []
        # other commands reach the index through the service
        assert mine.run("reconcile", "--dry-run", "--lag", "0").returncode == 0
        assert (running_index(mine).models(), running_index(mine).info().points) == ([MODEL], 3)
        said = likeness("drop", *at, "--yes", "--data", mine.data)
        assert (said.status, "another service" in said.err) == (1, True)
    finally:
        for local in (mine, other):
            local.stop()
    kept = server.content()
    mine.start()
    assert len(keys_found(mine, folder / "1.jpg")) == 3
    mine.stop()
    assert server.content() == kept  # nothing was made or indexed again

    for local in (mine, other):
        alias = remembered_alias(local.data)
        assert alias in server.aliases()
        said = likeness("drop", *at, "--yes", "--data", local.data)
        assert (said.status, said.out) == (0, f"dropped {alias}-{MODEL} dropped {alias}-notes")
        assert alias not in server.aliases()
    assert server.content() == before
    assert "nothing of" in likeness("drop", *at, "--yes", "--data", mine.data).out
    assert production.paths == []


def test_dropping_asks_first(server: Server, tmp_path: Path, likeness: Run) -> None:
    prepare(IndexServer(server.url, KEY), tmp_path, SETTINGS)
    put(server.index(str(remembered_alias(tmp_path))), BUCKET, "a.jpg")
    before = server.content()
    said = likeness("drop", "--qdrant", server.url, "--qdrant-key", KEY, "--data", tmp_path)
    assert (said.status, said.err) == (1, "Aborted.")
    question = f"Drop alias {remembered_alias(tmp_path)} at {server.url} (points: 1)?"
    assert question in said.out
    assert server.content() == before


def test_a_folder_that_was_never_on_a_server_has_nothing_to_drop(
    tmp_path: Path, likeness: Run
) -> None:
    said = likeness("drop", "--qdrant", closed_port(), "--data", tmp_path / "nothing", "--yes")
    assert said.status == 1
    assert "has never had its index on a Qdrant server" in said.err
    assert not (tmp_path / "nothing").exists()


def test_the_demo_leaves_nothing_on_the_server(
    server: Server, production: FaultServer, tmp_path: Path
) -> None:
    put(server.index("images"), "photos", "a.jpg")
    before = server.content()
    data = tmp_path / "data"
    data.mkdir()
    (data / "lock").touch()
    remember(data, ALIAS)
    put(server.index(ALIAS), BUCKET, "left by a demo that was killed.jpg")
    at = ("--qdrant", server.url, "--qdrant-key", KEY)
    said = run("demo", photos(tmp_path / "photos", 4), *at, "--data", data)
    assert said.returncode == 0, said.stdout + said.stderr
    assert f"the index is alias {ALIAS} at {server.url}" in said.stdout
    assert f"Its index at {server.url} was dropped" in said.stdout
    assert server.content() == before
    assert production.paths == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(Answer(200, b"<html>hi</html>"), "is this a Qdrant server?", id="a page"),
        pytest.param(Answer(200, b'{"hello": 1}'), "is this a Qdrant server?", id="other JSON"),
        pytest.param(Answer(404, b'{"detail": "?"}'), "HTTP 404", id="another service"),
        pytest.param(Answer(302, b"", {"location": "/login"}), "Qdrant", id="a login page"),
        pytest.param(Answer(raw=b"SSH-2.0\r\n"), "Qdrant is not answering", id="another protocol"),
    ],
)
def test_what_is_no_qdrant_server_is_written_nothing(
    answer: Answer, said: str, tmp_path: Path
) -> None:
    server = FaultServer([answer])
    with pytest.raises(ServiceError) as refused:
        prepare(IndexServer(server.url), tmp_path, SETTINGS)
    assert said in str(refused.value) and server.url in str(refused.value)
    assert {request.method for request in server.requests} == {"GET"}
    assert list(tmp_path.iterdir()) == []
    server.stop()


def empty_server(version: str) -> FaultServer:
    """One that may be read, but not written to."""

    def answer(request: Request) -> Answer:
        if request.path == "/":
            about = {"title": "qdrant - vector search engine", "version": version}
            return Answer(200, json.dumps(about).encode())
        if request.method != "GET":
            return Answer(403, b"Write access denied")
        known = {"/collections": {"collections": []}, "/aliases": {"aliases": []}}
        return ok(known[request.path]) if request.path in known else error(404)

    return FaultServer(answer)


def test_a_server_that_is_too_old_is_refused_before_anything_starts(tmp_path: Path) -> None:
    server = empty_server("1.18.2")
    with pytest.raises(ConfigurationError, match=r"Qdrant 1\.18\.2 is too old"):
        prepare(IndexServer(server.url), tmp_path, SETTINGS)
    assert {request.method for request in server.requests} == {"GET"}
    assert list(tmp_path.iterdir()) == []
    server.stop()


def test_a_key_that_may_only_read_is_refused_before_anything_starts(tmp_path: Path) -> None:
    server = empty_server("1.19.0")
    with pytest.raises(ServiceError, match=r"(?s)not permit PUT.*a key that may create"):
        prepare(IndexServer(server.url), tmp_path, SETTINGS)
    server.stop()


@pytest.mark.parametrize("key", [None, "wrong", "production's"])
def test_a_wrong_key_is_refused_and_the_variable_named(
    server: Server, production: FaultServer, tmp_path: Path, key: str | None
) -> None:
    with pytest.raises(ServiceError, match=r"(?s)API key.*LIKENESS_QDRANT_API_KEY"):
        prepare(IndexServer(server.url, key), tmp_path, SETTINGS)
    assert server.content() == {"aliases": {}}


def strangers_collection(server: Server, name: str) -> None:
    server.call("PUT", f"/collections/{name}", {"vectors": {"size": 4, "distance": "Cosine"}})
    points = [{"id": 1, "vector": [1, 0, 0, 0], "payload": {"city": "Berlin"}}]
    server.call("PUT", f"/collections/{name}/points?wait=true", {"points": points})


def point_alias(server: Server, collection: str) -> None:
    create = {"create_alias": {"alias_name": ALIAS, "collection_name": collection}}
    server.call("POST", "/collections/aliases", {"actions": [create]})


def taken_by_a_collection(server: Server) -> str:
    strangers_collection(server, f"{ALIAS}-{MODEL}")
    return "made by another application"


def taken_by_another_model(server: Server) -> str:
    metadata = {"model": "f" * 16, "dim": 4}
    vectors = {"size": 4, "distance": "Cosine"}
    body = {"vectors": vectors, "metadata": metadata}
    server.call("PUT", f"/collections/{ALIAS}-{MODEL}", body)
    return "made by another application"


def taken_by_an_alias(server: Server) -> str:
    strangers_collection(server, "cities")
    point_alias(server, "cities")
    return "made by another application"


def led_to_another_service(server: Server) -> str:
    put(server.index("images"), "photos", "a.jpg")
    point_alias(server, f"images-{MODEL}")
    return "made by another application"


def led_to_another_service_after_it_was_used(server: Server) -> str:
    put(server.index(ALIAS), BUCKET, "a.jpg")
    put(server.index("images"), "photos", "a.jpg")
    delete = {"delete_alias": {"alias_name": ALIAS}}
    server.call("POST", "/collections/aliases", {"actions": [delete]})
    point_alias(server, f"images-{MODEL}")
    return "holds images of s3://photos, not only of s3://likeness-local"


def shared_with_another_bucket(server: Server) -> str:
    put(server.index(ALIAS), BUCKET, "a.jpg")
    put(server.index(ALIAS), "photos", "a.jpg")
    return "holds images of s3://photos, not only of s3://likeness-local"


@pytest.mark.parametrize(
    "taken",
    [
        taken_by_a_collection,
        taken_by_another_model,
        taken_by_an_alias,
        led_to_another_service,
        led_to_another_service_after_it_was_used,
        shared_with_another_bucket,
    ],
)
@pytest.mark.parametrize("command", ["serve", "drop", "demo"])
def test_what_others_have_under_our_name_is_refused_and_left_alone(
    server: Server,
    tmp_path: Path,
    likeness: Run,
    taken: Callable[[Server], str],
    command: str,
) -> None:
    (tmp_path / "lock").touch()
    remember(tmp_path, ALIAS)
    why, before = taken(server), server.content()
    options = {"serve": ["--port", "0"], "drop": ["--yes"], "demo": []}[command]
    at = ("--qdrant", server.url, "--qdrant-key", KEY, "--data", tmp_path)
    said = likeness(command, *at, *options)
    assert said.status == 1
    assert said.err.startswith(f"error alias {ALIAS} at {server.url}") and why in said.err
    assert server.content() == before


def test_a_server_that_is_not_there_is_named_in_two_lines(tmp_path: Path) -> None:
    url = closed_port()
    said = run("serve", "--qdrant", url, "--data", tmp_path, "--port", "0")
    assert said.returncode == 1
    assert "Traceback" not in said.stderr and said.stderr.count("\n") == 2
    assert f"{url}: Qdrant is not answering" in said.stderr
    assert "http://localhost:6333" in said.stderr


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6333",
        "file:///tmp/x",
        "http://",
        "http://a:b",
        "http://[",
        "http://:secret@h",
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(
    url: str, tmp_path: Path, likeness: Run
) -> None:
    said = likeness("serve", "--qdrant", url, "--data", tmp_path, "--port", "0")
    assert said.status == 2
    assert "--qdrant" in said.err and "secret" not in said.err


def test_a_damaged_note_of_the_alias_is_named(tmp_path: Path) -> None:
    (tmp_path / "index-server.json").write_text("{")
    with pytest.raises(ServiceError, match="is damaged; delete it"):
        remembered_alias(tmp_path)


def test_a_settings_fault_is_found_before_anything_starts(server: Server, tmp_path: Path) -> None:
    prepare(IndexServer(server.url, KEY), tmp_path, SETTINGS)
    before = server.content()
    with pytest.raises(ConfigurationError, match="LIKENESS_KEEP_PATCHES"):
        env = {**SETTINGS, "LIKENESS_KEEP_PATCHES": "true"}
        prepare(IndexServer(server.url, KEY), tmp_path, env)
    assert server.content() == before
