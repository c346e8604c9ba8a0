"""The ASGI app: HTTP in, Searcher, JSON out. The same one under Mangum and a local server."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import copy
import functools
import itertools
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
from starlette.datastructures import ImmutableMultiDict, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from likeness.duplicates import Duplicates
from likeness.errors import (
    ConfigurationError,
    FetchRefused,
    IndexMissing,
    InvalidRequest,
    LikenessError,
    ModelMismatch,
    NotIndexed,
    QueryTooLarge,
    Unavailable,
    UnsupportedFormat,
)
from likeness.feedback import Feedback, FeedbackEvent
from likeness.filters import header_text
from likeness.ports import IndexView, ObjectStore
from likeness.proof.proofs import Proof
from likeness.records import Box, ObjectRef, Page, Point, State
from likeness.rerank.profiles import Profile
from likeness.search import (
    MAX_QUERY_BYTES,
    ByExamples,
    ById,
    ByImage,
    ByObject,
    ByText,
    ByToken,
    ByVector,
    Cutoff,
    Hit,
    Query,
    Searcher,
    Source,
)
from likeness.searchers import Searchers
from likeness.settings import MIB, Settings
from likeness.tenants import TenantIndex, Tenants, TenantStore

from . import access, openapi, pages, problems, schemas, signals

# base64 of the largest image, and room for the other fields
_MAX_BODY_BYTES = MAX_QUERY_BYTES * 4 // 3 + MIB // 4
_URL_EXPIRES_S = 300
_UPLOAD_EXPIRES_S = 900
_RESERVE_S = 0.5  # for the answer itself
_A_DAY = "private, max-age=86400"
_LAST_RESERVE_S = 0.25  # for an answer that says that there is none
_FORMATS = {"image/heic": "HEIF", "image/avif": "AVIF"}
_MAX_KEY_BYTES = 1024
_MAX_FIELDS = 2 * len(schemas.SearchOptions.__struct_fields__)  # a wrong one is still named
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger

S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")
Fetch = Callable[[str, int], bytes]
Record = Callable[[bytes], None]


def create_app(
    searchers: Searchers,
    index: IndexView,
    open_store: Callable[[], ObjectStore],
    settings: Settings,
    open_logger: Callable[[], Logger],
    fetch: Fetch | None = None,
    record: Record = lambda line: None,
    page_folder: Path = pages.FOLDER,
) -> App:
    """The whole HTTP service. `open_store` and `open_logger` are called when needed.

    `fetch` brings the bytes of an `image_url`, at most so many. `record` takes a line about each
    answer, without its end. `page_folder` holds the page.
    """
    api = Api(searchers, index, open_store, settings, fetch, record)

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
        Route(operation.path, _in_time(api.endpoint(operation)), methods=[operation.method])
        for operation in openapi.OPERATIONS
    ]
    routes.append(Route("/openapi.json", _document, methods=["GET"]))
    routes.append(Route("/docs", _docs_page, methods=["GET"]))
    routes += pages.routes(page_folder, api.bucket_origin)
    handlers: Mapping[Any, Any] = {
        LikenessError: on_error,
        HTTPException: on_http_error,
        Exception: on_bug,
    }
    return App(ExceptionMiddleware(Router(routes, redirect_slashes=False), handlers))


class Api:
    """One method for each operation in openapi.OPERATIONS."""

    def __init__(
        self,
        searchers: Searchers,
        index: IndexView,
        open_store: Callable[[], ObjectStore],
        settings: Settings,
        fetch: Fetch | None,
        record: Record,
    ) -> None:
        self._searchers = searchers
        self._view: Callable[[Searcher], Searcher] = lambda searcher: searcher
        self._index: IndexView = index
        self._duplicates = Duplicates(index)
        self._feedback = Feedback(index)
        self._open_store = open_store
        self._settings = settings
        self._fetch = fetch
        self._record = record
        self._calls = itertools.count()

    def endpoint(self, operation: openapi.Operation) -> Callable[[Request], Awaitable[Response]]:
        """The operation's method for those who may call it, over what they may see."""

        async def answer(request: Request) -> Response:
            context, claim = access.context_of(request), self._settings.tenant_claim
            if operation.scope == "write":
                access.check_writer(context, self._settings)
            api = self
            if claim and operation.scope != "anyone":
                api = self._of_tenant(access.tenant_of(context, claim))
            response: Response = await getattr(api, operation.name)(request)
            return response

        return answer

    def _of_tenant(self, tenant: str) -> Api:
        """The same service for one tenant, for whom there is nothing but its own."""
        settings = self._settings
        tenants = Tenants(settings.prefix)

        def view(index: IndexView) -> TenantIndex:
            return TenantIndex(index, tenant)

        def open_store() -> ObjectStore:
            return TenantStore(self._open_store(), tenants, tenant)

        api = copy.copy(self)
        api._view = lambda searcher: searcher.over(view, open_store)
        api._index = view(self._index)
        api._duplicates, api._feedback = Duplicates(api._index), Feedback(api._index)
        api._open_store = open_store
        uploads = settings.upload_prefix.removeprefix(settings.prefix)
        api._settings = msgspec.structs.replace(
            settings, upload_prefix=tenants.folder(tenant) + uploads
        )
        return api

    async def search(self, request: Request) -> Response:
        cold = next(self._calls) == 0
        source, options = await self._parse_search(request)
        return await self._answer(request, source, options, cold)

    async def similar(self, request: Request) -> Response:
        cold = next(self._calls) == 0
        options = _from_texts(request.query_params, schemas.SearchOptions)
        return await self._answer(request, ById(_path_id(request)), options, cold)

    async def image(self, request: Request) -> Response:
        point_id = _path_id(request)
        point = await self._run(lambda searcher: searcher.image(point_id))
        return _json(_image(point))

    async def images(self, request: Request) -> Response:
        wanted = _from_texts(request.query_params, schemas.ImagesOptions)
        try:
            page = await self._run(
                lambda searcher: searcher.images(
                    State(wanted.state), wanted.limit, wanted.cursor, wanted.filter
                )
            )
        except IndexMissing:
            page = Page([], None)
        return _json(
            schemas.Images(images=list(map(_image, page.points)), next_cursor=page.next_cursor)
        )

    async def thumbnail(self, request: Request) -> Response:
        wanted = _from_texts(request.query_params, schemas.ThumbnailOptions)
        point_id = _path_id(request)
        point = await self._run(lambda searcher: searcher.image(point_id))
        etag = f'"{point.object.etag if point.object else ""}-{wanted.size}"'
        headers = {"ETag": etag, "Cache-Control": _A_DAY, "X-Content-Type-Options": "nosniff"}
        if etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        data = await self._run(lambda searcher: searcher.thumbnail(point, wanted.size))
        return Response(data, headers=headers, media_type="image/jpeg")

    async def facets(self, request: Request) -> Response:
        wanted = _from_texts(request.query_params, schemas.FacetsOptions)
        keys = None if wanted.keys is None else wanted.keys.split(",")
        try:
            facets = await self._run(lambda searcher: searcher.facets(keys, wanted.filter))
        except IndexMissing:
            facets = []
        return _json(msgspec.convert({"facets": facets}, schemas.Facets, from_attributes=True))

    async def config(self, request: Request) -> Response:
        limits = self._settings.limits
        model_name, text = await self._run(
            lambda searcher: (searcher.model_name, searcher.supports_text)
        )
        return _json(
            schemas.Config(
                bucket_origin=await asyncio.to_thread(self.bucket_origin),
                tenants=self._settings.tenant_claim is not None,
                text=text,
                model_name=model_name,
                keys=dict(self._settings.schema.types),
                formats=list(limits.formats),
                max_query_bytes=MAX_QUERY_BYTES,
                max_upload_bytes=limits.max_bytes,
            )
        )

    def bucket_origin(self) -> str | None:
        """Scheme and host that uploads are sent to; None where there is no bucket."""
        if self._settings.bucket is None:
            return None
        ref = ObjectRef(self._settings.bucket, f"{self._settings.upload_prefix}any")
        url, _ = self._open_store().presign_upload(ref, "image/jpeg", {}, 1, 1)
        return "{0.scheme}://{0.netloc}".format(urlsplit(url))

    async def remove(self, request: Request) -> Response:
        point_id = _path_id(request)
        ref = (await self._run(lambda searcher: searcher.image(point_id))).ref
        await asyncio.to_thread(lambda: self._open_store().delete(ref))
        return _json(
            schemas.Removal(id=ref.point_id, key=ref.key, status_url=_status_url(ref)), 202
        )

    async def status(self, request: Request) -> Response:
        wanted = _from_texts(request.query_params, schemas.StatusOptions)
        ref = ObjectRef(self._bucket(), _known_key(wanted.key))
        try:
            point = await self._run(lambda searcher: searcher.status(ref))
        except IndexMissing:
            point = None
        return _json(_status(ref, point))

    async def compare(self, request: Request) -> Response:
        wanted = await _json_body(request, schemas.CompareRequest)
        pictures = wanted.first, wanted.second
        first, second = [await self._source(picture) for picture in pictures]
        boxes = _box(wanted.first.box), _box(wanted.second.box)
        model, (score, proof) = await self._run(
            lambda searcher: (searcher.model, searcher.compare(first, second, boxes))
        )
        answer = schemas.Comparison(
            request_id=_request_id(request), model=model, score=round(score, 6)
        )
        if proof:
            answer.verdict, answer.probability = _verdict(proof)
            answer.explain = _explanation(proof, {"cosine": score, "geometry": proof.geometry})
        return _json(answer)

    async def duplicates(self, request: Request) -> Response:
        wanted = _from_texts(request.query_params, schemas.PageOptions)
        try:
            groups, next_cursor = await asyncio.to_thread(
                self._duplicates.groups, wanted.limit, wanted.cursor
            )
        except IndexMissing:
            groups, next_cursor = [], None
        return _json(
            schemas.DuplicateGroups(
                groups=[
                    schemas.DuplicateGroup(
                        id=group.id,
                        original=_member(group.original) if group.original else None,
                        copies=[_member(point) for point in group.copies],
                        more=group.more,
                    )
                    for group in groups
                ],
                next_cursor=next_cursor,
            )
        )

    async def decide(self, request: Request) -> Response:
        wanted = await _json_body(request, schemas.Decision)
        duplicate = wanted.decision == "duplicate"
        await asyncio.to_thread(
            self._duplicates.decide, wanted.group, _known_id(wanted.id), duplicate
        )
        return _json(schemas.Ok(status="ok"))

    async def feedback(self, request: Request) -> Response:
        wanted = await _json_body(request, schemas.Feedback)
        if (token := wanted.query_id) is not None:
            with contextlib.suppress(ModelMismatch):  # what was asked before a change of models
                await self._run(lambda searcher: searcher.check_token(token))
        opinion = FeedbackEvent(
            wanted.request_id, wanted.id, wanted.kind, round(time.time(), 3), wanted.query_id
        )
        await asyncio.to_thread(self._feedback.add, opinion)
        self._record(signals.opined(self._settings.metrics_namespace, opinion))
        return _json(schemas.Ok(status="ok"))

    async def upload(self, request: Request) -> Response:
        wanted = await _json_body(
            request, schemas.UploadRequest, "; the image itself goes to the answer's url"
        )
        limits = self._settings.limits
        extra = _FORMATS.get(wanted.content_type)
        if extra and extra not in limits.formats:
            raise UnsupportedFormat(f"{wanted.content_type} is not switched on here")
        if undeclared := wanted.metadata.keys() - self._settings.schema.types.keys():
            raise InvalidRequest(f"metadata: {min(undeclared)!r} is not a declared key")
        if sum(len(name) + len(header_text(v)) for name, v in wanted.metadata.items()) > 2048:
            raise InvalidRequest("metadata: S3 keeps 2 kB of it at most")
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
            status_url=_status_url(ref),
        )
        return _json(ticket, 201)

    async def health(self, request: Request) -> Response:
        return _json(schemas.Ok(status="ok"))

    async def ready(self, request: Request) -> Response:
        name, info = await self._run(lambda searcher: (searcher.model_name, searcher.ready()))
        return _json(
            schemas.Ready(
                status="ok",
                model=info.model,
                model_name=name,
                models=self._searchers.models,
                collection=info.name,
                points=msgspec.UNSET if info.points is None else info.points,
            )
        )

    async def _run(self, work: Callable[[Searcher], T]) -> T:
        """All work of a request is done by one model's searcher."""
        return await asyncio.to_thread(
            self._searchers.run, lambda searcher: work(self._view(searcher))
        )

    async def _answer(
        self, request: Request, source: Source, options: schemas.SearchOptions, cold: bool
    ) -> Response:
        query = Query(
            source,
            limit=options.limit,
            offset=options.offset,
            filter=options.filter,
            score_threshold=options.score_threshold,
            box=_box(options.box),
            rerank=Profile(options.rerank),
            subject=options.subject,
            regions=options.detect,
            group_by=options.group_by,
            group_size=options.group_size,
            exclude=tuple(options.exclude),
            cutoff=_cutoff(options.cutoff),
            diversity=options.diversity,
        )
        deadline_s = _deadline_s(request)
        model, answer = await self._run(
            lambda searcher: (searcher.model, searcher.search(query, deadline_s))
        )
        about = (self._settings.metrics_namespace, _request_id(request), model)
        self._record(signals.answered(*about, query, answer, cold))
        return _json(
            schemas.SearchAnswer(
                request_id=_request_id(request),
                model=model,
                took_ms={**answer.took_ms, "cold_start": cold},
                query_id=answer.query_id,
                box=_sides(answer.box),
                results=[self._result(hit, options) for hit in answer.results],
                next_offset=answer.next_offset,
                skipped=list(answer.skipped),
                regions=[
                    schemas.Region(
                        box=_sides(box), results=[self._result(hit, options) for hit in hits]
                    )
                    for box, hits in answer.regions
                ],
            )
        )

    def _result(self, hit: Hit, options: schemas.SearchOptions) -> schemas.Result:
        point = hit.point
        result = schemas.Result(id=point.id, key=point.ref.key, score=round(hit.score, 6))
        if hit.rerank_score is not None:
            result.rerank_score = round(hit.rerank_score, 6)
        if hit.proof:
            result.verdict, result.probability = _verdict(hit.proof)
            if options.explain:
                result.explain = _explanation(hit.proof, hit.stages)
        if options.with_payload:
            result.payload = _payload(point)
        if options.group_by:
            result.group = hit.group
        if options.with_url:
            result.url = self._open_store().presign_download(point.ref, _URL_EXPIRES_S)
        return result

    async def _parse_search(self, request: Request) -> tuple[Source, schemas.SearchOptions]:
        """Raw image with its options in the query string, a form, or JSON."""
        kind = _content_type(request)
        if kind.startswith("image/") or kind == "application/octet-stream":
            options = _from_texts(request.query_params, schemas.SearchOptions)
            return ByImage(_query_image(await request.body())), options
        if kind not in ("multipart/form-data", "application/json"):
            raise UnsupportedFormat(
                "send an image/… body, multipart/form-data with a file named image, or "
                "application/json"
            )
        if request.query_params:
            raise InvalidRequest(f"{kind} takes its fields in the body, not in the query string")
        if kind == "multipart/form-data":
            return await _parse_form(request)
        wanted = _decoded(await request.body(), schemas.SearchRequest)
        return await self._source(wanted), wanted

    async def _source(self, wanted: schemas.SearchRequest | schemas.ComparedPicture) -> Source:
        """Exactly one of the sources that the request may name."""
        names = ["image", "image_url", "id", "key", "query_id"]
        if isinstance(wanted, schemas.SearchRequest):
            names += ["text", "vector", "positive"]
            if (wanted.vector is None) != (wanted.model is None):
                raise InvalidRequest("vector and model, its model's fingerprint, go together")
            if wanted.negative and wanted.positive is None:
                raise InvalidRequest("negative needs positive: give ids of what it should be like")
        given = [name for name in names if getattr(wanted, name) is not None]
        if len(given) != 1:
            raise InvalidRequest(
                f"give exactly one of {', '.join(names[:-1])} or {names[-1]}"
                + (f", not {' and '.join(given)}" if given else "")
            )
        make = self._makers()[given[0]]
        return await asyncio.to_thread(make, wanted)

    def _makers(self) -> Mapping[str, Callable[[Any], Source]]:
        """Each source's field, and what becomes of the request that has it."""
        return {
            "image": lambda wanted: ByImage(_query_image(_from_base64(wanted.image))),
            "image_url": lambda wanted: ByImage(self._fetched(wanted.image_url)),
            "id": lambda wanted: ById(_known_id(wanted.id)),
            "key": lambda wanted: ByObject(ObjectRef(self._bucket(), _known_key(wanted.key))),
            "query_id": lambda wanted: ByToken(wanted.query_id),
            "text": lambda wanted: ByText(wanted.text),
            "vector": lambda wanted: ByVector(tuple(wanted.vector), wanted.model),
            "positive": lambda wanted: ByExamples(
                tuple(map(_known_id, wanted.positive)), tuple(map(_known_id, wanted.negative))
            ),
        }

    def _fetched(self, url: str) -> bytes:
        if self._fetch is None:
            raise FetchRefused(
                "image_url is switched off: LIKENESS_IMAGE_URL_HOSTS names the hosts to fetch from"
            )
        return self._fetch(url, MAX_QUERY_BYTES)

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
        form = await request.form(max_files=1, max_fields=_MAX_FIELDS)
    except (UnicodeError, LookupError) as error:  # a charset that is none
        raise InvalidRequest(f"form: {error}") from error
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    files = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
    try:
        _check_once(form)
        if files.keys() != {"image"}:
            raise InvalidRequest("a form needs one file, named image")
        image = _query_image(await files["image"].read())
    finally:
        await form.close()
    return ByImage(image), _from_texts(texts, schemas.SearchOptions)


async def _json_body(request: Request, kind: type[S], hint: str = "") -> S:
    if _content_type(request) != "application/json":
        raise UnsupportedFormat(f"send application/json{hint}")
    return _decoded(await request.body(), kind)


async def _document(request: Request) -> Response:
    return Response(openapi.document_json(), media_type="application/json")


async def _docs_page(request: Request) -> Response:
    from . import docs  # noqa: PLC0415 - for people, who can wait for it

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
    """Query-string or form fields: numbers as text, some as JSON."""
    fields: dict[str, Any] = dict(texts)
    if isinstance(texts, ImmutableMultiDict):
        _check_once(texts)
    for name in fields.keys() & set(openapi.JSON_OPTIONS):
        try:
            fields[name] = msgspec.json.decode(fields[name])
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise InvalidRequest(f"{name}: {error}") from error
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(str(error)) from error


def _check_once(fields: ImmutableMultiDict[str, Any]) -> None:
    for name in fields:
        if len(fields.getlist(name)) > 1:
            raise InvalidRequest(f"{name} is given more than once")


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


def _box(sides: schemas.Sides | None) -> Box | None:
    if sides is None:
        return None
    box = Box(*sides)
    if box.left >= box.right or box.top >= box.bottom:
        raise InvalidRequest("box: left, top, right, bottom, each pair in rising order")
    return box


def _cutoff(wanted: schemas.Cutoff | None) -> Cutoff | None:
    if wanted is None:
        return None
    if wanted.method == "relative" and wanted.value > 1:
        raise InvalidRequest("cutoff: a relative one is a share of the best score, at most 1")
    return Cutoff(wanted.method, wanted.value)


def _sides(box: Box) -> schemas.Sides:
    return round(box.left, 4), round(box.top, 4), round(box.right, 4), round(box.bottom, 4)


def _verdict(proof: Proof) -> tuple[Any, float]:
    return proof.verdict.level.value, round(proof.verdict.probability, 4)


def _explanation(proof: Proof, scores: Mapping[str, float]) -> schemas.Explanation:
    matches = []
    if proof.boxes:
        query, target = proof.boxes
        matches.append(schemas.Match(query=_sides(query), target=_sides(target)))
    return schemas.Explanation(
        inliers=proof.inliers,
        overlap_query=round(100 * proof.overlap_query, 1),
        overlap_target=round(100 * proof.overlap_target, 1),
        matches=matches,
        scores={name: round(score, 6) for name, score in scores.items()},
    )


def _member(point: Point) -> schemas.Member:
    member = schemas.Member(id=point.id, key=point.ref.key)
    if point.partners:
        member.verdict = point.partners[0].verdict
        member.probability = point.partners[0].probability
    return member


def _in_time(
    answer: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """A route that answers before Lambda stops it, whatever a dependency does: timeouts add up, and
    a peer that sends byte by byte outlasts each of them. The thread that waits for it goes on.
    """

    @functools.wraps(answer)
    async def endpoint(request: Request) -> Response:
        deadline_s = _deadline_s(request, _LAST_RESERVE_S)
        # the event loop's clock is time.monotonic() too
        limit = asyncio.timeout_at(None if deadline_s == math.inf else deadline_s)
        try:
            async with limit:
                return await answer(request)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Unavailable("no answer in time: the index or the bucket is slow") from error

    return endpoint


def _deadline_s(request: Request, reserve_s: float = _RESERVE_S) -> float:
    """When an answer must be under way, on time.monotonic()'s clock: before Lambda stops us."""
    context = request.scope.get("aws.context")
    if context is None:
        return math.inf
    left_ms: int = context.get_remaining_time_in_millis()
    return time.monotonic() + left_ms / 1000 - reserve_s


def _image(point: Point) -> schemas.Image:
    return schemas.Image(
        id=point.id,
        key=point.ref.key,
        state="live" if point.state is State.LIVE else "rejected",
        model=point.model,
        indexed_at=_time(point.indexed_at_s),
        payload=_payload(point),
        reason=point.reason or msgspec.UNSET,
        detail=point.detail or msgspec.UNSET,
    )


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


def _status_url(ref: ObjectRef) -> str:
    return f"/v1/status?{urlencode({'key': ref.key})}"


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
