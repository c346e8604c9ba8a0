"""The shapes of requests and answers: validation, and the OpenAPI document, come from here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Text = Annotated[str, Meta(min_length=1, max_length=1024)]
MAX_OFFSET = 10_000


class SearchOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How to search, whatever the source."""

    limit: Annotated[int, Meta(ge=1, le=100, description="Neighbours per page.")] = 10
    offset: Annotated[int, Meta(ge=0, le=MAX_OFFSET, description="Neighbours to skip.")] = 0
    filter: Annotated[
        dict[str, Any] | None,
        Meta(description="Qdrant filter JSON (must, should, must_not) over declared keys."),
    ] = None
    score_threshold: (
        Annotated[float, Meta(ge=-1, le=1, description="Leave out neighbours with a lower cosine.")]
        | None
    ) = None
    with_url: Annotated[
        bool, Meta(description="Give each result a download URL that lives for five minutes.")
    ] = False


class SearchRequest(SearchOptions, forbid_unknown_fields=True, kw_only=True):
    """Give exactly one source: image, id, key, or vector with model."""

    image: Annotated[
        str | None, Meta(description="The query image, base64; at most 4.5 MiB when decoded.")
    ] = None
    id: Annotated[
        str | None, Meta(description="Search with an indexed image, by the id of an answer.")
    ] = None
    key: Annotated[
        Text | None, Meta(description="Search with an object of the bucket, indexed or not.")
    ] = None
    vector: (
        Annotated[
            list[float],
            Meta(min_length=1, max_length=8192, description="A vector made by `model`."),
        ]
        | None
    ) = None
    model: Annotated[
        Text | None, Meta(description="Fingerprint of the model that made `vector`.")
    ] = None


class Result(msgspec.Struct, kw_only=True, omit_defaults=True):
    id: str
    key: str
    score: Annotated[float, Meta(description="Cosine of the two embeddings, −1 to 1.")]
    payload: Annotated[dict[str, Any], Meta(description="Declared metadata and image facts.")]
    url: str | UnsetType = UNSET


class SearchAnswer(msgspec.Struct, kw_only=True):
    request_id: str
    model: Annotated[str, Meta(description="Fingerprint of the model that embedded the query.")]
    took_ms: Annotated[
        dict[str, float | bool],
        Meta(description="Milliseconds in decode, embed, search, total; and cold_start."),
    ]
    results: list[Result]
    next_offset: int | None


class Image(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An indexed image, or why it was rejected."""

    id: str
    key: str
    state: Literal["live", "rejected"]
    model: str
    indexed_at: str
    payload: dict[str, Any]
    reason: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class Status(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`absent`: the index knows nothing of it, now or yet. `gone`: it was deleted."""

    id: str
    key: str
    state: Literal["live", "rejected", "gone", "absent"]
    model: str | UnsetType = UNSET
    indexed_at: str | UnsetType = UNSET
    etag: str | UnsetType = UNSET
    version_id: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class UploadRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    content_type: Annotated[
        Literal[
            "image/jpeg",
            "image/png",
            "image/webp",
            "image/gif",
            "image/bmp",
            "image/heic",
            "image/avif",
        ],
        Meta(description="The form accepts just this type."),
    ]
    name: (
        Annotated[
            str,
            Meta(
                pattern=r"^[^/\\\x00-\x1f]{1,200}$(?!\n)",  # Python's $ passes a last newline
                description="File name, kept at the key's end.",
            ),
        ]
        | None
    ) = None
    metadata: Annotated[
        dict[str, str], Meta(description="Declared keys only; typed when it is indexed.")
    ] = {}


class UploadTicket(msgspec.Struct, kw_only=True):
    """POST a form with `fields`, then the file as the last field `file`, to `url`."""

    url: str
    fields: dict[str, str]
    id: str
    key: str
    max_bytes: int
    expires_in_s: int
    status_url: Annotated[str, Meta(description="Poll this until the state is live or rejected.")]


class Health(msgspec.Struct, kw_only=True):
    status: Literal["ok"]


class Ready(msgspec.Struct, kw_only=True):
    status: Literal["ok"]
    model: str
    model_name: str
    collection: str
    points: Annotated[int, Meta(description="Live, rejected and deleted objects.")]


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    uploads: Annotated[
        str | UnsetType, Meta(description="Where a larger image can be uploaded to.")
    ] = UNSET
