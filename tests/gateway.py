"""API Gateway for tests: requests become events of a REST API, with an authorizer's context."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.types import ASGIApp

from functions.search.gateway import create_handler


class Context:
    """Lambda's context: the two attributes that the handler reads."""

    aws_request_id = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return 10_000


class Gateway:
    """Calls the app through the handler, as Lambda does."""

    def __init__(self, app: ASGIApp) -> None:
        self._handler = create_handler(app)

    def call(
        self,
        method: str,
        url: str,
        body: Any = None,
        *,
        authorizer: Any = None,
        identity: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Status and JSON of the answer, or its bytes as base64. `authorizer` and `identity` become
        part of the event's request context.
        """
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        sent_headers = {
            "Host": "abc123.execute-api.us-east-1.amazonaws.com",
            "Content-Type": "application/json",
            **(headers or {}),
        }
        event: Any = {
            "resource": "/{proxy+}",
            "path": parts.path,
            "httpMethod": method,
            "headers": sent_headers,
            "multiValueHeaders": {name: [value] for name, value in sent_headers.items()},
            "queryStringParameters": query or None,
            "multiValueQueryStringParameters": {k: [v] for k, v in query.items()} or None,
            "requestContext": {
                "httpMethod": method,
                "identity": {"sourceIp": "192.0.2.1", "userAgent": "tests", **(identity or {})},
                **({} if authorizer is None else {"authorizer": authorizer}),
            },
            "body": None if body is None else json.dumps(body),
            "isBase64Encoded": False,
        }
        answer: Any = self._handler(event, Context())
        if answer["isBase64Encoded"]:
            return answer["statusCode"], {"bytes": answer["body"]}
        return answer["statusCode"], json.loads(answer["body"])
