"""The ASGI app: HTTP in, Searcher, JSON out. The same one under Mangum and a local server."""

from __future__ import annotations

import asyncio
import base64
import binascii
import itertools
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

import msgspec
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from functions.search import openapi, problems, schemas
from likeness.errors import (
    ConfigurationError,
    InvalidRequest,
    LikenessError,
    NotIndexed,
    QueryTooLarge,
    UnsupportedFormat,
)
from likeness.ports import ObjectStore
from likeness.records import Candidate, ObjectRef, Point, State
from likeness.search import (
    MAX_QUERY_BYTES,
    ById,
    ByImage,
    ByObject,
    ByVector,
    Query,
    Searcher,
    Source,
)
from likeness.settings import MIB, Settings

# base64 of the largest image, and room for the other fields
_MAX_BODY_BYTES = MAX_QUERY_BYTES * 4 // 3 + MIB // 4
_URL_EXPIRES_S = 300
_UPLOAD_EXPIRES_S = 900
_FORMATS = {"image/heic": "HEIF", "image/avif": "AVIF"}
_MAX_KEY_BYTES = 1024
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger

S = TypeVar("S", bound=msgspec.Struct)


def create_app(
    searcher: Searcher,
    open_store: Callable[[], ObjectStore],
    settings: Settings,
    open_logger: Callable[[], Logger],
) -> App:
    """The whole HTTP service. `open_store` and `open_logger` are called when needed."""
    api = Api(searcher, open_store, settings)

    async def on_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, LikenessError)
        if problems.status_of(error) >= 500:
            open_logger().error(
                "failed", request_id=_request_id(request), why=str(error), slug=error.slug
            )
        return problems.from_error(error, _request_id(request))

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        slug = {404: "no-such-route", 405: "method-not-allowed"}.get(
            error.status_code, "invalid-request"
        )
        headers = dict(error.headers or {})
        return problems.respond(
            error.status_code, slug, error.detail, _request_id(request), headers=headers
        )

    async def on_bug(request: Request, error: Exception) -> Response:
        open_logger().exception("bug", request_id=_request_id(request))
        detail = "an unexpected error; its request_id is in the log"
        return problems.respond(500, "internal", detail, _request_id(request))

    routes = [
        Route(operation.path, getattr(api, operation.name), methods=[operation.method])
        for operation in openapi.OPERATIONS
    ]
    routes.append(Route("/openapi.json", _document, methods=["GET"]))
    routes.append(Route("/docs", _docs_page, methods=["GET"]))
    handlers: Mapping[Any, Any] = {
        LikenessError: on_error,
        HTTPException: on_http_error,
        Exception: on_bug,
    }
    return App(ExceptionMiddleware(Router(routes, redirect_slashes=False), handlers))


class Api:
    """One method for each operation in openapi.OPERATIONS."""

    def __init__(
        self, searcher: Searcher, open_store: Callable[[], ObjectStore], settings: Settings
    ) -> None:
        self._searcher = searcher
        self._open_store = open_store
        self._settings = settings
        self._calls = itertools.count()

    async def search(self, request: Request) -> Response:
        cold = next(self._calls) == 0
        source, options = await self._parse_search(request)
        return await self._answer(request, source, options, cold)

    async def similar(self, request: Request) -> Response:
        cold = next(self._calls) == 0
        options = _from_texts(request.query_params, schemas.SearchOptions)
        return await self._answer(request, ById(_path_id(request)), options, cold)

    async def image(self, request: Request) -> Response:
        point = await asyncio.to_thread(self._searcher.image, _path_id(request))
        return _json(
            schemas.Image(
                id=point.id,
                key=point.ref.key,
                state="live" if point.state is State.LIVE else "rejected",
                model=point.model,
                indexed_at=_time(point.indexed_at_s),
                payload=_payload(point),
                reason=point.reason or msgspec.UNSET,
                detail=point.detail or msgspec.UNSET,
            )
        )

    async def status(self, request: Request) -> Response:
        params = dict(request.query_params)
        key = params.pop("key", "")
        if not key or params:
            raise InvalidRequest("give the object's key, and nothing else, as ?key=…")
        ref = ObjectRef(self._bucket(), _known_key(key))
        point = await asyncio.to_thread(self._searcher.status, ref)
        return _json(_status(ref, point))

    async def upload(self, request: Request) -> Response:
        if _content_type(request) != "application/json":
            raise UnsupportedFormat(
                "send application/json; the image itself goes to the answer's url"
            )
        wanted = _decoded(await request.body(), schemas.UploadRequest)
        limits = self._settings.limits
        extra = _FORMATS.get(wanted.content_type)
        if extra and extra not in limits.formats:
            raise UnsupportedFormat(f"{wanted.content_type} is not switched on here")
        if undeclared := wanted.metadata.keys() - self._settings.schema.types.keys():
            raise InvalidRequest(f"metadata: {min(undeclared)!r} is not a declared key")
        name = wanted.name or "image"
        ref = ObjectRef(self._bucket(), f"{self._settings.upload_prefix}{uuid.uuid4().hex}/{name}")
        url, fields = await asyncio.to_thread(
            lambda: self._open_store().presign_upload(
                ref, wanted.content_type, wanted.metadata, limits.max_bytes, _UPLOAD_EXPIRES_S
            )
        )
        ticket = schemas.UploadTicket(
            url=url,
            fields=fields,
            id=ref.point_id,
            key=ref.key,
            max_bytes=limits.max_bytes,
            expires_in_s=_UPLOAD_EXPIRES_S,
            status_url=f"/v1/status?{urlencode({'key': ref.key})}",
        )
        return _json(ticket, 201)

    async def health(self, request: Request) -> Response:
        return _json(schemas.Health(status="ok"))

    async def ready(self, request: Request) -> Response:
        info = await asyncio.to_thread(self._searcher.ready)
        return _json(
            schemas.Ready(
                status="ok",
                model=info.model,
                model_name=self._searcher.model_name,
                collection=info.name,
                points=info.points,
            )
        )

    async def _answer(
        self, request: Request, source: Source, options: schemas.SearchOptions, cold: bool
    ) -> Response:
        threshold = options.score_threshold
        query = Query(source, options.limit, options.offset, options.filter, threshold)
        answer = await asyncio.to_thread(self._searcher.search, query)
        return _json(
            schemas.SearchAnswer(
                request_id=_request_id(request),
                model=self._searcher.model,
                took_ms={**answer.took_ms, "cold_start": cold},
                results=[self._result(c, options.with_url) for c in answer.results],
                next_offset=answer.next_offset,
            )
        )

    def _result(self, candidate: Candidate, with_url: bool) -> schemas.Result:
        point = candidate.point
        url: str | msgspec.UnsetType = msgspec.UNSET
        if with_url:
            url = self._open_store().presign_download(point.ref, _URL_EXPIRES_S)
        score = round(candidate.score, 6)
        return schemas.Result(
            id=point.id, key=point.ref.key, score=score, payload=_payload(point), url=url
        )

    async def _parse_search(self, request: Request) -> tuple[Source, schemas.SearchOptions]:
        """Raw image with its options in the query string, a form, or JSON."""
        kind = _content_type(request)
        if kind.startswith("image/") or kind == "application/octet-stream":
            options = _from_texts(request.query_params, schemas.SearchOptions)
            return ByImage(_query_image(await request.body())), options
        if request.query_params:
            raise InvalidRequest(f"{kind} takes its fields in the body, not in the query string")
        if kind == "multipart/form-data":
            return await _parse_form(request)
        if kind == "application/json":
            wanted = _decoded(await request.body(), schemas.SearchRequest)
            return self._source(wanted), wanted
        raise UnsupportedFormat(
            "send an image/… body, multipart/form-data with a file named image, or application/json"
        )

    def _source(self, wanted: schemas.SearchRequest) -> Source:
        given = [n for n in ("image", "id", "key", "vector") if getattr(wanted, n) is not None]
        if len(given) != 1:
            raise InvalidRequest(
                "give exactly one of image, id, key or vector"
                + (f", not {' and '.join(given)}" if given else "")
            )
        if (wanted.vector is None) != (wanted.model is None):
            raise InvalidRequest("vector and model, its model's fingerprint, go together")
        if wanted.image is not None:
            return ByImage(_query_image(_from_base64(wanted.image)))
        if wanted.id is not None:
            return ById(_known_id(wanted.id))
        if wanted.key is not None:
            return ByObject(ObjectRef(self._bucket(), _known_key(wanted.key)))
        return ByVector(tuple(wanted.vector or ()), wanted.model or "")

    def _bucket(self) -> str:
        if self._settings.bucket is None:
            raise ConfigurationError("LIKENESS_BUCKET is not set: there is no bucket to look in")
        return self._settings.bucket


class App:
    """The outermost layer: it stops reading a body once it is larger than any that we take.

    Starlette's own application class would do, but its debug pages cost 6 ms to import, and its
    body limit answers in plain text.
    """

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > _MAX_BODY_BYTES:
                raise _too_large(received)
            return message

        scope["app"] = self  # tells the router to raise what it cannot route, not to answer itself
        await self._inner(scope, counted, send)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _parse_form(request: Request) -> tuple[Source, schemas.SearchOptions]:
    try:
        form = await request.form(max_files=1, max_fields=16)
    except (UnicodeError, LookupError) as error:  # a charset that is none
        raise InvalidRequest(f"form: {error}") from error
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    files = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
    try:
        if files.keys() != {"image"}:
            raise InvalidRequest("a form needs one file, named image")
        image = _query_image(await files["image"].read())
    finally:
        await form.close()
    return ByImage(image), _from_texts(texts, schemas.SearchOptions)


async def _document(request: Request) -> Response:
    return Response(openapi.document_json(), media_type="application/json")


async def _docs_page(request: Request) -> Response:
    from functions.search import docs  # noqa: PLC0415 - for people, who can wait for it

    return HTMLResponse(docs.page(openapi.document()))


def _json(value: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _decoded(body: bytes, kind: type[S]) -> S:
    try:
        return msgspec.json.decode(body, type=kind)
    # a body that is nested a thousand deep runs msgspec out of stack
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"body: {error}") from error


def _from_texts(texts: Mapping[str, str], kind: type[S]) -> S:
    """Query-string or form fields: numbers as text, `filter` as JSON."""
    fields: dict[str, Any] = dict(texts)
    try:
        if "filter" in fields:
            fields["filter"] = msgspec.json.decode(fields["filter"])
        return msgspec.convert(fields, kind, strict=False)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidRequest(str(error)) from error


def _from_base64(text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"image is not base64: {error}") from error


def _query_image(data: bytes) -> bytes:
    if len(data) > MAX_QUERY_BYTES:
        raise _too_large(len(data))
    return data


def _too_large(size: int) -> QueryTooLarge:
    return QueryTooLarge(
        f"{size / MIB:.1f} MiB; a query takes {MAX_QUERY_BYTES / MIB:.1f} MiB: "
        "upload it with POST /v1/uploads, then search by its key"
    )


def _path_id(request: Request) -> str:
    return _known_id(request.path_params["id"])


def _known_id(text: str) -> str:
    if not _UUID.fullmatch(text):
        raise NotIndexed(f"no image has the id {text[:100]!r}; ids are UUIDs, as answers give them")
    return text


def _known_key(key: str) -> str:
    if len(key.encode()) > _MAX_KEY_BYTES:
        raise InvalidRequest(f"key: S3's keys have {_MAX_KEY_BYTES} bytes at most")
    return key


def _status(ref: ObjectRef, point: Point | None) -> schemas.Status:
    if point is None:
        return schemas.Status(id=ref.point_id, key=ref.key, state="absent")
    found = point.object
    return schemas.Status(
        id=ref.point_id,
        key=ref.key,
        state=point.state.value,
        model=point.model,
        indexed_at=_time(point.indexed_at_s),
        etag=found.etag if found else msgspec.UNSET,
        version_id=(found.version_id if found else None) or msgspec.UNSET,
        reason=point.reason or msgspec.UNSET,
        detail=point.detail or msgspec.UNSET,
    )


def _payload(point: Point) -> dict[str, Any]:
    """Declared metadata, and the facts that filters may name."""
    payload = dict(point.meta)
    if point.image:
        payload |= {"width": point.image.width, "height": point.image.height}
    if point.object:
        payload |= {"size": point.object.size, "content_type": point.object.content_type}
    return payload


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _request_id(request: Request) -> str:
    """Lambda's own id, so that a caller's report finds the log; elsewhere a new one."""
    context = request.scope.get("aws.context")
    if context is not None:
        return str(context.aws_request_id)
    if "request_id" not in request.scope:
        request.scope["request_id"] = uuid.uuid4().hex
    return str(request.scope["request_id"])
