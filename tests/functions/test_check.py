"""The check before traffic: real handlers behind a server that stands for Lambda's and
CodeDeploy's APIs.
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

from console.bundles.packaging import write_golden
from functions.check.handler import Handler
from functions.index.handler import Handler as IndexHandler
from functions.search.gateway import create_handler
from likeness.adapters.deployment import Deployment
from likeness.errors import Unavailable
from likeness.indexing import Indexer
from likeness.model import GOLDEN, load_golden, load_spec
from likeness.settings import Settings
from likeness.stopwatch import Stopwatch
from tests.fault_server import Answer, FaultServer, Request, serve
from tests.pictures import jpeg
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
    """Lambda and CodeDeploy: `answers` by the ARN that is invoked; what CodeDeploy was told."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.told: list[Any] = []
        self.invoked: list[str] = []
        self.codedeploy = Answer(body=b"{}")

    def __call__(self, request: Request) -> Answer:
        if "x-amz-target" in request.headers:
            self.told.append(request.body)
            return self.codedeploy
        arn = unquote(request.path.split("/")[3])
        self.invoked.append(arn)
        return self.answers[arn](request.body)


def answered(payload: Any, **how: Any) -> Answer:
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
            return answered(handler(event, CONTEXT))
        finally:
            asyncio.get_event_loop().close()
            asyncio.set_event_loop(None)  # the thread's next search makes its own

    return search


def real_index(service: Service) -> Callable[[Any], Answer]:
    quiet = Logger(service="index", logger_handler=logging.NullHandler())
    indexer = Indexer(service.bucket, service.index, service.embedder)
    metrics = Metrics(namespace="Test", service="index")
    handler = IndexHandler(indexer, quiet, metrics, Stopwatch())
    return lambda event: answered(handler(event, CONTEXT))


@pytest.fixture
def aws(service: Service) -> Aws:
    return Aws({SEARCH: real_search(service), INDEX: real_index(service)})


def checked(
    aws: Aws,
    event: Any = HOOK,
    model_dir: Path = BUNDLED,
    read_timeout_s: float = PATIENT_S,
    sleep: Callable[[float], None] = lambda pause_s: None,
    next_model_dir: Path | None = None,
) -> Any:
    """What the check answers, over real clients."""
    with serve(aws) as server:
        settings = Settings(
            "http://unused",
            model_dir,
            next_model_dir=next_model_dir,
            search_version=SEARCH,
            index_version=INDEX,
        )
        deployment = Deployment(
            client("lambda", server, read_timeout_s), client("codedeploy", server), sleep
        )
        logger = Logger(service="check", logger_handler=logging.NullHandler())
        return Handler(deployment, settings, logger)(event, None)


def client(name: str, server: FaultServer, read_timeout_s: float = PATIENT_S) -> Any:
    return boto3.client(
        name,  # type: ignore[call-overload]
        "us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(read_timeout=read_timeout_s, retries={"total_max_attempts": 1}),
    )


def told(status: str) -> list[Any]:
    return [{"deploymentId": "d-1", "lifecycleEventHookExecutionId": "hook-1", "status": status}]


def assert_refused(aws: Aws, why: str, **how: Any) -> None:
    answer = checked(aws, **how)
    assert not answer["passed"]
    assert why in answer["why"]
    assert aws.told == told("Failed")


def test_good_versions_get_traffic(aws: Aws) -> None:
    assert checked(aws) == {"passed": True, "why": ""}
    assert aws.told == told("Succeeded")
    assert aws.invoked == [SEARCH, INDEX]


def test_by_hand_it_answers_and_tells_nobody(aws: Aws) -> None:
    assert checked(aws, event={}) == {"passed": True, "why": ""}
    assert aws.told == []


def test_a_stack_without_an_image_yet_is_good(aws: Aws, tmp_path: Path) -> None:
    with Service(tmp_path, BUNDLED) as empty:
        aws.answers[SEARCH] = real_search(empty)
        assert checked(aws)["passed"]
    assert aws.told == told("Succeeded")


def test_a_version_that_sees_the_picture_otherwise_gets_none(aws: Aws, tmp_path: Path) -> None:
    golden = load_golden(BUNDLED, load_spec(BUNDLED))
    first, *others = golden.vector
    other = structs.replace(golden, vector=(first + 0.1, *others))
    shutil.copy(BUNDLED / "model.json", tmp_path)
    (tmp_path / GOLDEN).write_bytes(msgspec.json.encode(other))
    assert_refused(aws, "another vector: cosine 0.98", model_dir=tmp_path)


def test_a_search_without_qdrant_is_no_good_one(aws: Aws) -> None:
    problem = {"type": "urn:likeness:problem:index-unavailable"}
    answer = answered({"statusCode": 503, "body": json.dumps(problem)})
    aws.answers[SEARCH] = lambda event: answer
    assert_refused(aws, "answered with 503")


def test_a_version_that_raises_gets_none(aws: Aws) -> None:
    for arn in (SEARCH, INDEX):
        aws.told.clear()
        good, bad = aws.answers[arn], {"errorMessage": "no module named numpy"}
        raised = answered(bad, headers={"x-amz-function-error": "Unhandled"})
        aws.answers[arn] = lambda event, raised=raised: raised  # type: ignore[misc]
        assert_refused(aws, "no module named numpy")
        aws.answers[arn] = good


def test_a_version_that_does_not_answer_in_time_gets_none(aws: Aws) -> None:
    aws.answers[SEARCH] = lambda event: answered({}, wait_s=PATIENT_S)
    assert_refused(aws, "did not answer", read_timeout_s=IMPATIENT_S)


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
def test_an_answer_that_is_none_of_ours_is_refused(aws: Aws, payload: Any) -> None:
    aws.answers[SEARCH] = lambda event: answered(payload)
    assert_refused(aws, "")


def test_an_answer_that_breaks_off_is_refused(aws: Aws) -> None:
    aws.answers[SEARCH] = lambda event: Answer(body=b'{"statusCode"', length=99, close=True)
    assert_refused(aws, "did not answer")


def test_an_index_function_that_takes_a_test_event_for_an_image_gets_none(aws: Aws) -> None:
    aws.answers[INDEX] = lambda event: answered({"indexed": 1})
    assert_refused(aws, "test event")


def test_a_bundle_without_a_golden_pair_is_refused(aws: Aws, tmp_path: Path) -> None:
    shutil.copy(BUNDLED / "model.json", tmp_path)
    assert_refused(aws, GOLDEN, model_dir=tmp_path)


# Between the switch and the end of a migration


@pytest.fixture
def switched(aws: Aws, tmp_path: Path) -> Iterator[Path]:
    """The next model's bundle, with its golden pair; it is the model that answers."""
    following = shutil.copytree(FIXED_FILTERS, tmp_path / "next-model")
    write_golden(following)
    with Service(tmp_path / "index", following) as service:
        service.fill({"1.jpg": jpeg(1)})
        aws.answers[SEARCH] = real_search(service)
        yield following


def test_the_next_model_answers_once_a_migration_is_switched(aws: Aws, switched: Path) -> None:
    assert checked(aws, next_model_dir=switched)["passed"]
    assert aws.told == told("Succeeded")


def test_the_next_model_too_must_see_its_picture_as_it_should(aws: Aws, switched: Path) -> None:
    golden = load_golden(switched, load_spec(switched))
    other = structs.replace(golden, vector=golden.vector[::-1])
    (switched / GOLDEN).write_bytes(msgspec.json.encode(other))
    assert_refused(aws, "another vector", next_model_dir=switched)


def test_a_next_model_without_a_golden_pair_passes_and_that_is_logged(
    aws: Aws, switched: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (switched / GOLDEN).unlink()
    assert checked(aws, next_model_dir=switched)["passed"]
    assert "the next model has no golden.json" in caplog.text


def test_a_model_that_is_neither_is_refused(aws: Aws, switched: Path, service: Service) -> None:
    assert_refused(aws, "of model")
    (switched / GOLDEN).unlink()
    manifest = json.loads((switched / "model.json").read_text())
    (switched / "model.json").write_text(json.dumps(manifest | {"normalise": {"scale": 0.02}}))
    aws.told.clear()
    assert_refused(aws, "of model", next_model_dir=switched)


def test_a_permission_that_is_not_there_yet_is_waited_for(aws: Aws) -> None:
    good, pauses_s = aws.answers[SEARCH], list[float]()
    refused = [answered({}, status=403, headers=DENIED) for _ in range(2)]
    aws.answers[SEARCH] = lambda event: refused.pop() if refused else good(event)
    assert checked(aws, sleep=pauses_s.append)["passed"]
    assert len(pauses_s) == 2
    assert aws.told == told("Succeeded")


def test_a_permission_that_never_comes_ends_the_deployment(aws: Aws) -> None:
    aws.answers[SEARCH] = lambda event: answered({}, status=403, headers=DENIED)
    assert_refused(aws, "AccessDeniedException")
    assert set(aws.invoked) == {SEARCH}


def test_whatever_else_goes_wrong_codedeploy_is_told(aws: Aws) -> None:
    with pytest.raises(TypeError):
        checked(aws, model_dir=None)  # type: ignore[arg-type]
    assert aws.told == told("Failed")


def test_a_codedeploy_that_does_not_hear_is_an_error(aws: Aws) -> None:
    aws.codedeploy = answered({"__type": "InvalidDeploymentIdException"}, status=400)
    with pytest.raises(Unavailable, match="InvalidDeploymentId"):
        checked(aws)
