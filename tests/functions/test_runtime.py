"""The functions as Lambda processes, killed and restored from snapshots, with a real S3 API."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from console.migration import filling, lifecycle
from likeness.model import load_spec
from likeness.records import Point, State
from tests import qdrant_server
from tests.fault_server import Answer, Request, serve
from tests.indexes import IndexAddress, on_double
from tests.lambda_runtime import (
    MODEL_DIR,
    ROOT,
    InitError,
    LambdaProcess,
    ProcessDied,
    RestoreError,
    TimedOut,
    client,
    environment,
    http_event,
    queue_event,
)
from tests.pictures import jpeg
from tests.service import FIXED_FILTERS

INDEX, SEARCH = "functions.index.app.handler", "functions.search.app.handler"
CANARY = "functions.canary.app.handler"
# Qdrant's write requests, in the order in which the first batch sends them
CREATE = r"PUT /collections/[^/]+"
NAME = r"POST /collections/aliases"
WRITE = r"PUT /collections/[^/]+/points\?.*"


class Bucket:
    """A bucket for one test. Later changes have larger sequencers, as in S3."""

    def __init__(self, s3: Any) -> None:
        self.name = f"pictures-{uuid.uuid4().hex[:8]}"
        self._s3 = s3
        self._sequencer = 0
        s3.create_bucket(Bucket=self.name)

    def put(self, **files: bytes) -> dict[str, Any]:
        """Returns the event of this upload."""
        for key, data in files.items():
            self._s3.put_object(Bucket=self.name, Key=key, Body=data, ContentType="image/jpeg")
        return self._event(*files)

    def delete(self, *keys: str) -> dict[str, Any]:
        for key in keys:
            self._s3.delete_object(Bucket=self.name, Key=key)
        return self._event(*keys)

    def etags(self) -> dict[str, str]:
        listed = self._s3.list_objects_v2(Bucket=self.name).get("Contents", [])
        return {item["Key"]: item["ETag"].strip('"') for item in listed}

    def _event(self, *keys: str) -> dict[str, Any]:
        self._sequencer += 1
        return queue_event(self.name, keys, self._sequencer)


@pytest.fixture
def bucket(aws: str) -> Iterator[Bucket]:
    s3 = client("s3", aws)
    yield Bucket(s3)
    s3.close()


def stop(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


def index_function(aws: str, qdrant: IndexAddress, **env: str) -> LambdaProcess:
    return LambdaProcess(INDEX, {"AWS_ENDPOINT_URL": aws, **qdrant.env, **env})


def points(qdrant: IndexAddress) -> dict[str, Point]:
    with closing(qdrant.open()) as index:
        return {point.ref.key: point for point in index.scroll(limit=100).points}


def indexed_etags(qdrant: IndexAddress) -> dict[str, str]:
    """The etags of the objects that the index considers present, by key."""
    return {key: point.object.etag for key, point in points(qdrant).items() if point.object}


def search(function: LambdaProcess, image: bytes) -> tuple[int, dict[str, Any]]:
    answer = function.invoke(http_event("POST", "/v1/search", image, query={"limit": "1"}))
    return answer["statusCode"], json.loads(answer["body"])


def test_search_finds_what_the_index_function_wrote(
    aws: str, bucket: Bucket, qdrant: IndexAddress
) -> None:
    with index_function(aws, qdrant) as function:
        event = bucket.put(**{"a ü+%.jpg": jpeg(1), "b.jpg": jpeg(2), "c.jpg": jpeg(3)})
        assert function.invoke(event) == {"batchItemFailures": []}
    assert indexed_etags(qdrant) == bucket.etags()

    with LambdaProcess(SEARCH, qdrant.env) as function:
        status, cold = search(function, jpeg(1))
        process = function.pid
        _, warm = search(function, jpeg(2))
        assert function.pid == process
    assert status == 200
    assert [cold["results"][0]["key"], warm["results"][0]["key"]] == ["a ü+%.jpg", "b.jpg"]
    assert cold["results"][0]["score"] == pytest.approx(1, abs=1e-3)
    assert [cold["results"][0]["verdict"], cold["skipped"]] == ["exact", []]
    assert [cold["took_ms"]["cold_start"], warm["took_ms"]["cold_start"]] == [True, False]


def test_a_search_and_a_note_never_import_the_official_client(
    aws: str, bucket: Bucket, qdrant: IndexAddress
) -> None:
    """It would take a second of a cold start, and its layer is not the search function's."""
    with index_function(aws, qdrant) as function:
        function.invoke(bucket.put(a=jpeg(1), b=jpeg(2)))
    env = {**qdrant.env, "PYTHONPROFILEIMPORTTIME": "1"}  # logs every import
    with LambdaProcess(SEARCH, env) as function:
        status, answer = search(function, jpeg(1))
        fields = {"request_id": "r", "id": answer["results"][0]["id"], "kind": "click"}
        note = http_event("POST", "/v1/feedback", json.dumps(fields).encode(), "application/json")
        assert (status, function.invoke(note)["statusCode"]) == (200, 200)
        imported = set(re.findall(r"import time:.*\|\s+([\w.]+)", function.log))
    assert "likeness.adapters.qdrant_view" in imported
    packages = {module.partition(".")[0] for module in imported}
    assert not packages & {"qdrant_client", "httpx", "httpcore", "grpc", "pydantic"}


@pytest.mark.double("counts the calls that the server gets")
def test_a_search_is_one_call_to_qdrant_from_the_first_on(
    aws: str, bucket: Bucket, double: ThreadingHTTPServer, qdrant: IndexAddress
) -> None:
    with index_function(aws, qdrant) as function:
        function.invoke(bucket.put(a=jpeg(1), b=jpeg(2)))
    calls = recorded(double)
    with LambdaProcess(SEARCH, qdrant.env) as function:
        assert [search(function, jpeg(n))[0] for n in (1, 2)] == [200, 200]
    assert calls == ["POST /collections/images/points/query/batch"] * 2


@pytest.mark.parametrize("package", ["qdrant_client", "httpx"])
def test_an_index_function_without_the_clients_layer_says_what_to_install(
    package: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys; sys.modules[{package!r}] = None")
    path = f"{tmp_path}:{environment(INDEX)['PYTHONPATH']}"
    env = {"QDRANT_URL": "http://127.0.0.1:1", "PYTHONPATH": path}
    told = rf"the package {package}\b.*likeness\[index\]"
    with LambdaProcess(INDEX, env) as function, pytest.raises(InitError, match=told):
        function.invoke({})


def test_a_migration_runs_while_both_functions_are_used(
    aws: str, bucket: Bucket, qdrant: IndexAddress
) -> None:
    old, new = load_spec(MODEL_DIR), load_spec(FIXED_FILTERS)
    env = {"LIKENESS_NEXT_MODEL_DIR": str(FIXED_FILTERS)}
    with (
        closing(qdrant.open()) as index,
        index_function(aws, qdrant, **env) as indexing,
        LambdaProcess(SEARCH, qdrant.env | env) as searching,
    ):
        assert indexing.invoke(bucket.put(a=jpeg(1), b=jpeg(2))) == {"batchItemFailures": []}
        assert search(searching, jpeg(1))[1]["model"] == old.fingerprint
        migration = lifecycle.begin(index, new, "unused", keep_patches=False)
        indexing.invoke(bucket.put(c=jpeg(3)))
        indexing.invoke(bucket.put(a=jpeg(1), b=jpeg(2)))
        assert filling.measure(index, migration, lambda done: None).share == 1
        lifecycle.switch(index, new.fingerprint)
        # the search function read the alias a moment ago; its collection has been dropped since
        lifecycle.finish(index, migration)
        status, answer = search(searching, jpeg(3))
        assert (status, answer["model"], answer["results"][0]["key"]) == (200, new.fingerprint, "c")
        indexing.invoke(bucket.put(d=jpeg(4)))
        assert search(searching, jpeg(4))[1]["results"][0]["key"] == "d"
        assert index.models() == [new.fingerprint]


def test_duplicates_and_feedback_work_through_both_functions(
    aws: str, bucket: Bucket, qdrant: IndexAddress
) -> None:
    with index_function(aws, qdrant) as function:
        function.invoke(bucket.put(a=jpeg(1), b=jpeg(2)))
        function.invoke(bucket.put(again=jpeg(1)))
    with LambdaProcess(SEARCH, qdrant.env) as function:

        def call(method: str, path: str, **fields: Any) -> dict[str, Any]:
            body = json.dumps(fields).encode() if fields else None
            answer = function.invoke(http_event(method, path, body, "application/json"))
            assert answer["statusCode"] == 200, answer["body"]
            found: dict[str, Any] = json.loads(answer["body"])
            return found

        [group] = call("GET", "/v1/duplicates")["groups"]
        assert group["original"]["key"] == "a"
        [copy] = group["copies"]
        assert (copy["key"], copy["verdict"]) == ("again", "exact")
        pair = {"first": {"id": group["original"]["id"]}, "second": {"id": copy["id"]}}
        assert call("POST", "/v1/compare", **pair)["verdict"] == "exact"
        decision = {"group": group["id"], "id": copy["id"], "decision": "not_duplicate"}
        call("POST", "/v1/duplicates/decisions", **decision)
        assert call("GET", "/v1/duplicates")["groups"] == []
        call("POST", "/v1/feedback", request_id="r", id=copy["id"], kind="click")


def test_the_search_function_answers_health_and_refuses_a_body_that_is_not_base64(
    qdrant: IndexAddress,
) -> None:
    with LambdaProcess(SEARCH, qdrant.env) as function:
        health = function.invoke(http_event("GET", "/v1/health"))
        broken = http_event("POST", "/v1/search", b"") | {"body": "abc"}
        refused = function.invoke(broken)
    assert (health["statusCode"], json.loads(health["body"])) == (200, {"status": "ok"})
    assert refused["statusCode"] == 400
    assert refused["headers"]["content-type"] == "application/problem+json"
    assert "base64" in json.loads(refused["body"])["detail"]


def test_a_warm_index_function_reports_partial_batch_failures(
    aws: str, bucket: Bucket, qdrant: IndexAddress
) -> None:
    with index_function(aws, qdrant) as function:
        first = bucket.put(kept=jpeg(1), replaced=jpeg(2), deleted=jpeg(3), poison=b"no")
        first["Records"].append({"messageId": "unreadable", "body": "{"})
        failed = {"batchItemFailures": [{"itemIdentifier": "unreadable"}]}
        assert function.invoke(first) == failed
        assert indexed_etags(qdrant) == bucket.etags()
        process = function.pid

        changes = bucket.put(replaced=jpeg(4))["Records"] + bucket.delete("deleted")["Records"]
        assert function.invoke({"Records": changes}) == {"batchItemFailures": []}
        assert function.pid == process
    assert indexed_etags(qdrant) == bucket.etags()
    found = points(qdrant)
    assert found["poison"].state is State.REJECTED
    assert found["deleted"].state is State.GONE


@pytest.mark.parametrize("handler", [INDEX, SEARCH])
def test_a_damaged_model_fails_the_start_and_is_named(handler: str, tmp_path: Path) -> None:
    # the runtime's client sends this error as Latin-1, which has no №
    bundle = shutil.copytree(MODEL_DIR, tmp_path / "model №1")
    weights = bytearray((bundle / "image.onnx").read_bytes())
    weights[len(weights) // 2] ^= 1
    (bundle / "image.onnx").write_bytes(weights)
    env = {"QDRANT_URL": "http://127.0.0.1:1", "LIKENESS_MODEL_DIR": str(bundle)}
    with (
        LambdaProcess(handler, env) as function,
        pytest.raises(InitError, match=r"image\.onnx is damaged"),
    ):
        function.invoke({})


@pytest.mark.parametrize("handler", [INDEX, SEARCH])
def test_a_missing_setting_fails_the_start_and_is_named(handler: str) -> None:
    with (
        LambdaProcess(handler, {}) as function,
        pytest.raises(InitError, match="QDRANT_URL is not set"),
    ):
        function.invoke({})


@pytest.mark.double("starts the server while the function waits")
def test_a_batch_that_timed_out_is_reconciled_by_the_next_process(aws: str, bucket: Bucket) -> None:
    event = bucket.put(a=jpeg(1), b=jpeg(2))
    # the kernel accepts connections, but nothing ever responds
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        qdrant = IndexAddress(f"http://127.0.0.1:{port}")
        function = index_function(aws, qdrant)
        with pytest.raises(TimedOut):
            function.invoke(event, timeout_s=1)
    assert function.pid is None
    server = qdrant_server.start(port)
    with function:
        assert function.invoke(event) == {"batchItemFailures": []}
    assert indexed_etags(qdrant) == bucket.etags()
    stop(server)


@pytest.mark.double("withholds the answer to a write")
def test_a_write_that_is_applied_but_never_confirmed_is_reconciled_by_the_next_process(
    aws: str, bucket: Bucket, double: ThreadingHTTPServer, qdrant: IndexAddress
) -> None:
    event = bucket.put(a=jpeg(1), b=jpeg(2))
    timed_out = threading.Event()
    interrupt(double, WRITE, applied=True, action=timed_out.wait)
    with index_function(aws, qdrant) as function:
        with pytest.raises(TimedOut):
            function.invoke(event, timeout_s=3)
        timed_out.set()
        written = points(qdrant)
        assert written.keys() == {"a", "b"}
        assert function.invoke(event) == {"batchItemFailures": []}
    compared = {key: structs.replace(point, compared=True) for key, point in written.items()}
    assert points(qdrant) == compared


@pytest.mark.double("kills the function within a call of the server")
@pytest.mark.fault(
    "the function is killed while it creates the collection, sets the alias or writes",
    seen="the messages stay in the queue",
    heals="a new process continues from what is there",
)
@pytest.mark.parametrize("applied", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", [CREATE, NAME, WRITE], ids=["create", "name", "write"])
def test_a_process_killed_in_the_middle_of_a_batch_loses_and_doubles_nothing(
    call: str,
    applied: bool,
    aws: str,
    bucket: Bucket,
    double: ThreadingHTTPServer,
    qdrant: IndexAddress,
) -> None:
    event = bucket.put(a=jpeg(1), b=jpeg(2), c=jpeg(3))
    with index_function(aws, qdrant) as function:

        def kill() -> None:
            assert function.pid
            os.kill(function.pid, signal.SIGKILL)

        interrupt(double, call, applied, kill)
        with pytest.raises(ProcessDied):
            function.invoke(event)
        assert function.invoke(event) == {"batchItemFailures": []}
    assert indexed_etags(qdrant) == bucket.etags()


@pytest.mark.double("restarts the server with another key")
@pytest.mark.fault(
    "Qdrant's key and its connections changed since the snapshot was taken",
    seen="nothing",
    heals="a hook reads the secret and replaces connections after each restore",
)
@pytest.mark.parametrize("handler", [INDEX, SEARCH])
def test_a_restored_process_has_the_key_of_now(
    handler: str, aws: str, bucket: Bucket, double: ThreadingHTTPServer
) -> None:
    secrets = client("secretsmanager", aws)
    secret = secrets.create_secret(Name=bucket.name, SecretString="old")["ARN"]
    before = on_double(double)
    now = replace(before, api_key="new")
    env = {"AWS_ENDPOINT_URL": aws, "QDRANT_API_KEY_SECRET_ARN": secret, **before.env}
    with LambdaProcess(handler, env, snap_start=True) as function:
        function.snapshot()
        stop(double)
        server = qdrant_server.start(double.server_port, api_key="new")
        secrets.put_secret_value(SecretId=secret, SecretString="new")
        event = bucket.put(a=jpeg(1))
        function.restore()
        if handler == INDEX:
            assert function.invoke(event) == {"batchItemFailures": []}
            assert points(now).keys() == {"a"}
        else:
            with index_function(aws, now) as index:
                index.invoke(event)
            status, answer = search(function, jpeg(1))
            assert status == 200
            assert answer["results"][0]["key"] == "a"
    stop(server)
    secrets.close()


@pytest.mark.fault(
    "the role's credentials in the snapshot have expired",
    seen="nothing",
    heals="the SDK asks for new ones before its first request",
)
def test_a_restored_process_signs_with_the_credentials_of_now(
    qdrant: IndexAddress,
) -> None:
    now = datetime.now(UTC)
    given = {"AccessKeyId": "BEFORE", "Expiration": now + timedelta(seconds=1)}

    def credentials(request: Request) -> Answer:
        secrets = {"SecretAccessKey": "s", "Token": "t"}
        return Answer(200, json.dumps({**given, **secrets}, default=datetime.isoformat).encode())

    with serve(credentials) as role, serve([Answer(404)]) as s3:
        env = {
            "AWS_ACCESS_KEY_ID": "",
            "AWS_SECRET_ACCESS_KEY": "",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": role.url,
            "AWS_ENDPOINT_URL": s3.url,
            **qdrant.env,
        }
        with LambdaProcess(INDEX, env, snap_start=True) as function:
            function.snapshot()
            assert role.requests  # otherwise the snapshot would hold no credentials
            given |= {"AccessKeyId": "AFTER", "Expiration": now + timedelta(hours=1)}
            function.restore()
            assert function.invoke(queue_event("b", ["k"])) == {"batchItemFailures": []}
        signed = [request.headers["authorization"] for request in s3.requests]
    assert signed
    assert all("Credential=AFTER/" in signature for signature in signed)


@pytest.mark.fault(
    "one snapshot is restored many times, and every copy would draw the same random numbers",
    seen="nothing",
    heals="a hook seeds them again, so that pauses between retries differ",
)
@pytest.mark.parametrize("handler", [INDEX, SEARCH])
def test_processes_restored_from_one_snapshot_do_not_wait_alike(handler: str) -> None:
    code = f"""
import random, snapshot_restore_py, {handler.rpartition(".")[0]}
def restored():
    random.seed(1)  # the state in the snapshot
    for hook, arguments, options in snapshot_restore_py.get_after_restore():
        hook(*arguments, **options)
    return random.random()
assert restored() != restored()
"""
    env = environment(handler) | {"QDRANT_URL": "http://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_secret_that_was_deleted_before_a_restore_is_named(aws: str, bucket: Bucket) -> None:
    secrets = client("secretsmanager", aws)
    secret = secrets.create_secret(Name=bucket.name, SecretString="old")["ARN"]
    env = {
        "AWS_ENDPOINT_URL": aws,
        "QDRANT_URL": "http://127.0.0.1:1",
        "QDRANT_API_KEY_SECRET_ARN": secret,
    }
    with LambdaProcess(SEARCH, env, snap_start=True) as function:
        function.snapshot()
        secrets.delete_secret(SecretId=secret, ForceDeleteWithoutRecovery=True)
        function.restore()
        with pytest.raises(RestoreError, match="cannot read the Qdrant secret"):
            function.invoke(http_event("GET", "/v1/health"))
    secrets.close()


def test_the_functions_log_explains_an_answer_by_its_request_id(
    aws: str, bucket: Bucket, qdrant: IndexAddress
) -> None:
    with index_function(aws, qdrant) as index:
        index.invoke(bucket.put(a=jpeg(1), b=jpeg(2)))
    namespace = "Likeness/test"
    env = {**qdrant.env, "POWERTOOLS_METRICS_NAMESPACE": namespace}
    with LambdaProcess(SEARCH, env) as function:
        answers = [search(function, jpeg(1))[1] for _ in range(2)]
        lines = [json.loads(text) for text in function.log.splitlines() if '"_aws"' in text]
    assert [line["request_id"] for line in lines] == [answer["request_id"] for answer in answers]
    assert [line["ColdStart"] for line in lines] == [1, 0]
    for line, answer in zip(lines, answers, strict=True):
        assert line["shown"][0]["id"] == answer["results"][0]["id"]
        assert line["_aws"]["CloudWatchMetrics"][0]["Namespace"] == namespace


def test_the_canary_runs_as_a_lambda_process(
    aws: str, bucket: Bucket, qdrant: IndexAddress
) -> None:
    with index_function(aws, qdrant) as index:
        index.invoke(bucket.put(a=jpeg(1), b=jpeg(2), c=jpeg(3)))
    with LambdaProcess(CANARY, {"AWS_ENDPOINT_URL": aws, **qdrant.env}) as canary:
        answer = canary.invoke({})
        assert (answer["asked"], answer["recall"], answer["answers"]) == (3, 1.0, 0)
        assert answer["qdrant"] == "1.19.0"
        assert '"CanaryRecall":[1.0]' in canary.log


def recorded(server: ThreadingHTTPServer) -> list[str]:
    """Method and path of each call from now on."""
    engine, calls = server.RequestHandlerClass.engine, list[str]()  # type: ignore[attr-defined]
    original = engine.call

    def call(method: str, path: str, body: Any) -> Any:
        calls.append(f"{method} {path}")
        return original(method, path, body)

    engine.call = call
    return calls


def interrupt(
    server: ThreadingHTTPServer, call: str, applied: bool, action: Callable[[], object]
) -> None:
    """Perform the action at the first matching call, before or after the engine applies it."""
    engine = server.RequestHandlerClass.engine  # type: ignore[attr-defined]
    original = engine.call

    def interrupted(method: str, path: str, body: Any) -> Any:
        if not re.fullmatch(call, f"{method} {path}"):
            return original(method, path, body)
        engine.call = original
        if applied:
            original(method, path, body)
        action()
        raise qdrant_server.Refused(503, "interrupted")

    engine.call = interrupted
