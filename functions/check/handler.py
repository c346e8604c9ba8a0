"""Before traffic reaches new versions: do they start, and see a picture as the model should?

CodeDeploy calls this ahead of each function's deployment, and waits an hour for a word; so it is
told in every case. Both functions are checked each time: CodeDeploy does not say whose turn it is.
Called by hand, with any other event, it only answers.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from aws_lambda_powertools import Logger

from likeness.adapters.deployment import Deployment
from likeness.errors import ConfigurationError, LikenessError, ModelMismatch
from likeness.model import GOLDEN, ModelSpec, load_golden, load_spec
from likeness.query_tokens import decode_query_token
from likeness.records import Vector
from likeness.settings import Settings

_OK, _UNAVAILABLE = 200, 503
# Processors agree to .999999 (decision 0024), and a query_id keeps half precision.
_SAME_COSINE = 0.999
# What S3 sends when a notification is set: it names no object, so nothing is read or written.
_TEST_EVENT = {"Service": "Amazon S3", "Event": "s3:TestEvent"}
_SEARCH_PATH = "/v1/search"
_NOTHING_INDEXED = "urn:likeness:problem:index-missing"


class Unexpected(Exception):
    """A new version answers otherwise than it should."""


class _Answer(msgspec.Struct):
    """Of a function behind API Gateway."""

    statusCode: int  # noqa: N815 - its name in the gateway's format
    body: str


class _Found(msgspec.Struct):
    query_id: str
    results: list[Any]


class _Problem(msgspec.Struct):
    type: str = ""


class Handler:
    def __init__(self, deployment: Deployment, settings: Settings, logger: Logger) -> None:
        self._deployment = deployment
        self._settings = settings
        self._logger = logger

    def __call__(self, event: Mapping[str, Any], context: Any) -> dict[str, Any]:
        """Whether both versions are good, and what is wrong. Raises Unavailable where CodeDeploy
        cannot be told.
        """
        passed, why = False, ""
        try:
            self._check()
            passed = True
        except (Unexpected, LikenessError, msgspec.MsgspecError) as error:
            why = str(error)
            self._logger.error("the new versions are not good", why=why)
        finally:  # whatever else went wrong: without a word the deployment would hang
            if "DeploymentId" in event:
                self._deployment.report(
                    event["DeploymentId"], event["LifecycleEventHookExecutionId"], passed
                )
        return {"passed": passed, "why": why}

    def _check(self) -> None:
        search, index = self._settings.search_version, self._settings.index_version
        if not (search and index):
            raise ConfigurationError("LIKENESS_SEARCH_VERSION, LIKENESS_INDEX_VERSION: set both")
        self._check_search(search)
        told = self._deployment.invoke(index, _TEST_EVENT)
        if told != {"indexed": 0}:
            raise Unexpected(f"the index function answers a test event with {told}")

    def _check_search(self, arn: str) -> None:
        """The model that answers sees its own golden picture as it should. Once a migration is
        switched that is the next one.
        """
        current, *others = self._settings.model_dirs
        try:
            self._check_model(arn, current)
        except ModelMismatch:
            if not others:
                raise
            [following] = others
            if (following / GOLDEN).exists():
                self._check_model(arn, following)
            else:  # any picture shows that it is this model, none how it should see it
                image = load_golden(current, load_spec(current)).image
                self._seen(arn, image, load_spec(following))
                self._logger.warning(f"the next model has no {GOLDEN}: its vector is not checked")

    def _check_model(self, arn: str, model_dir: Path) -> None:
        spec = load_spec(model_dir)
        golden = load_golden(model_dir, spec)
        seen = self._seen(arn, golden.image, spec)
        if seen is None:
            return  # a new stack, before its first image
        cosine = float(seen @ np.array(golden.vector)) / float(np.linalg.norm(seen))
        if not cosine >= _SAME_COSINE:
            raise Unexpected(f"the golden picture has another vector: cosine {cosine:.4f}")

    def _seen(self, arn: str, image: bytes, spec: ModelSpec) -> Vector | None:
        """A picture's vector after one whole search: decode, embed, ask Qdrant, rerank. None where
        nothing is indexed. Raises ModelMismatch where another model answers.
        """
        answer = msgspec.convert(self._deployment.invoke(arn, search_event(image)), _Answer)
        if answer.statusCode == _UNAVAILABLE:
            problem = msgspec.json.decode(answer.body, type=_Problem)
            if problem.type == _NOTHING_INDEXED:
                return None
        if answer.statusCode != _OK:
            raise Unexpected(f"a search is answered with {answer.statusCode}: {answer.body[:500]}")
        found = msgspec.json.decode(answer.body, type=_Found)
        return decode_query_token(found.query_id, spec)[0].vector


def search_event(image: bytes) -> dict[str, Any]:
    """A search with a picture, as API Gateway passes it on."""
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
