"""What a Qdrant server's refusals mean: HTTP status → error."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from likeness.errors import (
    IndexForbidden,
    IndexFull,
    IndexMissing,
    IndexRefused,
    IndexUnauthorized,
    IndexUnavailable,
)

# 408: a search exceeded the server's own time limit. 429: a rate limit of strict mode. 500: among
# others a shard without a leader for a moment, or a change that the cluster has not agreed on yet.
RETRIED = {408, 429, 500, 502, 503, 504}
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _QUOTA = 401, 403, 404, 507
# Their bodies are plain text; those of other statuses are JSON, or not from Qdrant.
KEY_REFUSED = {_UNAUTHORIZED, _FORBIDDEN}
_QUOTED_BYTES = 200
_COLLECTION = re.compile(r"/collections/([^/?]+)")
# By parts of the server's own messages.
_CAUSES = {
    "Index required": "strict mode refuses filters on payload fields without an index",
    "imit exceeded": "over a limit of the collection's strict mode",
    "dimension": "the vector has not the collection's dimension, so another model made one of them",
    "vector name": "the collection has no such vector, so Likeness did not make it",
}


def error_words(data: bytes) -> str:
    """The server's own words in a response that may be anything."""
    try:
        return str(msgspec.json.decode(data)["status"]["error"])
    except (ValueError, RecursionError, TypeError, KeyError, IndexError):
        return data[:_QUOTED_BYTES].decode("utf-8", "replace")


def refusal(status: int, body: Any, method: str, path: str) -> IndexUnavailable:
    """`body` is the decoded response, or the text that came instead."""
    request = f"{method} {path} (HTTP {status})"
    match status:
        case _ if status == _UNAUTHORIZED:
            return IndexUnauthorized(f"Qdrant refused {request}: no API key, or a wrong one")
        case _ if status == _FORBIDDEN:
            return IndexForbidden(
                f"the API key does not permit {request}: {str(body)[:_QUOTED_BYTES]}"
            )
        case _ if status == _NOT_FOUND and (found := _COLLECTION.match(path)):
            return IndexMissing(f"Qdrant has no collection {found[1]}: index an image first")
        case _ if status == _QUOTA:
            return IndexFull(f"the index is full: a memory or disk quota ended {request}")
    words = str(body.get("status") if isinstance(body, dict) else body)
    cause = next((cause for part, cause in _CAUSES.items() if part in words), None)
    return IndexRefused(f"Qdrant refused {request}: {words}{f' ({cause})' if cause else ''}")
