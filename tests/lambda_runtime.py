"""AWS for tests: handlers in real processes under Lambda's own runtime client, and a local S3.

`LambdaProcess` starts `python -m awslambdaric`, which speaks the Lambda Runtime API (AWS Lambda
guide, "Using the Lambda runtime API"), and acts as that API. `local_aws` starts MiniStack. The
events have the form that API Gateway and SQS send.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import boto3

from console.local.aws import ministack

ROOT = Path(__file__).resolve().parents[1]
REGION = "us-east-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
MODEL_DIR = ROOT / "layers" / "model"
_API = "/2018-06-01/runtime/"
_OUTCOME = re.compile(r"invocation/([^/]+)/(response|error)")
_INIT_TIMEOUT_S = 30.0


class LambdaError(Exception):
    """An outcome that Lambda reports instead of a result."""


class FunctionError(LambdaError):
    """The handler raised."""


class InitError(LambdaError):
    """The handler's module could not be loaded."""


class RestoreError(LambdaError):
    """A hook failed after the snapshot was restored."""


class TimedOut(LambdaError):
    """The handler ran for too long; its process was killed."""


class ProcessDied(LambdaError):
    """The process ended without an answer."""


_FATAL = {"init/error": InitError, "restore/error": RestoreError}


@dataclass(frozen=True)
class _Report:
    """A call of the process: next, restore/next, response, error or a key of _FATAL; or died."""

    kind: str
    body: bytes = b""
    request_id: str = ""


@dataclass(frozen=True)
class _Invocation:
    request_id: str
    event: bytes
    deadline_ms: int


class LambdaProcess:
    """One execution environment: started by its first invocation, and again after it ended.

    As on AWS, a timeout counts from the invocation; initialisation has a limit of its own.
    """

    def __init__(
        self, handler: str, env: Mapping[str, str], memory_mb: int = 1769, snap_start: bool = False
    ) -> None:
        """`handler` as Lambda names it: functions.search.app.handler."""
        self._handler = handler
        self._env = environment(handler, memory_mb, snap_start) | dict(env)
        self._process: subprocess.Popen[bytes] | None = None
        self._api: _RuntimeApi | None = None
        # a context manager would close it at the end of this method
        self._log = tempfile.TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> LambdaProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._log.close()

    @property
    def pid(self) -> int | None:
        """None while no process runs."""
        return self._process.pid if self._process else None

    @property
    def log(self) -> str:
        """Output of all its processes to stdout and stderr."""
        self._log.flush()
        return os.pread(self._log.fileno(), 1 << 24, 0).decode(errors="replace")

    @property
    def peak_rss_mib(self) -> float:
        """Peak memory of the running process (Linux; ru_maxrss would include its parent's)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        [peak_kib] = re.findall(r"VmHWM:\s+(\d+) kB", status)
        return int(peak_kib) / 1024

    def invoke(self, event: Any, timeout_s: float = 30.0) -> Any:
        """The handler's result. Raises a LambdaError where Lambda would report an error."""
        api = self._api or self._start()
        self._expect("next", _INIT_TIMEOUT_S)
        deadline_ms = int((time.time() + timeout_s) * 1000)
        request_id = str(uuid.uuid4())
        api.invocations.put(_Invocation(request_id, json.dumps(event).encode(), deadline_ms))
        report = self._expect("response", timeout_s)
        assert report.request_id == request_id
        return json.loads(report.body)

    def snapshot(self) -> None:
        """Start, and stop where SnapStart takes its snapshot."""
        self._start()
        self._expect("restore/next", _INIT_TIMEOUT_S)

    def restore(self) -> None:
        """Continue from the snapshot. The next invocation raises a RestoreError if a hook fails."""
        assert self._api
        self._api.restored.set()

    def kill(self) -> None:
        """End the process at once, as Lambda does after a timeout."""
        if self._process:
            self._process.kill()
            self._process.wait()
        if self._api:
            self._api.close()
        self._process, self._api = None, None

    def _start(self) -> _RuntimeApi:
        api = self._api = _RuntimeApi()
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "awslambdaric", self._handler],
            env={**self._env, "AWS_LAMBDA_RUNTIME_API": api.address},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        threading.Thread(target=_report_death, args=(process, api.reports), daemon=True).start()
        return api

    def _expect(self, kind: str, timeout_s: float) -> _Report:
        """The next report, which must be of this kind; a process that cannot go on is killed."""
        assert self._api and self._process
        try:
            report = self._api.reports.get(timeout=timeout_s)
        except queue.Empty:
            self.kill()
            raise TimedOut(f"no {kind} within {timeout_s} s") from None
        if report.kind == kind:
            return report
        if report.kind == "error":
            raise FunctionError(_message(report.body))
        status = self._process.poll()
        self.kill()
        if report.kind in _FATAL:
            raise _FATAL[report.kind](_message(report.body))
        raise ProcessDied(f"{report.kind}, exit status {status}; the log ends:\n{self.log[-2000:]}")


def environment(handler: str, memory_mb: int = 1769, snap_start: bool = False) -> dict[str, str]:
    """Lambda's variables ("Defined runtime environment variables"), and our layers' paths."""
    name = handler.split(".")[1]
    return {
        **CREDENTIALS,
        "_HANDLER": handler,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb),
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start" if snap_start else "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": "local",
        "AWS_REGION": REGION,
        "LAMBDA_TASK_ROOT": str(ROOT),
        "LANG": "en_US.UTF-8",
        "LIKENESS_MODEL_DIR": str(MODEL_DIR),
        "OPENBLAS_NUM_THREADS": "1",  # as template.yaml sets it
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT / "shared"),
        "TZ": ":UTC",
    }


def _message(body: bytes) -> str:
    error = json.loads(body)
    return f"{error['errorType']}: {error['errorMessage']}"


def _report_death(process: subprocess.Popen[bytes], reports: queue.Queue[_Report]) -> None:
    process.wait()
    reports.put(_Report("died"))


class _RuntimeApi:
    """The Runtime API, from which a runtime gets invocations and to which it sends results."""

    def __init__(self) -> None:
        self.invocations: queue.Queue[_Invocation | None] = queue.Queue()
        self.reports: queue.Queue[_Report] = queue.Queue()
        self.restored = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_class(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.invocations.put(None)
        self.restored.set()
        self._server.shutdown()
        self._server.server_close()


def _handler_class(api: _RuntimeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def handle(self) -> None:
            # a killed process resets its connection
            with suppress(ConnectionError):
                super().handle()

        def do_GET(self) -> None:
            call = self.path.removeprefix(_API)
            api.reports.put(_Report(call.removeprefix("invocation/")))
            if call == "restore/next":
                api.restored.wait()
                self._send(200, b"")
            elif call == "invocation/next" and (invocation := api.invocations.get()):
                self._send(200, invocation.event, _headers(invocation))
            else:
                self.close_connection = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            call = self.path.removeprefix(_API)
            outcome = _OUTCOME.fullmatch(call)
            report = _Report(outcome[2], body, outcome[1]) if outcome else _Report(call, body)
            # before the answer: the process may end as soon as it has it
            api.reports.put(report)
            self._send(202, b'{"status":"OK"}')

        def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def _headers(invocation: _Invocation) -> dict[str, str]:
    trace = uuid.uuid4().hex[:24]
    return {
        "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
        "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
        "Lambda-Runtime-Invoked-Function-Arn": (
            f"arn:aws:lambda:{REGION}:000000000000:function:test"
        ),
        "Lambda-Runtime-Trace-Id": f"Root=1-{int(time.time()):08x}-{trace};Sampled=0",
    }


@contextmanager
def local_aws() -> Iterator[str]:
    """An empty MiniStack on loopback, with the services we use; yields the endpoint's URL."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ministack(Path(folder), "s3,secretsmanager,events,sqs,cloudwatch") as url,
    ):
        yield url


def client(service: str, url: str) -> Any:
    """A boto3 client of MiniStack."""
    credentials = {name.lower(): value for name, value in CREDENTIALS.items()}
    return boto3.client(service, endpoint_url=url, region_name=REGION, **credentials)


def http_event(
    method: str,
    path: str,
    body: bytes | None = None,
    content_type: str = "image/jpeg",
    query: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A REST API's (v1) proxy event, with the body in base64 as for a binary media type."""
    headers = {"host": "api.example.com", "accept": "*/*"}
    if body is not None:
        headers["content-type"] = content_type
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": dict(query) if query else None,
        "multiValueQueryStringParameters": {k: [v] for k, v in query.items()} if query else None,
        "pathParameters": {"proxy": path.lstrip("/")},
        "stageVariables": None,
        "requestContext": {"stage": "v1", "identity": {"sourceIp": "192.0.2.1"}},
        "body": None if body is None else base64.b64encode(body).decode(),
        "isBase64Encoded": body is not None,
    }


def queue_event(bucket: str, keys: Iterable[str], sequencer: int = 1) -> dict[str, Any]:
    """An SQS batch with one S3 notification per message; the message id is the object's key."""
    return {
        "Records": [
            {
                "messageId": key,
                "eventSource": "aws:sqs",
                "body": json.dumps({"Records": [_notification(bucket, key, sequencer)]}),
            }
            for key in keys
        ]
    }


def _notification(bucket: str, key: str, sequencer: int) -> dict[str, Any]:
    s3 = {
        "bucket": {"name": bucket},
        "object": {"key": urllib.parse.quote_plus(key), "sequencer": f"{sequencer:018X}"},
    }
    return {"eventName": "ObjectCreated:Put", "eventTime": "2026-01-01T00:00:00.000Z", "s3": s3}
