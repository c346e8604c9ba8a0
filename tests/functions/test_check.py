"""The pre-traffic check: real handlers behind a server that acts as Lambda's and CodeDeploy's
APIs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import boto3
import msgspec
import pytest
from aws_lambda_powertools import Logger, Metrics
from botocore.config import Config
from msgspec import structs

from console.bundles.golden import write_golden
from functions.check.handler import Handler
from functions.index.handler import Handler as IndexHandler
from functions.search.gateway import create_handler
from likeness.adapters.deployment import Deployment
from likeness.adapters.index import open_index
from likeness.errors import ConfigurationError, Unavailable
from likeness.indexing import Indexer
from likeness.model import GOLDEN, load_golden, load_spec
from likeness.settings import Settings
from likeness.stopwatch import Stopwatch
from tests.fault_server import Answer, FaultServer, Request, Script, error, serve
from tests.pictures import jpeg
from tests.scripted_qdrant import VERSION
from tests.service import BUNDLED, FIXED_FILTERS, Service

SEARCH = "arn:aws:lambda:us-east-1:123456789012:function:search:7"
INDEX = "arn:aws:lambda:us-east-1:123456789012:function:index:3"
HOOK = {"DeploymentId": "d-1", "LifecycleEventHookExecutionId": "hook-1"}
PATIENT_S, IMPATIENT_S = 20.0, 0.3
DENIED = {"x-amzn-errortype": "AccessDeniedException"}
CONTEXT = SimpleNamespace(
    aws_request_id="check", function_name="search", get_remaining_time_in_millis=lambda: 28_000
)

Answers = dict[str, Callable[[Any], Answer]]


class Aws:
    """Lambda and CodeDeploy: `answers` by the invoked ARN, `reports` to CodeDeploy."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.reports: list[Any] = []
        self.invoked: list[str] = []
        self.codedeploy = Answer(body=b"{}")

    def __call__(self, request: Request) -> Answer:
        if "x-amz-target" in request.headers:
            self.reports.append(request.body)
            return self.codedeploy
        arn = unquote(request.path.split("/")[3])
        self.invoked.append(arn)
        return self.answers[arn](request.body)


def answer_with(payload: Any, **how: Any) -> Answer:
    return Answer(body=json.dumps(payload).encode(), **how)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("index"), BUNDLED) as service:
        service.fill({f"{seed}.jpg": jpeg(seed) for seed in range(2)})
        yield service


def real_search(service: Service) -> Callable[[Any], Answer]:
    def search(event: Any) -> Answer:
        handler = create_handler(service.app)  # which gives this thread an event loop
        try:
            return answer_with(handler(event, CONTEXT))
        finally:
            asyncio.get_event_loop().close()
            asyncio.set_event_loop(None)  # the thread's next search makes its own

    return search


def real_index(service: Service) -> Callable[[Any], Answer]:
    quiet = Logger(service="index", logger_handler=logging.NullHandler())
    indexer = Indexer(service.bucket, service.index, service.embedder)
    metrics = Metrics(namespace="Test", service="index")
    handler = IndexHandler(indexer, quiet, metrics, Stopwatch())
    return lambda event: answer_with(handler(event, CONTEXT))


@pytest.fixture
def aws(service: Service) -> Aws:
    return Aws({SEARCH: real_search(service), INDEX: real_index(service)})


def check(
    aws: Aws,
    event: Any = HOOK,
    model_dir: Path = BUNDLED,
    read_timeout_s: float = PATIENT_S,
    sleep: Callable[[float], None] = lambda pause_s: None,
    next_model_dir: Path | None = None,
    qdrant: Script = (VERSION,),
    secret: str | None = None,
) -> Any:
    """The check's result, with real clients. `qdrant` is what the Qdrant server answers."""
    with serve(aws) as server, serve(qdrant) as index_server:
        settings = Settings(
            index_server.url,
            model_dir,
            next_model_dir=next_model_dir,
            index_api_key_secret=secret,
            search_version=SEARCH,
            index_version=INDEX,
        )
        deployment = Deployment(
            client("lambda", server, read_timeout_s), client("codedeploy", server), sleep
        )
        logger = Logger(service="check", logger_handler=logging.NullHandler())
        return Handler(deployment, lambda: open_index(settings), settings, logger)(event, None)


def client(name: str, server: FaultServer, read_timeout_s: float = PATIENT_S) -> Any:
    return boto3.client(
        name,  # type: ignore[call-overload]
        "us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(read_timeout=read_timeout_s, retries={"total_max_attempts": 1}),
    )


def report(status: str) -> list[Any]:
    return [{"deploymentId": "d-1", "lifecycleEventHookExecutionId": "hook-1", "status": status}]


def assert_failed(aws: Aws, why: str, **how: Any) -> None:
    answer = check(aws, **how)
    assert not answer["passed"]
    assert why in answer["why"]
    assert aws.reports == report("Failed")


def test_versions_that_pass_get_traffic(aws: Aws) -> None:
    assert check(aws) == {"passed": True, "why": ""}
    assert aws.reports == report("Succeeded")
    assert aws.invoked == [INDEX, SEARCH]


def test_invoked_by_hand_it_reports_to_nobody(aws: Aws) -> None:
    assert check(aws, event={}) == {"passed": True, "why": ""}
    assert aws.reports == []


def test_a_stack_without_images_passes(aws: Aws, tmp_path: Path) -> None:
    with Service(tmp_path, BUNDLED) as empty:
        aws.answers[SEARCH] = real_search(empty)
        assert check(aws)["passed"]
    assert aws.reports == report("Succeeded")


def test_a_version_with_another_vector_for_the_golden_image_gets_no_traffic(
    aws: Aws, tmp_path: Path
) -> None:
    golden = load_golden(BUNDLED, load_spec(BUNDLED))
    first, *others = golden.vector
    other = structs.replace(golden, vector=(first + 0.2, *others))
    shutil.copy(BUNDLED / "model.json", tmp_path)
    (tmp_path / GOLDEN).write_bytes(msgspec.json.encode(other))
    assert_failed(aws, "another vector: cosine 0.9", model_dir=tmp_path)


def test_a_version_without_qdrant_gets_no_traffic(aws: Aws) -> None:
    problem = {"type": "urn:likeness:problem:index-unavailable"}
    answer = answer_with({"statusCode": 503, "body": json.dumps(problem)})
    aws.answers[SEARCH] = lambda event: answer
    assert_failed(aws, "answered with 503")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(200, b'{"title": "qdrant", "version": "1.18.2"}'), "Qdrant 1.18.2 is too old: use"),
        (Answer(200, b"<html>a proxy</html>"), "version, which cannot be read"),
        (Answer(200, b'{"title": "another service", "version": "2.0"}'), "'another service' '2.0'"),
        (Answer(401, b"Invalid API key or JWT"), "no API key, or a wrong one"),
        (error(500), "Qdrant is not answering (HTTP 500: no)"),
    ],
)
def test_on_a_server_that_cannot_be_written_to_no_version_gets_traffic(
    aws: Aws, answer: Answer, why: str
) -> None:
    assert_failed(aws, why, qdrant=[answer])


def test_a_key_of_qdrant_that_cannot_be_read_is_reported_too(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(arn: str) -> str:
        raise ConfigurationError("cannot read the Qdrant secret: AccessDeniedException")

    monkeypatch.setattr("likeness.adapters.index.read_secret", unreadable)
    assert_failed(aws, "cannot read the Qdrant secret", secret="arn:secret")


def test_a_version_that_raises_gets_no_traffic(aws: Aws) -> None:
    for arn in (SEARCH, INDEX):
        aws.reports.clear()
        good, bad = aws.answers[arn], {"errorMessage": "no module named numpy"}
        raised = answer_with(bad, headers={"x-amz-function-error": "Unhandled"})
        aws.answers[arn] = lambda event, raised=raised: raised  # type: ignore[misc]
        assert_failed(aws, "no module named numpy")
        aws.answers[arn] = good


def test_a_version_that_does_not_answer_in_time_gets_no_traffic(aws: Aws) -> None:
    aws.answers[SEARCH] = lambda event: answer_with({}, wait_s=PATIENT_S)
    assert_failed(aws, "did not answer", read_timeout_s=IMPATIENT_S)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        {"statusCode": 200},
        {"statusCode": 200, "body": "<html>"},
        {"statusCode": 200, "body": "{}"},
        {"statusCode": 200, "body": '{"query_id": "!", "results": []}'},
        {"statusCode": 503, "body": ""},
    ],
)
def test_a_response_in_another_format_is_refused(aws: Aws, payload: Any) -> None:
    aws.answers[SEARCH] = lambda event: answer_with(payload)
    assert_failed(aws, "")


def test_a_truncated_response_is_refused(aws: Aws) -> None:
    aws.answers[SEARCH] = lambda event: Answer(body=b'{"statusCode"', length=99, close=True)
    assert_failed(aws, "incomplete response")


def test_an_index_function_that_indexes_a_test_event_gets_no_traffic(aws: Aws) -> None:
    aws.answers[INDEX] = lambda event: answer_with({"indexed": 1})
    assert_failed(aws, "test event")


def test_a_bundle_without_a_golden_pair_is_refused(aws: Aws, tmp_path: Path) -> None:
    shutil.copy(BUNDLED / "model.json", tmp_path)
    assert_failed(aws, GOLDEN, model_dir=tmp_path)


# Between the switch and the finish of a migration


@pytest.fixture
def switched(aws: Aws, tmp_path: Path) -> Iterator[Path]:
    """The bundle of the next model, which answers searches; it has a golden image."""
    next_model = shutil.copytree(FIXED_FILTERS, tmp_path / "next-model")
    write_golden(next_model)
    with Service(tmp_path / "index", next_model) as service:
        service.fill({"1.jpg": jpeg(1)})
        aws.answers[SEARCH] = real_search(service)
        yield next_model


def test_after_the_switch_the_next_model_is_checked(aws: Aws, switched: Path) -> None:
    assert check(aws, next_model_dir=switched)["passed"]
    assert aws.reports == report("Succeeded")


def test_the_next_model_must_also_give_the_golden_vector(aws: Aws, switched: Path) -> None:
    golden = load_golden(switched, load_spec(switched))
    other = structs.replace(golden, vector=golden.vector[::-1])
    (switched / GOLDEN).write_bytes(msgspec.json.encode(other))
    assert_failed(aws, "another vector", next_model_dir=switched)


def test_a_next_model_without_a_golden_pair_passes_and_that_is_logged(
    aws: Aws, switched: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (switched / GOLDEN).unlink()
    assert check(aws, next_model_dir=switched)["passed"]
    assert "the next model has no golden.json" in caplog.text


def test_an_answer_by_a_third_model_is_refused(aws: Aws, switched: Path, service: Service) -> None:
    assert_failed(aws, "of model")
    (switched / GOLDEN).unlink()
    manifest = json.loads((switched / "model.json").read_text())
    (switched / "model.json").write_text(json.dumps(manifest | {"normalise": {"scale": 0.02}}))
    aws.reports.clear()
    assert_failed(aws, "of model", next_model_dir=switched)


def test_a_permission_that_takes_effect_late_is_waited_for(aws: Aws) -> None:
    good, pauses_s = aws.answers[SEARCH], list[float]()
    refused = [answer_with({}, status=403, headers=DENIED) for _ in range(2)]
    aws.answers[SEARCH] = lambda event: refused.pop() if refused else good(event)
    assert check(aws, sleep=pauses_s.append)["passed"]
    assert len(pauses_s) == 2
    assert aws.reports == report("Succeeded")


def test_a_missing_permission_fails_the_deployment(aws: Aws) -> None:
    aws.answers[INDEX] = lambda event: answer_with({}, status=403, headers=DENIED)
    assert_failed(aws, "AccessDeniedException")
    assert set(aws.invoked) == {INDEX}


def test_an_unknown_error_is_reported_to_codedeploy(aws: Aws) -> None:
    with pytest.raises(TypeError):
        check(aws, model_dir=None)  # type: ignore[arg-type]
    assert aws.reports == report("Failed")


def test_a_report_that_codedeploy_refuses_is_an_error(aws: Aws) -> None:
    aws.codedeploy = answer_with({"__type": "InvalidDeploymentIdException"}, status=400)
    with pytest.raises(Unavailable, match="InvalidDeploymentId"):
        check(aws)
