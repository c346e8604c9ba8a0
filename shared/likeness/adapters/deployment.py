"""Pre-traffic checks: calls one version of a function, and reports the result to CodeDeploy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from likeness.errors import Unavailable

# The search function ends after 28 s itself. No retries: the function would run twice.
_CONFIG = Config(connect_timeout=5, read_timeout=40, retries={"total_max_attempts": 1})
# Permission to call a new version is granted in the same deployment; IAM takes seconds to apply it.
_PAUSES_S = (5.0, 10.0, 15.0)
_ACCESS_DENIED = "AccessDeniedException"


class Deployment:
    def __init__(
        self,
        functions: Any = None,
        codedeploy: Any = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`functions` and `codedeploy` are boto3 clients of Lambda and CodeDeploy."""
        self._functions = functions or boto3.client("lambda", config=_CONFIG)
        self._codedeploy = codedeploy or boto3.client("codedeploy")
        self._sleep = sleep

    def invoke(self, arn: str, event: Mapping[str, Any]) -> Any:
        """The response of that function version. Raises Unavailable where it fails or is silent."""
        response = self._invoke_when_permitted(arn, json.dumps(event).encode())
        try:
            payload = json.loads(response["Payload"].read())
        except (BotoCoreError, ValueError) as error:
            raise Unavailable(f"{arn} sent an incomplete response: {error}") from error
        if "FunctionError" in response:
            raise Unavailable(f"{arn} failed: {payload}")
        return payload

    def _invoke_when_permitted(self, arn: str, event: bytes) -> Any:
        for pause_s in (*_PAUSES_S, None):
            try:
                return self._functions.invoke(FunctionName=arn, Payload=event)
            except (BotoCoreError, ClientError) as error:
                denied = isinstance(error, ClientError) and (
                    error.response["Error"]["Code"] == _ACCESS_DENIED
                )
                if pause_s is None or not denied:
                    raise Unavailable(f"{arn} did not answer: {error}") from error
            self._sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def report(self, deployment: str, execution: str, passed: bool) -> None:
        """Tell CodeDeploy whether to continue. Raises Unavailable where that fails."""
        try:
            self._codedeploy.put_lifecycle_event_hook_execution_status(
                deploymentId=deployment,
                lifecycleEventHookExecutionId=execution,
                status="Succeeded" if passed else "Failed",
            )
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(f"could not report to CodeDeploy: {error}") from error
