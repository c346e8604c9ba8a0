"""The schemas of requests and answers; validation and the OpenAPI document use them.

Those of a search and a comparison are in search_schemas.py.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Text = Annotated[str, Meta(min_length=1, max_length=1024)]
# The id of a stored record: an unknown one gives 404, whatever its form.
Id = Annotated[str, Meta(min_length=1, max_length=64)]
# An id that is only compared. The length rejects a final newline, which Python's $ allows.
Uuid = Annotated[str, Meta(max_length=36, pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Token = Annotated[str, Meta(min_length=1, max_length=65_536)]
# S3 keeps metadata as HTTP headers: an object with other characters could not be read.
MetadataText = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
Filter = Annotated[
    dict[str, Any] | None,
    Meta(description="Qdrant filter JSON (must, should, must_not) over declared keys."),
]
Cursor = Annotated[
    Uuid | None, Meta(description="`next_cursor` of the previous answer; none for the first page.")
]
Probability = Annotated[
    float, Meta(description="Probability of this verdict or a closer one; for none, of none.")
]


class Member(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An image of a group. Verdict and probability compare a copy with its closest match; the
    original has none.
    """

    id: str
    key: str
    verdict: Annotated[str | UnsetType, Meta(description="exact, copy or edited; or variant.")] = (
        UNSET
    )
    probability: Probability | UnsetType = UNSET


class DuplicateGroup(msgspec.Struct, kw_only=True):
    """Images that are duplicates, or variants, of each other."""

    id: str
    original: Annotated[
        Member | None, Meta(description="The oldest object; null after it was deleted.")
    ]
    copies: list[Member]
    more: Annotated[bool, Meta(description="Whether there are more copies than listed.")]


class DuplicateGroups(msgspec.Struct, kw_only=True):
    """A group is listed completely on the page of its first copy; a page without groups may have a
    next page.
    """

    groups: list[DuplicateGroup]
    next_cursor: str | None


class DuplicateOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    relation: Annotated[
        Literal["duplicate", "variant"],
        Meta(
            description="duplicate: the same image, of which all but one may be deleted. variant: "
            "the same design in another colour or with other content."
        ),
    ] = "duplicate"
    limit: Annotated[
        int, Meta(ge=1, le=200, description="Images of groups to examine for this page.")
    ] = 50
    cursor: Cursor = None


class StatusOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    key: Annotated[Text, Meta(description="The object's key in the bucket.")]


class Decision(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    group: Annotated[Id, Meta(description="The group's id.")]
    id: Annotated[Id, Meta(description="The copy's id.")]
    decision: Annotated[
        Literal["not_duplicate", "duplicate"],
        Meta(description="duplicate revokes an earlier not_duplicate."),
    ]


class Feedback(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    request_id: Annotated[
        Id, Meta(description="`request_id` of the answer that contained the result.")
    ]
    id: Annotated[Uuid, Meta(description="The result's id.")]
    kind: Literal["click", "relevant", "not_relevant"]
    query_id: Annotated[
        Token | None,
        Meta(
            description="`query_id` of the answer, with which an evaluation can repeat the query."
        ),
    ] = None


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


class Images(msgspec.Struct, kw_only=True):
    images: list[Image]
    next_cursor: str | None


class ImagesOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    state: Annotated[
        Literal["live", "rejected"],
        Meta(description="live: searchable. rejected: not indexable, with the reason."),
    ] = "live"
    filter: Filter = None
    limit: Annotated[int, Meta(ge=1, le=200, description="Images per page.")] = 50
    cursor: Cursor = None


class ThumbnailOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    size: Annotated[
        Literal[160, 320, 640, 1024], Meta(description="Maximum pixels of the longer side.")
    ] = 320


class FacetsOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    keys: Annotated[
        Text | None,
        Meta(description="Declared keys, comma-separated; by default all that can be counted."),
    ] = None
    filter: Filter = None


class FacetValue(msgspec.Struct, kw_only=True):
    value: str | int
    count: int


class Facet(msgspec.Struct, kw_only=True):
    """The values of a declared key, the most frequent first, at most 50."""

    key: str
    type: Literal["keyword", "integer"]
    values: list[FacetValue]


class Facets(msgspec.Struct, kw_only=True):
    facets: list[Facet]


class Config(msgspec.Struct, kw_only=True):
    """What this service supports."""

    bucket_origin: Annotated[str | None, Meta(description="Origin that uploads are sent to.")]
    tenants: Annotated[bool, Meta(description="Whether callers see only their tenant's images.")]
    text: Annotated[bool, Meta(description="Whether text queries are supported.")]
    model_name: str
    keys: Annotated[dict[str, str], Meta(description="Declared metadata keys and their types.")]
    formats: Annotated[list[str], Meta(description="Supported image formats.")]
    max_query_bytes: int
    max_upload_bytes: int


class Status(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`absent`: the index has no record of the object, perhaps not yet. `gone`: it was deleted."""

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
        Meta(description="The form accepts only this type."),
    ]
    name: (
        Annotated[
            str,
            Meta(
                # Python's $ allows a final newline, and S3 replaces ${filename} by the file's name
                pattern=r"^(?!.*\$\{filename\})[^/\\\x00-\x1f]{1,200}$(?!\n)",
                description="File name, the last part of the key.",
            ),
        ]
        | None
    ) = None
    metadata: Annotated[
        dict[str, MetadataText],
        Meta(description="Declared keys only, 2 kB in all; converted to their types at indexing."),
    ] = {}


class UploadTicket(msgspec.Struct, kw_only=True):
    """POST a form to `url` with `fields`, and the file as the last field, named `file`."""

    url: str
    fields: dict[str, str]
    id: str
    key: str
    max_bytes: int
    expires_in_s: int
    status_url: Annotated[
        str, Meta(description="Poll this URL until the state is live or rejected.")
    ]


class Removal(msgspec.Struct, kw_only=True):
    """The object was deleted; the index is updated within seconds."""

    id: str
    key: str
    status_url: Annotated[str, Meta(description="Poll this URL until the state is gone.")]


class Ok(msgspec.Struct, kw_only=True):
    status: Literal["ok"]


class Ready(msgspec.Struct, kw_only=True, omit_defaults=True):
    status: Literal["ok"]
    model: str
    model_name: str
    models: Annotated[list[str], Meta(description="All models that the service can search with.")]
    collection: str
    points: Annotated[
        int | UnsetType,
        Meta(description="Live, rejected and deleted objects; not given where there are tenants."),
    ] = UNSET


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    uploads: Annotated[str | UnsetType, Meta(description="Path for uploading a larger image.")] = (
        UNSET
    )
