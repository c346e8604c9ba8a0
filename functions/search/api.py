"""The ASGI app: routes, errors and the limit on bodies. The same app runs under Mangum and locally.

A request passes access.py (who calls), request_parsing.py (what is asked), operations.py (what is
done, with the library) and responses.py (what is answered).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from likeness.gallery import Gallery
from likeness.ports import IndexView, ObjectStore
from likeness.queries import MAX_QUERY_BYTES
from likeness.searchers import Searchers
from likeness.settings import MIB, Settings
from likeness.tenants import Tenants

from . import access, openapi, operations, pages, problems
from .invocation import Endpoint, answer_in_time
from .request_parsing import too_large
from .service import Fetch, Record, Service

# base64 of the largest image, and room for the other fields
_MAX_BODY_BYTES = MAX_QUERY_BYTES * 4 // 3 + MIB // 4

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger


def create_app(
    searchers: Searchers,
    index: IndexView,
    open_store: Callable[[], ObjectStore],
    settings: Settings,
    open_logger: Callable[[], Logger],
    fetch: Fetch | None = None,
    record: Record = lambda line: None,
    page_folder: Path = pages.FOLDER,
) -> BodyLimit:
    """The whole HTTP service. `open_store` and `open_logger` are called when first needed.

    `fetch` reads an `image_url`, up to a number of bytes. `record` writes one line about each
    answer; the line has no newline. `page_folder` holds the web page.
    """
    tenants = Tenants(settings.prefix)
    gallery = Gallery(index, open_store, settings.schema, settings.limits, tenants)
    service = Service(searchers, gallery, settings, fetch, record)
    routes = [
        Route(
            operation.path,
            answer_in_time(_endpoint(operation, service)),
            methods=[operation.method],
        )
        for operation in openapi.OPERATIONS
    ]
    routes.append(Route("/openapi.json", _document, methods=["GET"]))
    routes.append(Route("/docs", _docs_page, methods=["GET"]))
    routes += pages.routes(page_folder, service.bucket_origin)
    router = Router(routes, redirect_slashes=False)
    return BodyLimit(ExceptionMiddleware(router, problems.handlers(open_logger)))


def _endpoint(operation: openapi.Operation, service: Service) -> Endpoint:
    """The operation, for callers who may use it, over what they may see."""
    operate = getattr(operations, operation.name)

    async def endpoint(request: Request) -> Response:
        context, settings = access.context_of(request), service.settings
        if operation.scope == "write":
            access.check_writer(context, settings)
        visible = service
        if settings.tenant_claim and operation.scope != "anyone":
            visible = service.for_tenant(access.tenant_of(context, settings.tenant_claim))
        response: Response = await operate(visible, request)
        return response

    return endpoint


class BodyLimit:
    """The outermost layer: it stops reading a body that is larger than any accepted request.

    Starlette's own application class is not used: its debug pages take 6 ms to import, and its body
    limit answers in plain text.
    """

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > _MAX_BODY_BYTES:
                raise too_large(received)
            return message

        # with an app in its scope, the router raises for an unknown route instead of answering
        scope["app"] = self
        await self._inner(scope, limited, send)


async def _document(request: Request) -> Response:
    return Response(openapi.document_json(), media_type="application/json")


async def _docs_page(request: Request) -> Response:
    from . import docs  # noqa: PLC0415 - needed by people only, never at a cold start

    return HTMLResponse(docs.page(openapi.document()))
