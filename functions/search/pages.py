"""GET /: the web page and its files, from the folder page/, read once at the first request.

The files refer to each other by plain names, "./grid.js". The folder's hash is added to the names,
so that browsers can cache each file for ever and never mix two versions.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

FOLDER = Path(__file__).with_name("page")
_INDEX = "index.html"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_NAME = re.compile(r"""(?<=["'(])\./([\w-]+\.(?:css|js|svg))(?=["')])""")
_FOR_EVER = "public, max-age=31536000, immutable"


class WebPage(Struct, frozen=True):
    """The HTML, and the other files by their hashed names."""

    html: str
    files: Mapping[str, str]


@functools.cache
def load(folder: Path) -> WebPage | None:
    """None where the folder has no index.html."""
    if not (folder / _INDEX).is_file():
        return None
    texts = {
        path.name: path.read_text("utf-8")
        for path in sorted(folder.iterdir())
        if path.name == _INDEX or path.suffix in _TYPES
    }
    # one hash for all files: modules import each other, also in cycles
    digest = hashlib.sha256("\0".join([*texts, *texts.values()]).encode()).hexdigest()[:12]
    html = texts.pop(_INDEX)
    names = {name: f"{Path(name).stem}.{digest}{Path(name).suffix}" for name in texts}

    def rename(text: str, folder: str) -> str:
        return _NAME.sub(lambda found: folder + names.get(found[1], found[1]), text)

    files = {names[name]: rename(text, "./") for name, text in texts.items()}
    return WebPage(rename(html, "./page/"), files)


def routes(folder: Path, bucket_origin: Callable[[], str | None]) -> list[Route]:
    """The page's routes, which need no key. `bucket_origin`: the origin it may upload to."""

    async def html(request: Request) -> Response:
        page = load(folder)
        if page is None:
            raise HTTPException(404)
        if (segment := _last_segment(request)) is not None:
            return RedirectResponse(f"{segment}/", 308)
        origin = await asyncio.to_thread(bucket_origin)
        return Response(page.html, headers=_headers(origin), media_type="text/html")

    async def file(request: Request) -> Response:
        page, name = load(folder), request.path_params["name"]
        if page is None or name not in page.files:
            raise HTTPException(404)
        headers = {"Cache-Control": _FOR_EVER, "X-Content-Type-Options": "nosniff"}
        return Response(page.files[name], headers=headers, media_type=_TYPES[Path(name).suffix])

    return [Route("/", html), Route("/page/{name}", file)]


def _last_segment(request: Request) -> str | None:
    """The last segment of a URL such as …/live, where the page's relative links would not resolve;
    None for …/live/. API Gateway passes both as the path "/"; its context has the difference.
    """
    context = (request.scope.get("aws.event") or {}).get("requestContext") or {}
    path = context.get("path") or "/"
    return None if path.endswith("/") else str(path).rpartition("/")[2]


def _headers(bucket_origin: str | None) -> dict[str, str]:
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": " ".join(["'self'", *([bucket_origin] if bucket_origin else [])]),
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": "; ".join(map(" ".join, policy.items())),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
