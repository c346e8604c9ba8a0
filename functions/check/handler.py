"""The pre-traffic check: do new versions start, can they write to this version of Qdrant, and do
they embed the golden image as the model should?

CodeDeploy invokes this before each function's deployment and waits up to an hour for the result, so
a result is reported in every case. Both functions are checked each time: CodeDeploy does not say
which one is being deployed. Invoked by hand, with any other event, it only returns the result.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from aws_lambda_powertools import Logger

from likeness.adapters.deployment import Deployment
from likeness.errors import ConfigurationError, LikenessError, ModelMismatch
from likeness.model import GOLDEN, ModelSpec, load_golden, load_spec
from likeness.ports import VectorIndex
from likeness.query_tokens import decode_query_token
from likeness.records import Vector
from likeness.settings import Settings

_OK, _UNAVAILABLE = 200, 503
# Processors agree to .999999 (decision 0024), and a query_id has half precision.
_MIN_COSINE = 0.999
# S3 sends it when a notification is configured. It names no object: nothing is read or written.
_TEST_EVENT = {"Service": "Amazon S3", "Event": "s3:TestEvent"}
_SEARCH_PATH = "/v1/search"
_NOTHING_INDEXED = "urn:likeness:problem:index-missing"


class UnexpectedAnswer(Exception):
    """A new version gives a wrong answer."""


class _Response(msgspec.Struct):
    """The response of a function behind API Gateway."""

    statusCode: int  # noqa: N815 - API Gateway's name
    body: str


class _SearchResponse(msgspec.Struct):
    query_id: str
    results: list[Any]


class _Problem(msgspec.Struct):
    type: str = ""


class Handler:
    def __init__(
        self,
        deployment: Deployment,
        open_index: Callable[[], VectorIndex],
        settings: Settings,
        logger: Logger,
    ) -> None:
        """`open_index` is called by each check, so that its errors are results too."""
        self._deployment = deployment
        self._open_index = open_index
        self._settings = settings
        self._logger = logger

    def __call__(self, event: Mapping[str, Any], context: Any) -> dict[str, Any]:
        """Whether both versions passed, and if not, why. Raises Unavailable if CodeDeploy cannot be
        reached.
        """
        passed, why = False, ""
        try:
            self._check()
            passed = True
        except (UnexpectedAnswer, LikenessError, msgspec.MsgspecError) as error:
            why = str(error)
            self._logger.error("pre-traffic check failed", why=why)
        finally:  # even after an unknown error: without a result the deployment would hang
            if "DeploymentId" in event:
                self._deployment.report(
                    event["DeploymentId"], event["LifecycleEventHookExecutionId"], passed
                )
        return {"passed": passed, "why": why}

    def _check(self) -> None:
        search, index = self._settings.search_version, self._settings.index_version
        if not (search and index):
            raise ConfigurationError(
                "LIKENESS_SEARCH_VERSION and LIKENESS_INDEX_VERSION must be set"
            )
        answer = self._deployment.invoke(index, _TEST_EVENT)
        if answer != {"indexed": 0}:
            raise UnexpectedAnswer(f"the index function answers a test event with {answer}")
        self._check_qdrant()
        self._check_search(search)

    def _check_qdrant(self) -> None:
        """Raises ConfigurationError for a server that is too old, Unavailable where no version can
        be read: the index function would write nothing.
        """
        self._logger.info("qdrant", version=self._open_index().check_server())

    def _check_search(self, arn: str) -> None:
        """Check the model that answers with its own golden image. Once a migration is switched,
        that is the next model.
        """
        current, *others = self._settings.model_dirs
        try:
            self._check_model(arn, current)
        except ModelMismatch:
            if not others:
                raise
            [next_model] = others
            if (next_model / GOLDEN).exists():
                self._check_model(arn, next_model)
            else:  # any image shows that this model answers, but not that its vector is right
                image = load_golden(current, load_spec(current)).image
                self._search_vector(arn, image, load_spec(next_model))
                self._logger.warning(f"the next model has no {GOLDEN}: its vector is not checked")

    def _check_model(self, arn: str, model_dir: Path) -> None:
        spec = load_spec(model_dir)
        golden = load_golden(model_dir, spec)
        vector = self._search_vector(arn, golden.image, spec)
        if vector is None:
            return  # a new stack, before its first image
        cosine = float(vector @ np.array(golden.vector)) / float(np.linalg.norm(vector))
        if not cosine >= _MIN_COSINE:
            raise UnexpectedAnswer(f"the golden image has another vector: cosine {cosine:.4f}")

    def _search_vector(self, arn: str, image: bytes, spec: ModelSpec) -> Vector | None:
        """An image's vector after one complete search: decode, embed, query Qdrant, rerank. None if
        nothing is indexed. Raises ModelMismatch if another model answers.
        """
        answer = msgspec.convert(self._deployment.invoke(arn, search_event(image)), _Response)
        if answer.statusCode == _UNAVAILABLE:
            problem = msgspec.json.decode(answer.body, type=_Problem)
            if problem.type == _NOTHING_INDEXED:
                return None
        if answer.statusCode != _OK:
            raise UnexpectedAnswer(
                f"a search is answered with {answer.statusCode}: {answer.body[:500]}"
            )
        response = msgspec.json.decode(answer.body, type=_SearchResponse)
        return decode_query_token(response.query_id, spec)[0].vector


def search_event(image: bytes) -> dict[str, Any]:
    """A search by image, as API Gateway passes it on."""
    headers = {"content-type": "image/jpeg", "host": "check.invalid"}
    parameters = {"limit": "1"}
    return {
        "resource": "/{proxy+}",
        "path": _SEARCH_PATH,
        "httpMethod": "POST",
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": parameters,
        "multiValueQueryStringParameters": {name: [value] for name, value in parameters.items()},
        "pathParameters": {"proxy": _SEARCH_PATH.removeprefix("/")},
        "stageVariables": None,
        "requestContext": {
            "resourcePath": "/{proxy+}",
            "httpMethod": "POST",
            "path": f"/live{_SEARCH_PATH}",
            "stage": "live",
            "requestId": "check",
            "identity": {"sourceIp": "127.0.0.1"},
        },
        "body": base64.b64encode(image).decode(),
        "isBase64Encoded": True,
    }
