"""What Lambda says about the invocation behind a request: its id, and the time that is left."""

from __future__ import annotations

import asyncio
import functools
import math
import time
import uuid
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from likeness.errors import Unavailable

_RESERVE_S = 0.5  # to send an answer
_ERROR_RESERVE_S = 0.25  # to send an error instead

Endpoint = Callable[[Request], Awaitable[Response]]


def request_id(request: Request) -> str:
    """Lambda's own id, which finds the log entry of a caller's report; elsewhere a new one."""
    context = request.scope.get("aws.context")
    if context is not None:
        return str(context.aws_request_id)
    if "request_id" not in request.scope:
        request.scope["request_id"] = uuid.uuid4().hex
    return str(request.scope["request_id"])


def deadline_s(request: Request, reserve_s: float = _RESERVE_S) -> float:
    """When the answer must be ready, on time.monotonic()'s clock, before Lambda stops the process;
    infinite outside Lambda.
    """
    context = request.scope.get("aws.context")
    if context is None:
        return math.inf
    left_ms: int = context.get_remaining_time_in_millis()
    return time.monotonic() + left_ms / 1000 - reserve_s


def answer_in_time(endpoint: Endpoint) -> Endpoint:
    """An endpoint that answers 503 just before Lambda stops it, whatever a dependency does.

    Timeouts add up, and a peer that sends byte by byte outlasts each of them. The thread that waits
    for it is not stopped.
    """

    @functools.wraps(endpoint)
    async def limited(request: Request) -> Response:
        deadline = deadline_s(request, _ERROR_RESERVE_S)
        # the event loop's clock is time.monotonic() too
        limit = asyncio.timeout_at(None if deadline == math.inf else deadline)
        try:
            async with limit:
                return await endpoint(request)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Unavailable("no answer in time: the index or the bucket is slow") from error

    return limited
