"""Errors → RFC 9457 problem+json, mapped once, along the error's class hierarchy."""

from __future__ import annotations

import http
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from likeness import errors

from .invocation import request_id
from .schemas import Problem

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger

# Types are names: links would break when a service moves.
TYPE_PREFIX = "urn:likeness:problem:"
RETRY_AFTER_S = 5

STATUSES: dict[type[errors.LikenessError], int] = {
    errors.InputError: 400,
    errors.Forbidden: 403,
    errors.NotIndexed: 404,
    errors.ModelMismatch: 409,
    errors.ImageTooLarge: 413,
    errors.UnsupportedFormat: 415,
    errors.ImageError: 422,
    errors.LikenessError: 500,
    errors.ObjectChanged: 409,
    errors.Unavailable: 503,
    # Trying again does not help: the service's operator has to change something.
    errors.IndexRefused: 500,
    errors.IndexForbidden: 500,
}

# Messages of our dependencies go to the log, not to callers.
_HIDDEN_DETAILS: dict[type[errors.LikenessError], str] = {
    errors.IndexUnavailable: "the index is not answering; try again",
    errors.IndexRefused: "the index refuses this request; the service's log says why",
    errors.IndexUnauthorized: "the index does not accept the service's key; try again",
    errors.IndexForbidden: (
        "the service's key for the index does not permit this: searches need a key that may read, "
        "feedback and decisions one that may also write the notes"
    ),
    errors.IndexFull: "the index is full: nothing can be stored for now",
    errors.StoreUnavailable: "the bucket is not answering; try again",
}
_MISCONFIGURED = "the service is misconfigured; see its log"

_HTTP_SLUGS = {404: "no-such-route", 405: "method-not-allowed"}


def handlers(open_logger: Callable[[], Logger]) -> Mapping[Any, Any]:
    """The exception handlers of the ASGI app. What is our fault is logged, once."""

    async def on_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, errors.LikenessError)
        if status_of(error) >= 500:
            open_logger().error(
                "failed", request_id=request_id(request), why=str(error), slug=error.slug
            )
        return from_error(error, request_id(request))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return respond(
            error.status_code,
            _HTTP_SLUGS.get(error.status_code, "invalid-request"),
            error.detail,
            request_id(request),
            headers=dict(error.headers or {}),
        )

    async def on_bug(request: Request, error: Exception) -> Response:
        open_logger().exception("bug", request_id=request_id(request))
        detail = "an unexpected error; its request_id is in the log"
        return respond(500, "internal", detail, request_id(request))

    return {
        errors.LikenessError: on_error,
        HTTPException: on_http_error,
        Exception: on_bug,
    }


def status_of(error: errors.LikenessError) -> int:
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def from_error(error: errors.LikenessError, request_id: str) -> Response:
    status = status_of(error)
    shown = _MISCONFIGURED if status == http.HTTPStatus.INTERNAL_SERVER_ERROR else str(error)
    detail = _HIDDEN_DETAILS.get(type(error), shown)
    uploads = "/v1/uploads" if isinstance(error, errors.QueryTooLarge) else msgspec.UNSET
    headers = {}
    if isinstance(error, errors.Unavailable) and error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return respond(status, error.slug, detail, request_id, uploads, headers)


def respond(
    status: int,
    slug: str,
    detail: str,
    request_id: str,
    uploads: str | msgspec.UnsetType = msgspec.UNSET,
    headers: dict[str, str] | None = None,
) -> Response:
    problem = Problem(
        type=TYPE_PREFIX + slug,
        title=http.HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        request_id=request_id,
        uploads=uploads,
    )
    headers = dict(headers or {})
    if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    return Response(
        msgspec.json.encode(problem), status, headers, media_type="application/problem+json"
    )
