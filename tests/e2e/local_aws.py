"""MiniStack over TLS, patched in six places so that the template deploys unchanged.

Run by the Python of `.venv-ministack`, which also runs the functions' handlers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack.app import app
from ministack.core import iam_actions
from ministack.services import apigateway_v1 as gateway
from ministack.services import cognito
from ministack.services.cloudformation import provisioners

ESCAPED_SLASH = "~1"


def patch_ministack() -> None:
    """Add what CloudFormation and API Gateway do and MiniStack 1.5.33 does not."""
    import_path = gateway._import_path_item
    create_api = gateway._create_rest_api
    make_event = gateway._build_lambda_event_v1
    mapping = provisioners._RESOURCE_HANDLERS["AWS::Lambda::EventSourceMapping"]
    create_mapping = mapping["create"]

    def import_any_method(api: str, path: str, item: dict[str, Any], *rest: Any) -> None:
        any_method = "x-amazon-apigateway-any-method"
        item = {"any" if name == any_method else name: item[name] for name in item}
        import_path(api, path, item, *rest)

    def create_api_unescaped(data: dict[str, Any]) -> Any:
        types = [kind.replace(ESCAPED_SLASH, "/") for kind in data.get("binaryMediaTypes", [])]
        return create_api({**data, "binaryMediaTypes": types})

    def make_event_with_key_id(*parts: Any, **options: Any) -> Any:
        """The event names the id of the API key that was sent."""
        event = make_event(*parts, **options)
        key = gateway._resolve_api_key(gateway._api_key_from_request(event["headers"]))
        event["requestContext"]["identity"]["apiKeyId"] = key and key["id"]
        return event

    async def fetch_keys_of_pool(url: str) -> Any:
        """The pool's keys, read directly: MiniStack would request them from itself without TLS."""
        _, _, body = cognito.well_known_jwks(urlsplit(url).path.split("/")[1])
        return json.loads(body)

    def create_mapping_with_number(name: str, properties: dict[str, Any], stack: str) -> Any:
        scaling = {key: int(value) for key, value in properties["ScalingConfig"].items()}
        return create_mapping(name, {**properties, "ScalingConfig": scaling}, stack)

    action_from_target = iam_actions._action_from_target

    def action_without_batch(headers: dict[str, str]) -> str | None:
        """The permission for one SQS message also allows batches."""
        action: str | None = action_from_target(headers)
        is_sqs = action and headers.get("x-amz-target", "").startswith("AmazonSQS.")
        return action.removesuffix("Batch") if action and is_sqs else action

    iam_actions._action_from_target = action_without_batch
    gateway._OPENAPI_HTTP_METHODS.add("any")
    gateway._import_path_item = import_any_method
    gateway._create_rest_api = create_api_unescaped
    gateway._fetch_jwks = fetch_keys_of_pool
    gateway._build_lambda_event_v1 = make_event_with_key_id
    mapping["create"] = create_mapping_with_number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--private-key", required=True)
    arguments = parser.parse_args()
    config = Config()
    config.bind = [f"127.0.0.1:{arguments.port}"]
    config.certfile, config.keyfile = arguments.certificate, arguments.private_key
    patch_ministack()
    asyncio.run(serve(app, config))


if __name__ == "__main__":
    main()
