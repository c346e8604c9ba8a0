"""Requests in: HTTP bodies, forms and query strings → validated values of the library."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.datastructures import ImmutableMultiDict, UploadFile
from starlette.requests import Request

from likeness.errors import InvalidRequest, NotIndexed, QueryTooLarge, UnsupportedFormat
from likeness.queries import (
    MAX_QUERY_BYTES,
    ByExamples,
    ById,
    ByImage,
    ByObject,
    ByText,
    ByToken,
    ByVector,
    Cutoff,
    Query,
    Source,
)
from likeness.records import Box, ObjectRef
from likeness.rerank.profiles import Profile
from likeness.settings import MIB

from . import openapi, search_schemas
from .service import Service

_MAX_KEY_BYTES = 1024
# Twice the known ones: an unknown field is still named in the error.
_MAX_FIELDS = 2 * len(search_schemas.SearchOptions.__struct_fields__)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

S = TypeVar("S", bound=msgspec.Struct)


async def parse_search(
    request: Request, service: Service
) -> tuple[Source, search_schemas.SearchOptions]:
    """A raw image with its options in the query string, a form, or JSON."""
    content_type = _content_type(request)
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        options = parse_options(request, search_schemas.SearchOptions)
        return ByImage(_checked_size(await request.body())), options
    if content_type not in ("multipart/form-data", "application/json"):
        raise UnsupportedFormat(
            "send an image/… body, multipart/form-data with a file named image, or application/json"
        )
    if request.query_params:
        raise InvalidRequest(
            f"{content_type} carries its fields in the body, not in the query string"
        )
    if content_type == "multipart/form-data":
        return await _parse_form(request)
    body = _decoded(await request.body(), search_schemas.SearchRequest)
    return await parse_source(body, service), body


async def parse_source(
    body: search_schemas.SearchRequest | search_schemas.ComparedPicture, service: Service
) -> Source:
    """The one source that the request names. Raises InvalidRequest for none or several."""
    names = ["image", "image_url", "id", "key", "query_id"]
    if isinstance(body, search_schemas.SearchRequest):
        names += ["text", "vector", "positive"]
        if (body.vector is None) != (body.model is None):
            raise InvalidRequest(
                "vector and model, its model's fingerprint, must be given together"
            )
        if body.negative and body.positive is None:
            raise InvalidRequest("negative needs positive: give ids of images to resemble")
    given = [name for name in names if getattr(body, name) is not None]
    if len(given) != 1:
        raise InvalidRequest(
            f"give exactly one of {', '.join(names[:-1])} or {names[-1]}"
            + (f", not {' and '.join(given)}" if given else "")
        )
    # a thread, because fetching a URL and decoding base64 take time
    return await asyncio.to_thread(_SOURCES[given[0]], body, service)


# How each field that names a source is parsed.
_SOURCES: Mapping[str, Callable[[Any, Service], Source]] = {
    "image": lambda body, service: ByImage(_checked_size(_from_base64(body.image))),
    "image_url": lambda body, service: ByImage(service.fetch(body.image_url)),
    "id": lambda body, service: ById(parse_id(body.id)),
    "key": lambda body, service: ByObject(ObjectRef(service.bucket(), parse_key(body.key))),
    "query_id": lambda body, service: ByToken(body.query_id),
    "text": lambda body, service: ByText(body.text),
    "vector": lambda body, service: ByVector(tuple(body.vector), body.model),
    "positive": lambda body, service: ByExamples(
        tuple(map(parse_id, body.positive)), tuple(map(parse_id, body.negative))
    ),
}


def parse_query(source: Source, options: search_schemas.SearchOptions) -> Query:
    return Query(
        source,
        limit=options.limit,
        offset=options.offset,
        filter=options.filter,
        score_threshold=options.score_threshold,
        box=parse_box(options.box),
        rerank=Profile(options.rerank),
        subject=options.subject,
        regions=options.detect,
        group_by=options.group_by,
        group_size=options.group_size,
        exclude=tuple(options.exclude),
        cutoff=_parse_cutoff(options.cutoff),
        diversity=options.diversity,
    )


async def parse_json(request: Request, shape: type[S], hint: str = "") -> S:
    """A JSON body. `hint` is added to the error for another content type."""
    if _content_type(request) != "application/json":
        raise UnsupportedFormat(f"send application/json{hint}")
    return _decoded(await request.body(), shape)


def parse_options(request: Request, shape: type[S]) -> S:
    """The options in the query string."""
    _check_once(request.query_params)
    return _from_texts(request.query_params, shape)


def path_id(request: Request) -> str:
    return parse_id(request.path_params["id"])


def parse_id(text: str) -> str:
    if not _UUID.fullmatch(text):
        raise NotIndexed(f"no image has the id {text[:100]!r}; ids are UUIDs, as given in answers")
    return text


def parse_key(key: str) -> str:
    if len(key.encode()) > _MAX_KEY_BYTES:
        raise InvalidRequest(f"key: the maximum for S3 is {_MAX_KEY_BYTES} bytes")
    return key


def parse_box(sides: search_schemas.Sides | None) -> Box | None:
    if sides is None:
        return None
    box = Box(*sides)
    if box.left >= box.right or box.top >= box.bottom:
        raise InvalidRequest(
            "box: give left, top, right, bottom, with left < right and top < bottom"
        )
    return box


def too_large(size: int) -> QueryTooLarge:
    return QueryTooLarge(
        f"{size / MIB:.1f} MiB; the maximum for a query is {MAX_QUERY_BYTES / MIB:.1f} MiB: "
        "upload the image with POST /v1/uploads, then search by its key"
    )


def _parse_cutoff(cutoff: search_schemas.Cutoff | None) -> Cutoff | None:
    if cutoff is None:
        return None
    if cutoff.method == "relative" and cutoff.value > 1:
        raise InvalidRequest("cutoff: a relative value is a share of the best score, at most 1")
    return Cutoff(cutoff.method, cutoff.value)


async def _parse_form(request: Request) -> tuple[Source, search_schemas.SearchOptions]:
    try:
        form = await request.form(max_files=1, max_fields=_MAX_FIELDS)
    except (UnicodeError, LookupError) as error:  # an unknown charset
        raise InvalidRequest(f"form: {error}") from error
    texts = {name: value for name, value in form.items() if isinstance(value, str)}
    files = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
    try:
        _check_once(form)
        if files.keys() != {"image"}:
            raise InvalidRequest("a form needs one file, named image")
        image = _checked_size(await files["image"].read())
    finally:
        await form.close()
    return ByImage(image), _from_texts(texts, search_schemas.SearchOptions)


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _decoded(body: bytes, shape: type[S]) -> S:
    try:
        return msgspec.json.decode(body, type=shape)
    # a body nested a thousand levels deep exhausts msgspec's stack
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"body: {error}") from error


def _from_texts(texts: Mapping[str, str], shape: type[S]) -> S:
    """Query-string or form fields: numbers as text, some as JSON."""
    fields: dict[str, Any] = dict(texts)
    for name in fields.keys() & set(openapi.JSON_OPTIONS):
        try:
            fields[name] = msgspec.json.decode(fields[name])
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise InvalidRequest(f"{name}: {error}") from error
    try:
        return msgspec.convert(fields, shape, strict=False)
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
        raise InvalidRequest(f"image: not valid base64: {error}") from error


def _checked_size(image: bytes) -> bytes:
    if len(image) > MAX_QUERY_BYTES:
        raise too_large(len(image))
    return image
