"""The schemas of requests and answers; validation and the OpenAPI document use them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

MAX_OFFSET = 10_000

Text = Annotated[str, Meta(min_length=1, max_length=1024)]
# An id that is looked up: an unknown one gives 404, whatever its form.
Id = Annotated[str, Meta(min_length=1, max_length=64)]
# An id that is only compared. The length rejects a final newline, which Python's $ allows.
Uuid = Annotated[str, Meta(max_length=36, pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Token = Annotated[str, Meta(min_length=1, max_length=65_536)]
# S3 keeps metadata as HTTP headers: an object with other characters could not be read.
MetadataText = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
Share = Annotated[float, Meta(ge=0, le=1)]
Sides = tuple[Share, Share, Share, Share]
Filter = Annotated[
    dict[str, Any] | None,
    Meta(description="Qdrant filter JSON (must, should, must_not) over declared keys."),
]
Cursor = Annotated[
    Uuid | None, Meta(description="`next_cursor` of the previous answer; none for the first page.")
]
_BOX = "Left, top, right, bottom, as fractions of the image's width and height."


class Cutoff(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """relative: end at the first score below this fraction, up to 1, of the best one. gap: end
    before the first drop of at least this much.
    """

    method: Literal["relative", "gap"]
    value: Annotated[float, Meta(gt=0, le=2)]


class SearchOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Search options, for every kind of source."""

    limit: Annotated[int, Meta(ge=1, le=100, description="Neighbours per page.")] = 10
    offset: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_OFFSET,
            description="Neighbours to skip. Where an image is also searched by its subject, or "
            "results are compared with each other, the list ends after 100.",
        ),
    ] = 0
    filter: Filter = None
    score_threshold: Annotated[
        Annotated[float, Meta(ge=-1, le=1)] | None,
        Meta(description="Exclude neighbours with a lower cosine."),
    ] = None
    rerank: Annotated[
        Literal["none", "fast", "precise"],
        Meta(
            description="precise: geometric verification reorders the first 50. fast: scores are "
            "refined, and geometry verifies only the results shown. none: ordered by cosine, "
            "without verdicts."
        ),
    ] = "precise"
    box: Annotated[
        Sides | None, Meta(description=f"Search with this part of the image only. {_BOX}")
    ] = None
    subject: Annotated[
        bool, Meta(description="Search a cluttered image also by its most salient part.")
    ] = True
    detect: Annotated[
        bool,
        Meta(description="Detect several objects in the image and answer for each, in `regions`."),
    ] = False
    group_by: Annotated[
        Text | None,
        Meta(
            description="A declared key: results are grouped by its values; images without one are "
            "left out."
        ),
    ] = None
    group_size: Annotated[int, Meta(ge=1, le=10, description="Maximum results of each group.")] = 1
    exclude: Annotated[list[Uuid], Meta(max_length=1000, description="Ids to exclude.")] = []
    cutoff: Annotated[
        Cutoff | None, Meta(description="Where to end the list early, judged by its scores.")
    ] = None
    diversity: Annotated[
        Share, Meta(description="0: nearest first. 1: as different from each other as possible.")
    ] = 0.0
    explain: Annotated[
        bool, Meta(description="Add matched regions and all scores to each result.")
    ] = False
    with_payload: Annotated[bool, Meta(description="Add its metadata to each result.")] = True
    with_url: Annotated[
        bool, Meta(description="Add a download URL, valid for five minutes, to each result.")
    ] = False


# The sources that are images.
Base64 = Annotated[
    str | None, Meta(description="The query image as base64; at most 4.5 MiB when decoded.")
]
Url = Annotated[
    Annotated[str, Meta(min_length=1, max_length=2048)] | None,
    Meta(description="An https URL of an image, on a host that this service may fetch from."),
]
IndexedId = Annotated[str | None, Meta(description="Use an indexed image, by its id.")]
Key = Annotated[
    Text | None, Meta(description="Use an object of the bucket, indexed or not, by its key.")
]
QueryId = Annotated[
    Token | None,
    Meta(description="`query_id` of an earlier answer: nothing is uploaded or embedded again."),
]


class SearchRequest(SearchOptions, forbid_unknown_fields=True, kw_only=True):
    """Give exactly one source: image, image_url, id, key, query_id, text, vector with model, or
    positive with negative.
    """

    image: Base64 = None
    image_url: Url = None
    id: IndexedId = None
    key: Key = None
    query_id: QueryId = None
    text: Annotated[
        Text | None, Meta(description="Text query (models with a text encoder only).")
    ] = None
    vector: Annotated[
        Annotated[list[float], Meta(min_length=1, max_length=8192)] | None,
        Meta(description="A vector made by `model`."),
    ] = None
    model: Annotated[
        Text | None, Meta(description="Fingerprint of the model that made `vector`.")
    ] = None
    positive: Annotated[
        Annotated[list[Id], Meta(min_length=1, max_length=20)] | None,
        Meta(description="Ids of indexed images that results should resemble."),
    ] = None
    negative: Annotated[
        list[Id],
        Meta(
            max_length=20,
            description="Ids of indexed images that results should not resemble; needs `positive`.",
        ),
    ] = []


class ComparedPicture(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Give exactly one: image, image_url, id, key or query_id."""

    image: Base64 = None
    image_url: Url = None
    id: IndexedId = None
    key: Key = None
    query_id: QueryId = None
    box: Annotated[Sides | None, Meta(description=f"Compare this part only. {_BOX}")] = None


class CompareRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    first: ComparedPicture
    second: ComparedPicture


class Match(msgspec.Struct, kw_only=True):
    """The matching region in each image: left, top, right, bottom, as fractions of its size."""

    query: Sides
    target: Sides


class Explanation(msgspec.Struct, kw_only=True):
    inliers: Annotated[int, Meta(description="Matches that agree on one transformation.")]
    overlap_query: Annotated[
        float, Meta(description="Percentage of the query that the other image shows.")
    ]
    overlap_target: Annotated[
        float, Meta(description="Percentage of the other image that the query shows.")
    ]
    matches: list[Match]
    scores: Annotated[
        dict[str, float], Meta(description="Score of each stage that examined this result.")
    ]


Level = Annotated[
    Literal["exact", "copy", "edited", "same_item", "similar", "none"],
    Meta(
        description="exact: the same bytes. copy: re-encoded or rescaled. edited: cropped, "
        "rotated, recoloured or overlaid. same_item: another photo of the same object. similar: "
        "of the same kind. none: not similar."
    ),
]
Probability = Annotated[
    float, Meta(description="Probability of this verdict or a closer one; for none, of none.")
]


class Result(msgspec.Struct, kw_only=True, omit_defaults=True):
    id: str
    key: str
    score: Annotated[float, Meta(description="Cosine of the two embeddings, −1 to 1.")]
    rerank_score: Annotated[
        float | UnsetType, Meta(description="The score by which the first 100 are ordered.")
    ] = UNSET
    verdict: Level | UnsetType = UNSET
    probability: Probability | UnsetType = UNSET
    payload: Annotated[
        dict[str, Any] | UnsetType, Meta(description="Declared metadata and image properties.")
    ] = UNSET
    group: Annotated[Any, Meta(description="Its value of the key in `group_by`.")] = UNSET
    explain: Explanation | UnsetType = UNSET
    url: str | UnsetType = UNSET


class Region(msgspec.Struct, kw_only=True):
    """One of several objects detected in the image."""

    box: Annotated[Sides, Meta(description=_BOX)]
    results: list[Result]


class SearchAnswer(msgspec.Struct, kw_only=True):
    request_id: str
    model: Annotated[str, Meta(description="Fingerprint of the model that embedded the query.")]
    took_ms: Annotated[
        dict[str, float | bool],
        Meta(
            description="Milliseconds spent in decode, embed, search, rerank and in total; and "
            "cold_start."
        ),
    ]
    query_id: Annotated[
        str | None, Meta(description="Send this as `query_id` to search again without the image.")
    ]
    box: Annotated[
        Sides, Meta(description=f"The part of the query that matched the best result. {_BOX}")
    ]
    results: list[Result]
    next_offset: int | None
    skipped: Annotated[list[str], Meta(description="Stages skipped because of the deadline.")]
    regions: Annotated[list[Region], Meta(description="With `detect`, in place of `results`.")] = []


class Comparison(msgspec.Struct, kw_only=True, omit_defaults=True):
    request_id: str
    model: str
    score: Annotated[float, Meta(description="Cosine of the two embeddings, −1 to 1.")]
    verdict: Level | UnsetType = UNSET
    probability: Probability | UnsetType = UNSET
    explain: Explanation | UnsetType = UNSET


class Member(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An image of a group; verdict and probability compare it with the closest match that was
    indexed before it.
    """

    id: str
    key: str
    verdict: Annotated[str | UnsetType, Meta(description="exact, copy or edited.")] = UNSET
    probability: Probability | UnsetType = UNSET


class DuplicateGroup(msgspec.Struct, kw_only=True):
    """Images that are duplicates of each other."""

    id: str
    original: Annotated[
        Member | None, Meta(description="The first one indexed; null after it was deleted.")
    ]
    copies: list[Member]
    more: Annotated[bool, Meta(description="Whether there are more copies than listed.")]


class DuplicateGroups(msgspec.Struct, kw_only=True):
    """A group is listed completely on the page of its first copy; a page without groups may have a
    next page.
    """

    groups: list[DuplicateGroup]
    next_cursor: str | None


class PageOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=200, description="Copies to examine for this page.")] = 50
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
