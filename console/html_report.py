"""Self-contained HTML pages: the results of `likeness demo`, and the frame of every report."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Protocol

from likeness import images
from likeness.settings import Limits

_THUMBNAIL = 200
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
h1 { margin-bottom: .2rem } .sum { margin: 0 0 1.5rem; opacity: .8 }
.row { display: grid; grid-template-columns: 11rem 1fr; gap: 1.5rem; padding: 1rem 0;
       border-top: 1px solid color-mix(in srgb, currentColor 18%, transparent) }
.name { font-size: .85rem } .badge { font-weight: 600; font-size: .8rem; border-radius: 1rem;
       padding: .1rem .6rem; color: #fff; background: #b3261e } .ok .badge { background: #1e7b34 }
.answers { display: flex; flex-wrap: wrap; gap: .8rem } figure { margin: 0; width: 8.5rem }
img { width: 100%; height: 8.25rem; object-fit: contain; border-radius: 6px;
      background: color-mix(in srgb, currentColor 6%, transparent) }
@media (max-width: 40rem) { .row { grid-template-columns: 1fr } figure { width: 6rem }
  .row > div > img { width: 11rem } }
.hit img { outline: 3px solid #1e7b34 } figcaption { font-size: .75rem; overflow-wrap: anywhere }
"""


class Check(Protocol):
    """The part of `demo.walkthrough.Check` that the page shows."""

    @property
    def name(self) -> str: ...
    @property
    def ok(self) -> bool: ...
    @property
    def found(self) -> str: ...
    @property
    def query(self) -> bytes | None: ...
    @property
    def results(self) -> Sequence[Mapping[str, object]]: ...
    @property
    def expected(self) -> str | None: ...


def page(checks: Sequence[Check], images: Mapping[str, bytes], model: str) -> str:
    """`images` holds the uploaded bytes of every key that may be among the results."""
    right = sum(check.ok for check in checks)
    thumbnails: dict[str, str] = {}
    rows = "".join(_row(check, images, thumbnails) for check in checks)
    lead = (
        f"{right} of {len(checks)} checks right · model {escape(model)} · "
        "the expected image is framed"
    )
    return document("Likeness demo", lead, rows)


def document(title: str, lead: str, body: str, style: str = "") -> str:
    """A page without other files. `lead` and `body` are HTML, `title` is text."""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}{style}</style><h1>{escape(title)}</h1><p class=sum>{lead}</p>{body}"
    )


def _row(check: Check, images: Mapping[str, bytes], thumbnails: dict[str, str]) -> str:
    query = f'<img alt="the query" src="{thumbnail(check.query)}">' if check.query else ""
    answers = "".join(
        _answer(result, check.expected, images, thumbnails) for result in check.results
    )
    verdict = "right" if check.ok else "wrong"
    body = answers or f"<p>{escape(check.found)}</p>"
    return (
        f'<section class="row {"ok" if check.ok else ""}"><div>{query}'
        f"<div class=name><span class=badge>{verdict}</span> {escape(check.name)}</div></div>"
        f"<div class=answers>{body}</div></section>"
    )


def _answer(
    result: Mapping[str, object],
    expected: str | None,
    images: Mapping[str, bytes],
    thumbnails: dict[str, str],
) -> str:
    key = str(result["key"])
    if key not in thumbnails:
        thumbnails[key] = thumbnail(images[key])
    hit = " class=hit" if key == expected else ""
    return (
        f'<figure{hit}><img alt="{escape(key)}" src="{thumbnails[key]}">'
        f"<figcaption>{escape(key)}<br>{result['score']:.3f} "
        f"<b>{verdict_and_edits(result)}</b></figcaption></figure>"
    )


def verdict(result: Mapping[str, Any]) -> str:
    """“same item 93 %”; empty if the service has no calibration for its model."""
    if "verdict" not in result:
        return ""
    return f"{result['verdict'].replace('_', ' ')} {result['probability']:.0%}".replace("%", " %")


def edits(result: Mapping[str, Any]) -> str:
    """“cropped, part of”; empty where none is known."""
    return ", ".join(name.replace("_", " ") for name in result.get("edits", []))


def verdict_and_edits(result: Mapping[str, Any]) -> str:
    """“edited 97 % · cropped, mirrored”."""
    return " · ".join(filter(None, (verdict(result), edits(result))))


def thumbnail(data: bytes) -> str:
    """A small JPEG of an image, as a data: URL."""
    small = images.thumbnail(data, Limits(), _THUMBNAIL)
    return "data:image/jpeg;base64," + base64.b64encode(small).decode()
