"""The table of operations, and the OpenAPI 3.1 document generated from it and the schemas."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from . import schemas, search_schemas

_REF = "#/components/schemas/{name}"
# Options that are JSON also in a query string or a form.
JSON_OPTIONS = ("filter", "box", "exclude", "cutoff")
_ERRORS = {
    400: "The request is invalid; `detail` names the field.",
    403: "The key or token does not permit this, or names no tenant.",
    404: "There is no such image.",
    409: "Made by another model, or replaced in the meantime.",
    413: "Too large; use POST /v1/uploads for larger images.",
    415: "Unsupported content type or image format.",
    422: "The image cannot be used; `type` and `detail` say why.",
    500: "The service is misconfigured: its operator has to act, and trying again does not help.",
    503: "The index or the bucket is not available: retry after Retry-After seconds.",
}
_KEY = {"type": "apiKey", "in": "header", "name": "x-api-key"}
_AUTHORIZATION = {"type": "apiKey", "in": "header", "name": "Authorization"}
_SCHEMES = {
    "searchKey": {**_KEY, "description": "A key that permits searching. AuthMode ApiKey."},
    "writeKey": {
        **_KEY,
        "description": "The key that permits writing and searching. AuthMode ApiKey.",
    },
    "token": {
        **_AUTHORIZATION,
        "description": "A Cognito ID token; only the write group may write. AuthMode Cognito.",
    },
    "signature": {
        **_AUTHORIZATION,
        "description": "AWS Signature Version 4; IAM policies grant access. AuthMode Iam.",
    },
}
_BINARY = {"type": "string", "format": "binary"}
_ID_PARAMETER = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "The image's id, as given in answers and by `GET /v1/status`.",
}


class Operation(msgspec.Struct, frozen=True):
    """One route. `name` is also that of its function in operations.py. `options` are those of the
    query string; with `images`, the body may also be an image, or a form with an image and the
    options. An `answer` that is not JSON is given by its media type. `scope`: who may call it;
    writers may search too.
    """

    name: str
    method: str
    path: str
    summary: str
    answer: type[msgspec.Struct] | str
    errors: tuple[int, ...] = ()
    status: int = 200
    body: type[msgspec.Struct] | None = None
    images: bool = False
    options: type[msgspec.Struct] | None = None
    parameters: tuple[dict[str, Any], ...] = ()
    scope: Literal["anyone", "search", "write"] = "search"


OPERATIONS = (
    Operation(
        "search",
        "POST",
        "/v1/search",
        "Find the most similar images. Send the image itself (image/*, with options in the query "
        "string), a form with a file named `image`, or JSON.",
        search_schemas.SearchAnswer,
        (400, 404, 409, 413, 415, 422, 503),
        body=search_schemas.SearchRequest,
        images=True,
        options=search_schemas.SearchOptions,
    ),
    Operation(
        "image",
        "GET",
        "/v1/images/{id}",
        "One indexed image, or the reason why it was rejected.",
        schemas.Image,
        (404, 503),
        parameters=(_ID_PARAMETER,),
    ),
    Operation(
        "remove",
        "DELETE",
        "/v1/images/{id}",
        "Delete an image's object from the bucket; the index is updated afterwards.",
        schemas.Removal,
        (404, 503),
        status=202,
        parameters=(_ID_PARAMETER,),
        scope="write",
    ),
    Operation(
        "similar",
        "GET",
        "/v1/images/{id}/similar",
        "Images similar to an indexed image, which is not in the results itself.",
        search_schemas.SearchAnswer,
        (400, 404, 409, 413, 415, 422, 503),
        options=search_schemas.SearchOptions,
        parameters=(_ID_PARAMETER,),
    ),
    Operation(
        "images",
        "GET",
        "/v1/images",
        "List all live images, or all rejected ones, page by page.",
        schemas.Images,
        (400, 503),
        options=schemas.ImagesOptions,
    ),
    Operation(
        "thumbnail",
        "GET",
        "/v1/images/{id}/thumbnail",
        "A thumbnail of an indexed image. API Gateway needs the header `Accept: image/jpeg`.",
        "image/jpeg",
        (400, 404, 409, 413, 415, 422, 503),
        options=schemas.ThumbnailOptions,
        parameters=(_ID_PARAMETER,),
    ),
    Operation(
        "facets",
        "GET",
        "/v1/facets",
        "The values of declared keys among live images, with counts.",
        schemas.Facets,
        (400, 503),
        options=schemas.FacetsOptions,
    ),
    Operation(
        "config",
        "GET",
        "/v1/config",
        "What this service supports: limits, formats, declared keys.",
        schemas.Config,
        (503,),
    ),
    Operation(
        "compare",
        "POST",
        "/v1/compare",
        "Compare two images: verdict, overlap, matched regions.",
        search_schemas.Comparison,
        (400, 404, 409, 413, 415, 422, 503),
        body=search_schemas.CompareRequest,
    ),
    Operation(
        "duplicates",
        "GET",
        "/v1/duplicates",
        "Groups of duplicate images, or of variants, detected at indexing.",
        schemas.DuplicateGroups,
        (400, 503),
        options=schemas.DuplicateOptions,
    ),
    Operation(
        "decide",
        "POST",
        "/v1/duplicates/decisions",
        "Record that an image is not a duplicate of a group.",
        schemas.Ok,
        (400, 404, 413, 415, 503),
        body=schemas.Decision,
        scope="write",
    ),
    Operation(
        "feedback",
        "POST",
        "/v1/feedback",
        "Record a user's feedback on a result.",
        schemas.Ok,
        (400, 413, 415, 503),
        body=schemas.Feedback,
    ),
    Operation(
        "upload",
        "POST",
        "/v1/uploads",
        "A presigned form for uploading one image directly into the bucket.",
        schemas.UploadTicket,
        (400, 413, 415, 503),
        status=201,
        body=schemas.UploadRequest,
        scope="write",
    ),
    Operation(
        "status",
        "GET",
        "/v1/status",
        "Whether an object is indexed: when and with which model, or why not.",
        schemas.Status,
        (400, 503),
        options=schemas.StatusOptions,
    ),
    Operation("health", "GET", "/v1/health", "The process is running.", schemas.Ok, scope="anyone"),
    Operation(
        "ready",
        "GET",
        "/v1/ready",
        "Whether searches work: the index is available and was made by this model.",
        schemas.Ready,
        (503,),
    ),
)


@functools.cache
def document_json() -> bytes:
    return msgspec.json.format(msgspec.json.encode(document()), indent=2)


@functools.cache
def document() -> dict[str, Any]:
    kinds: list[type[msgspec.Struct]] = [schemas.Problem]
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        kinds += [kind for kind in (operation.answer, operation.body) if isinstance(kind, type)]
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation)
    _, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    for component in components.values():
        if description := component.get("description"):  # Python 3.13 strips indentation
            component["description"] = " ".join(description.split())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Likeness",
            "version": _version(),
            "description": "Visual search in the images of a bucket.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": _SCHEMES,
        },
    }


def _describe(operation: Operation) -> dict[str, Any]:
    options = _schema(operation.options) if operation.options else {}
    entry: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*operation.parameters, *_option_parameters(options)],
        "responses": _responses(operation),
        "security": _security(operation),
    }
    if operation.body:
        contents = {"application/json": {"schema": _ref(operation.body)}}
        if operation.images:
            contents |= _image_contents(options)
        entry["requestBody"] = {"required": True, "content": contents}
    return entry


def _security(operation: Operation) -> list[dict[str, Any]]:
    """Any one of these; the deployment's AuthMode says which. A service without a gateway, such as
    the local one, needs none.
    """
    names = [name for name in _SCHEMES if name != "searchKey" or operation.scope != "write"]
    return [*({name: []} for name in names), {}]


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an optional field without the null that means absence."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    if len(kinds) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return {**kinds[0], **rest}


def _schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The schema of fields in a query string or a form, where there is no null."""
    _, components = msgspec.json.schema_components([kind], ref_template=_REF)
    schema: dict[str, Any] = components[kind.__name__]
    properties = schema["properties"].items()
    return {**schema, "properties": {name: without_null(field) for name, field in properties}}


def _option_parameters(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "query",
            "required": name in options["required"],
            **_parameter_schema(name, schema),
        }
        for name, schema in options.get("properties", {}).items()
    ]


def _parameter_schema(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The description is next to the schema, where tools expect a parameter's."""
    plain = {key: value for key, value in schema.items() if key != "description"}
    description = {key: value for key, value in schema.items() if key == "description"}
    if name in JSON_OPTIONS:
        return {"content": {"application/json": {"schema": plain}}, **description}
    return {"schema": plain, **description}


def _image_contents(options: Mapping[str, Any]) -> dict[str, Any]:
    """The image as the body, or as a file in a form with the options."""
    return {
        "image/*": {"schema": _BINARY},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": _BINARY, **options["properties"]},
                "additionalProperties": False,
            },
            # without this, a list would be sent as one field per item
            "encoding": {name: {"contentType": "application/json"} for name in JSON_OPTIONS},
        },
    }


def _responses(operation: Operation) -> dict[str, Any]:
    if isinstance(operation.answer, str):
        content = {operation.answer: {"schema": _BINARY}}
        unmodified = {"description": "Not modified: If-None-Match has its ETag.", "content": {}}
        responses: dict[str, Any] = {"304": unmodified}
    else:
        content, responses = {"application/json": {"schema": _ref(operation.answer)}}, {}
    responses[str(operation.status)] = {"description": "Success.", "content": content}
    problem = {"application/problem+json": {"schema": _ref(schemas.Problem)}}
    forbidden = () if operation.scope == "anyone" else (403,)
    misconfigured = (500,) if 503 in operation.errors else ()
    for status in (*operation.errors, *forbidden, *misconfigured):
        responses[str(status)] = {"description": _ERRORS[status], "content": problem}
    return responses


def _ref(kind: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - rarely needed

    try:
        return version("likeness")
    except PackageNotFoundError:  # in Lambda the code is not installed as a package
        return "deployed"
