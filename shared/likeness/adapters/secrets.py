"""Secrets Manager: the Qdrant key, which is never in an environment variable on AWS."""

from __future__ import annotations

import json

from likeness.errors import ConfigurationError


def read_secret(arn: str) -> str:
    """The secret's text, or its `api_key` field where it is a JSON object.

    Raises ConfigurationError where it cannot be read.
    """
    # boto3 with a client takes .1 s: not imported where the search function needs no secret
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    # Lambda allows 10 s for code that runs after a restore
    config = Config(connect_timeout=1, read_timeout=3, retries={"total_max_attempts": 2})
    try:
        client = boto3.client("secretsmanager", config=config)
        text = client.get_secret_value(SecretId=arn)["SecretString"].strip()
    except (BotoCoreError, ClientError, KeyError) as error:
        raise ConfigurationError(f"cannot read the Qdrant secret: {error}") from error
    if not text.startswith("{"):
        return text
    try:
        return str(json.loads(text)["api_key"])
    except (ValueError, KeyError) as error:
        raise ConfigurationError("the Qdrant secret has no field api_key") from error
