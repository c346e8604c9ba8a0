"""API Gateway's events → the ASGI app."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

from mangum import Mangum
from mangum.types import ASGI, LambdaEvent
from starlette.types import ASGIApp

from . import problems

_TEXT_TYPES = ["text/", "application/json", "application/problem+json", "image/svg+xml"]

Handler = Callable[[LambdaEvent, Any], Mapping[str, Any]]


@functools.cache
def _set_event_loop() -> None:
    """Mangum runs the app in the thread's event loop, which Python 3.12 no longer creates."""
    asyncio.set_event_loop(asyncio.new_event_loop())


def create_handler(app: ASGIApp) -> Handler:
    """The Lambda handler for proxy events of a REST API (v1)."""
    _set_event_loop()
    # with a lifespan, Mangum would run the app's start-up for every request
    adapter = Mangum(cast(ASGI, app), lifespan="off", text_mime_types=_TEXT_TYPES)

    def handler(event: LambdaEvent, context: Any) -> Mapping[str, Any]:
        try:
            answer: Mapping[str, Any] = adapter(event, context)
        except ValueError:  # invalid base64, even non-ASCII; an invalid Host header
            response = problems.respond(
                400,
                "invalid-request",
                "the request cannot be read; is its body base64?",
                context.aws_request_id,
            )
            return {
                "statusCode": response.status_code,
                "headers": dict(response.headers),
                "body": bytes(response.body).decode(),
                "isBase64Encoded": False,
            }
        return answer

    return handler
