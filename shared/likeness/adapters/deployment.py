"""A deployment's check: calls one version of a function, tells CodeDeploy whether it is good."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from likeness.errors import Unavailable

# The search function itself ends after 28 s; a call that was heard must not be made twice.
_CONFIG = Config(connect_timeout=5, read_timeout=40, retries={"total_max_attempts": 1})
# A new version's permission is granted in the same deployment, and IAM spreads it in seconds.
_PAUSES_S = (5.0, 10.0, 15.0)
_REFUSED = "AccessDeniedException"


class Deployment:
    def __init__(
        self,
        functions: Any = None,
        codedeploy: Any = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`functions` and `codedeploy` are boto3's clients of Lambda and CodeDeploy."""
        self._functions = functions or boto3.client("lambda", config=_CONFIG)
        self._codedeploy = codedeploy or boto3.client("codedeploy")
        self._sleep = sleep

    def invoke(self, arn: str, event: Mapping[str, Any]) -> Any:
        """What that version answers. Raises Unavailable where it fails, or does not answer."""
        answer = self._permitted(arn, json.dumps(event).encode())
        try:
            payload = json.loads(answer["Payload"].read())
        except (BotoCoreError, ValueError) as error:
            raise Unavailable(f"{arn} did not answer whole: {error}") from error
        if "FunctionError" in answer:
            raise Unavailable(f"{arn} failed: {payload}")
        return payload

    def _permitted(self, arn: str, event: bytes) -> Any:
        for pause_s in (*_PAUSES_S, None):
            try:
                return self._functions.invoke(FunctionName=arn, Payload=event)
            except (BotoCoreError, ClientError) as error:
                refused = isinstance(error, ClientError) and (
                    error.response["Error"]["Code"] == _REFUSED
                )
                if pause_s is None or not refused:
                    raise Unavailable(f"{arn} did not answer: {error}") from error
            self._sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    def report(self, deployment: str, execution: str, passed: bool) -> None:
        """Whether CodeDeploy is to go on. Raises Unavailable where it was not heard."""
        try:
            self._codedeploy.put_lifecycle_event_hook_execution_status(
                deploymentId=deployment,
                lifecycleEventHookExecutionId=execution,
                status="Succeeded" if passed else "Failed",
            )
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(f"CodeDeploy did not hear it: {error}") from error
