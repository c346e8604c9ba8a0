"""GET /: the page for people, and what it is made of: the folder page/, read once, when asked for.

Files name each other plainly, "./grid.js". Here the names get the folder's hash, so that browsers
keep each file for good, and yet never mix two versions.
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
_FOR_GOOD = "public, max-age=31536000, immutable"


class Page(Struct, frozen=True):
    """The HTML, and each file beside it under its hashed name."""

    html: str
    files: Mapping[str, str]


@functools.cache
def load(folder: Path) -> Page | None:
    """None where the folder holds no index.html."""
    if not (folder / _INDEX).is_file():
        return None
    texts = {
        path.name: path.read_text("utf-8")
        for path in sorted(folder.iterdir())
        if path.name == _INDEX or path.suffix in _TYPES
    }
    # one hash for all: modules import each other, in circles too
    digest = hashlib.sha256("\0".join([*texts, *texts.values()]).encode()).hexdigest()[:12]
    html = texts.pop(_INDEX)
    names = {name: f"{Path(name).stem}.{digest}{Path(name).suffix}" for name in texts}

    def renamed(text: str, place: str) -> str:
        return _NAME.sub(lambda found: place + names.get(found[1], found[1]), text)

    files = {names[name]: renamed(text, "./") for name, text in texts.items()}
    return Page(renamed(html, "./page/"), files)


def routes(folder: Path, bucket_origin: Callable[[], str | None]) -> list[Route]:
    """The page's routes, which need no key. `bucket_origin`: where it may send uploads to."""

    async def html(request: Request) -> Response:
        page = load(folder)
        if page is None:
            raise HTTPException(404)
        if (here := _without_slash(request)) is not None:
            return RedirectResponse(f"{here}/", 308)
        origin = await asyncio.to_thread(bucket_origin)
        return Response(page.html, headers=_headers(origin), media_type="text/html")

    async def file(request: Request) -> Response:
        page, name = load(folder), request.path_params["name"]
        if page is None or name not in page.files:
            raise HTTPException(404)
        headers = {"Cache-Control": _FOR_GOOD, "X-Content-Type-Options": "nosniff"}
        return Response(page.files[name], headers=headers, media_type=_TYPES[Path(name).suffix])

    return [Route("/", html), Route("/page/{name}", file)]


def _without_slash(request: Request) -> str | None:
    """The last part of an address such as …/live, under which the page's relative names would lead
    nowhere. API Gateway gives both it and …/live/ as the path "/"; its context tells them apart.
    """
    context = (request.scope.get("aws.event") or {}).get("requestContext") or {}
    asked = context.get("path") or "/"
    return None if asked.endswith("/") else str(asked).rpartition("/")[2]


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
