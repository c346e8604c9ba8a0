"""Errors → RFC 9457 problem+json, mapped once, along each error's ancestry."""

from __future__ import annotations

import http
import math

import msgspec
from starlette.responses import Response

from likeness import errors

from .schemas import Problem

# Types are names, not links that would break when a service moves.
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
}

# What our dependencies said is for the log, not for callers.
_HIDDEN_DETAILS: dict[type[errors.LikenessError], str] = {
    errors.IndexUnavailable: "the index is not answering; try again",
    errors.IndexRefused: "the index is not answering; try again",
    errors.StoreUnavailable: "the bucket is not answering; try again",
}


def status_of(error: errors.LikenessError) -> int:
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def from_error(error: errors.LikenessError, request_id: str) -> Response:
    status = status_of(error)
    detail = _HIDDEN_DETAILS.get(type(error), str(error))
    if status == http.HTTPStatus.INTERNAL_SERVER_ERROR:
        detail = "the service is misconfigured; see its log"
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
