"""One function for each operation in openapi.OPERATIONS, of the same name.

Each takes the service as its caller sees it: nothing that the caller may not see can
be read or changed through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from likeness.duplicates import Duplicates
from likeness.errors import IndexMissing, InvalidRequest, ModelMismatch, UnsupportedFormat
from likeness.feedback import FeedbackEvent, FeedbackStore
from likeness.filters import header_text
from likeness.queries import MAX_QUERY_BYTES, ById, Source
from likeness.records import ObjectRef, Page, Relation, State

from . import request_parsing, responses, schemas, search_schemas, signals
from .invocation import deadline_s, request_id
from .request_parsing import parse_json, parse_options, path_id
from .responses import json_response
from .service import Service

_DOWNLOAD_EXPIRES_S = 300
_UPLOAD_EXPIRES_S = 900
_MAX_METADATA_BYTES = 2048  # S3's own limit on user-defined metadata
_A_DAY = "private, max-age=86400"
# Pillow's names of the formats that are off by default.
_EXTRA_FORMATS = {"image/heic": "HEIF", "image/avif": "AVIF"}


async def search(service: Service, request: Request) -> Response:
    cold_start = service.is_first_search()
    source, options = await request_parsing.parse_search(request, service)
    return await _answer(service, request, source, options, cold_start)


async def similar(service: Service, request: Request) -> Response:
    cold_start = service.is_first_search()
    options = parse_options(request, search_schemas.SearchOptions)
    return await _answer(service, request, ById(path_id(request)), options, cold_start)


async def _answer(
    service: Service,
    request: Request,
    source: Source,
    options: search_schemas.SearchOptions,
    cold_start: bool,
) -> Response:
    query, deadline = request_parsing.parse_query(source, options), deadline_s(request)
    model, answer = await service.run(
        lambda searcher: (searcher.model, searcher.search(query, deadline))
    )
    namespace, name = service.settings.metrics_namespace, request_id(request)
    service.record(signals.answer_line(namespace, name, model, query, answer, cold_start))

    def presign(ref: ObjectRef) -> str:
        return service.gallery.open_store().presign_download(ref, _DOWNLOAD_EXPIRES_S)

    return json_response(responses.search_answer(answer, options, name, model, cold_start, presign))


async def compare(service: Service, request: Request) -> Response:
    body = await parse_json(request, search_schemas.CompareRequest)
    first, second = [
        await request_parsing.parse_source(image, service) for image in (body.first, body.second)
    ]
    boxes = request_parsing.parse_box(body.first.box), request_parsing.parse_box(body.second.box)
    deadline = deadline_s(request)
    model, compared = await service.run(
        lambda searcher: (searcher.model, searcher.compare(first, second, boxes, deadline))
    )
    return json_response(responses.comparison(request_id(request), model, compared))


async def image(service: Service, request: Request) -> Response:
    point_id = path_id(request)
    point = await service.run(lambda searcher: searcher.gallery.image(point_id))
    return json_response(responses.image(point))


async def images(service: Service, request: Request) -> Response:
    options = parse_options(request, schemas.ImagesOptions)
    state = State(options.state)
    try:
        page = await service.run(
            lambda searcher: searcher.gallery.images(
                state, options.limit, options.cursor, options.filter
            )
        )
    except IndexMissing:
        page = Page([], None)
    listed = [responses.image(point) for point in page.points]
    return json_response(schemas.Images(images=listed, next_cursor=page.next_cursor))


async def thumbnail(service: Service, request: Request) -> Response:
    options = parse_options(request, schemas.ThumbnailOptions)
    point_id = path_id(request)
    point = await service.run(lambda searcher: searcher.gallery.image(point_id))
    etag = f'"{point.object.etag if point.object else ""}-{options.size}"'
    headers = {"ETag": etag, "Cache-Control": _A_DAY, "X-Content-Type-Options": "nosniff"}
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    data = await service.run(lambda searcher: searcher.gallery.thumbnail(point, options.size))
    return Response(data, headers=headers, media_type="image/jpeg")


async def facets(service: Service, request: Request) -> Response:
    options = parse_options(request, schemas.FacetsOptions)
    keys = None if options.keys is None else options.keys.split(",")
    try:
        found = await service.run(lambda searcher: searcher.gallery.facets(keys, options.filter))
    except IndexMissing:
        found = []
    return json_response(msgspec.convert({"facets": found}, schemas.Facets, from_attributes=True))


async def remove(service: Service, request: Request) -> Response:
    point_id = path_id(request)
    ref = (await service.run(lambda searcher: searcher.gallery.image(point_id))).ref
    await asyncio.to_thread(lambda: service.gallery.open_store().delete(ref))
    removal = schemas.Removal(id=ref.point_id, key=ref.key, status_url=responses.status_url(ref))
    return json_response(removal, 202)


async def status(service: Service, request: Request) -> Response:
    options = parse_options(request, schemas.StatusOptions)
    ref = ObjectRef(service.bucket(), request_parsing.parse_key(options.key))
    try:
        point = await service.run(lambda searcher: searcher.gallery.status(ref))
    except IndexMissing:
        point = None
    return json_response(responses.status(ref, point))


async def upload(service: Service, request: Request) -> Response:
    body = await parse_json(
        request, schemas.UploadRequest, "; the image itself goes to the url in the answer"
    )
    limits, metadata = service.settings.limits, body.metadata
    extra_format = _EXTRA_FORMATS.get(body.content_type)
    if extra_format and extra_format not in limits.formats:
        raise UnsupportedFormat(f"{body.content_type} is not enabled on this service")
    if undeclared := metadata.keys() - service.settings.schema.types.keys():
        raise InvalidRequest(f"metadata: {min(undeclared)!r} is not a declared key")
    if sum(len(name) + len(header_text(v)) for name, v in metadata.items()) > _MAX_METADATA_BYTES:
        raise InvalidRequest("metadata: the maximum for S3 is 2 kB in all")
    key = f"{service.upload_prefix}{uuid.uuid4().hex}/{body.name or 'image'}"
    ref = ObjectRef(service.bucket(), key)
    url, fields = await asyncio.to_thread(
        lambda: service.gallery.open_store().presign_upload(
            ref, body.content_type, metadata, limits.max_bytes, _UPLOAD_EXPIRES_S
        )
    )
    ticket = schemas.UploadTicket(
        url=url,
        fields=fields,
        id=ref.point_id,
        key=ref.key,
        max_bytes=limits.max_bytes,
        expires_in_s=_UPLOAD_EXPIRES_S,
        status_url=responses.status_url(ref),
    )
    return json_response(ticket, 201)


async def duplicates(service: Service, request: Request) -> Response:
    options = parse_options(request, schemas.DuplicateOptions)
    relation = Relation(options.relation)
    found = Duplicates(service.gallery.index, relation)
    try:
        groups, next_cursor = await asyncio.to_thread(found.groups, options.limit, options.cursor)
    except IndexMissing:
        groups, next_cursor = [], None
    listed = [responses.duplicate_group(group, relation) for group in groups]
    return json_response(schemas.DuplicateGroups(groups=listed, next_cursor=next_cursor))


async def decide(service: Service, request: Request) -> Response:
    body = await parse_json(request, schemas.Decision)
    image_id, is_duplicate = request_parsing.parse_id(body.id), body.decision == "duplicate"
    await asyncio.to_thread(
        Duplicates(service.gallery.index).decide, body.group, image_id, is_duplicate
    )
    return json_response(schemas.Ok(status="ok"))


async def feedback(service: Service, request: Request) -> Response:
    body = await parse_json(request, schemas.Feedback)
    if (token := body.query_id) is not None:
        with contextlib.suppress(ModelMismatch):  # of an answer before a change of models
            await service.run(lambda searcher: searcher.check_query_token(token))
    event = FeedbackEvent(body.request_id, body.id, body.kind, round(time.time(), 3), body.query_id)
    await asyncio.to_thread(FeedbackStore(service.gallery.index).add, event)
    service.record(signals.feedback_line(service.settings.metrics_namespace, event))
    return json_response(schemas.Ok(status="ok"))


async def config(service: Service, request: Request) -> Response:
    settings = service.settings
    model_name, supports_text = await service.run(
        lambda searcher: (searcher.model_name, searcher.supports_text)
    )
    return json_response(
        schemas.Config(
            bucket_origin=await asyncio.to_thread(service.bucket_origin),
            tenants=settings.tenant_claim is not None,
            text=supports_text,
            model_name=model_name,
            keys=dict(settings.schema.types),
            formats=list(settings.limits.formats),
            max_query_bytes=MAX_QUERY_BYTES,
            max_upload_bytes=settings.limits.max_bytes,
        )
    )


async def health(service: Service, request: Request) -> Response:
    return json_response(schemas.Ok(status="ok"))


async def ready(service: Service, request: Request) -> Response:
    name, info = await service.run(lambda searcher: (searcher.model_name, searcher.ready()))
    return json_response(
        schemas.Ready(
            status="ok",
            model=info.model,
            model_name=name,
            models=service.models,
            collection=info.name,
            points=msgspec.UNSET if info.points is None else info.points,
        )
    )
