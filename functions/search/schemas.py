"""The shapes of requests and answers: validation, and the OpenAPI document, come from here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

MAX_OFFSET = 10_000

Text = Annotated[str, Meta(min_length=1, max_length=1024)]
# What is looked up: one that is none of ours is not found.
Id = Annotated[str, Meta(min_length=1, max_length=64)]
# What is only compared. The length refuses a newline at the end, which Python's $ lets pass.
Uuid = Annotated[str, Meta(max_length=36, pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Token = Annotated[str, Meta(min_length=1, max_length=65_536)]
# What an HTTP header holds: S3 keeps metadata as such, and an object with others is unreadable.
MetadataText = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)")]
Share = Annotated[float, Meta(ge=0, le=1)]
Sides = tuple[Share, Share, Share, Share]
Filter = Annotated[
    dict[str, Any] | None,
    Meta(description="Qdrant filter JSON (must, should, must_not) over declared keys."),
]
Cursor = Annotated[
    Uuid | None, Meta(description="The last answer's `next_cursor`; none for the first page.")
]
_BOX = "Left, top, right, bottom, as shares of the picture's width and height."


class Cutoff(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """relative: end below this share, up to 1, of the best score. gap: end before the first fall of
    so much.
    """

    method: Literal["relative", "gap"]
    value: Annotated[float, Meta(gt=0, le=2)]


class SearchOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How to search, whatever the source."""

    limit: Annotated[int, Meta(ge=1, le=100, description="Neighbours per page.")] = 10
    offset: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_OFFSET,
            description="Neighbours to skip. Where a picture is searched by its subject too, or "
            "results are compared with each other, the list ends after a hundred.",
        ),
    ] = 0
    filter: Filter = None
    score_threshold: Annotated[
        Annotated[float, Meta(ge=-1, le=1)] | None,
        Meta(description="Leave out neighbours with a lower cosine."),
    ] = None
    rerank: Annotated[
        Literal["none", "fast", "precise"],
        Meta(
            description="precise: the first fifty are verified by geometry. fast: only refined; "
            "those shown are verified. none: by cosine, without verdicts."
        ),
    ] = "precise"
    box: Annotated[Sides | None, Meta(description=f"Search with this part only. {_BOX}")] = None
    subject: Annotated[
        bool, Meta(description="Search a cluttered picture by what stands out in it too.")
    ] = True
    detect: Annotated[
        bool,
        Meta(description="Answer for each of several things in the picture, in `regions`."),
    ] = False
    group_by: Annotated[
        Text | None,
        Meta(
            description="A declared key: one row for each of its values; images without one are "
            "left out."
        ),
    ] = None
    group_size: Annotated[int, Meta(ge=1, le=10, description="Rows of each group.")] = 1
    exclude: Annotated[list[Uuid], Meta(max_length=1000, description="Ids to leave out.")] = []
    cutoff: Annotated[
        Cutoff | None, Meta(description="Where the list ends by itself, by its own scores.")
    ] = None
    diversity: Annotated[
        Share, Meta(description="0: nearest first. 1: as unlike each other as there are.")
    ] = 0.0
    explain: Annotated[
        bool, Meta(description="Give each result the matched regions and all scores.")
    ] = False
    with_payload: Annotated[bool, Meta(description="Give each result its metadata.")] = True
    with_url: Annotated[
        bool, Meta(description="Give each result a download URL that lives for five minutes.")
    ] = False


# The sources that show a picture.
Base64 = Annotated[
    str | None, Meta(description="The query image, base64; at most 4.5 MiB when decoded.")
]
Url = Annotated[
    Annotated[str, Meta(min_length=1, max_length=2048)] | None,
    Meta(description="https, of a host that this service was told to fetch from."),
]
IndexedId = Annotated[
    str | None, Meta(description="Search with an indexed image, by the id of an answer.")
]
Key = Annotated[
    Text | None, Meta(description="Search with an object of the bucket, indexed or not.")
]
QueryId = Annotated[
    Token | None,
    Meta(description="Of an earlier answer: nothing is uploaded or embedded again."),
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
    text: Annotated[Text | None, Meta(description="Words, where the model knows any.")] = None
    vector: Annotated[
        Annotated[list[float], Meta(min_length=1, max_length=8192)] | None,
        Meta(description="A vector made by `model`."),
    ] = None
    model: Annotated[
        Text | None, Meta(description="Fingerprint of the model that made `vector`.")
    ] = None
    positive: Annotated[
        Annotated[list[Id], Meta(min_length=1, max_length=20)] | None,
        Meta(description="Like these indexed images."),
    ] = None
    negative: Annotated[
        list[Id], Meta(max_length=20, description="And unlike these; only with `positive`.")
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
    """Where the two pictures agree, in each of them. Left, top, right, bottom, as shares."""

    query: Sides
    target: Sides


class Explanation(msgspec.Struct, kw_only=True):
    inliers: Annotated[int, Meta(description="Matches that agree on one transform.")]
    overlap_query: Annotated[float, Meta(description="Per cent of the query that the other shows.")]
    overlap_target: Annotated[
        float, Meta(description="Per cent of the other that the query shows.")
    ]
    matches: list[Match]
    scores: Annotated[dict[str, float], Meta(description="Of each stage that looked at it.")]


Level = Annotated[
    Literal["exact", "copy", "edited", "same_item", "similar", "none"],
    Meta(
        description="exact: the same bytes. copy: encoded or scaled anew. edited: cropped, turned, "
        "recoloured, overlaid. same_item: another photo of the thing. similar: of its kind."
    ),
]
Probability = Annotated[
    float, Meta(description="That it is at least so close; for none, that it is no closer.")
]


class Result(msgspec.Struct, kw_only=True, omit_defaults=True):
    id: str
    key: str
    score: Annotated[float, Meta(description="Cosine of the two embeddings, −1 to 1.")]
    rerank_score: Annotated[
        float | UnsetType, Meta(description="What the first hundred are ordered by.")
    ] = UNSET
    verdict: Level | UnsetType = UNSET
    probability: Probability | UnsetType = UNSET
    payload: Annotated[
        dict[str, Any] | UnsetType, Meta(description="Declared metadata and image facts.")
    ] = UNSET
    group: Annotated[Any, Meta(description="Its value of `group_by`.")] = UNSET
    explain: Explanation | UnsetType = UNSET
    url: str | UnsetType = UNSET


class Region(msgspec.Struct, kw_only=True):
    """One of several things in the picture."""

    box: Annotated[Sides, Meta(description=_BOX)]
    results: list[Result]


class SearchAnswer(msgspec.Struct, kw_only=True):
    request_id: str
    model: Annotated[str, Meta(description="Fingerprint of the model that embedded the query.")]
    took_ms: Annotated[
        dict[str, float | bool],
        Meta(description="Milliseconds in decode, embed, search, rerank, total; and cold_start."),
    ]
    query_id: Annotated[
        str | None, Meta(description="Send it back to search again without the picture.")
    ]
    box: Annotated[Sides, Meta(description=f"The part that the best result is like. {_BOX}")]
    results: list[Result]
    next_offset: int | None
    skipped: Annotated[list[str], Meta(description="Stages that the time did not suffice for.")]
    regions: Annotated[list[Region], Meta(description="With `detect`, instead of results.")] = []


class Comparison(msgspec.Struct, kw_only=True, omit_defaults=True):
    request_id: str
    model: str
    score: Annotated[float, Meta(description="Cosine of the two embeddings, −1 to 1.")]
    verdict: Level | UnsetType = UNSET
    probability: Probability | UnsetType = UNSET
    explain: Explanation | UnsetType = UNSET


class Member(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An image of a group; verdict and probability say what it is to the nearest before it."""

    id: str
    key: str
    verdict: Annotated[str | UnsetType, Meta(description="exact, copy or edited.")] = UNSET
    probability: Probability | UnsetType = UNSET


class DuplicateGroup(msgspec.Struct, kw_only=True):
    """Images that show the same."""

    id: str
    original: Annotated[Member | None, Meta(description="The first; null once it was deleted.")]
    copies: list[Member]
    more: Annotated[bool, Meta(description="There are copies beyond those listed.")]


class DuplicateGroups(msgspec.Struct, kw_only=True):
    """A group is on the page of its first copy, whole; a page may have none, and yet a next one."""

    groups: list[DuplicateGroup]
    next_cursor: str | None


class PageOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=200, description="Copies to look at.")] = 50
    cursor: Cursor = None


class StatusOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    key: Annotated[Text, Meta(description="The object's key in the bucket.")]


class Decision(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    group: Annotated[Id, Meta(description="The group's id.")]
    id: Annotated[Id, Meta(description="The copy's id.")]
    decision: Annotated[
        Literal["not_duplicate", "duplicate"],
        Meta(description="duplicate takes an earlier not_duplicate back."),
    ]


class Feedback(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    request_id: Annotated[Id, Meta(description="Of the answer that showed it.")]
    id: Annotated[Uuid, Meta(description="The result's id.")]
    kind: Literal["click", "relevant", "not_relevant"]
    query_id: Annotated[
        Token | None,
        Meta(description="The answer's query_id: an evaluation can then ask again."),
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
        Literal["live", "rejected"], Meta(description="Searchable, or why it is not.")
    ] = "live"
    filter: Filter = None
    limit: Annotated[int, Meta(ge=1, le=200, description="Images per page.")] = 50
    cursor: Cursor = None


class ThumbnailOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    size: Annotated[
        Literal[160, 320, 640, 1024], Meta(description="Pixels of its longer side, at most.")
    ] = 320


class FacetsOptions(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    keys: Annotated[
        Text | None,
        Meta(description="Declared keys, between commas; without, all that can be counted."),
    ] = None
    filter: Filter = None


class FacetValue(msgspec.Struct, kw_only=True):
    value: str | int
    count: int


class Facet(msgspec.Struct, kw_only=True):
    """A declared key's values, the most frequent first, at most fifty."""

    key: str
    type: Literal["keyword", "integer"]
    values: list[FacetValue]


class Facets(msgspec.Struct, kw_only=True):
    facets: list[Facet]


class Config(msgspec.Struct, kw_only=True):
    """What this service can do."""

    bucket_origin: Annotated[str | None, Meta(description="Where uploads are sent to.")]
    tenants: Annotated[bool, Meta(description="A caller sees only what is its tenant's.")]
    text: Annotated[bool, Meta(description="Words can be searched with.")]
    model_name: str
    keys: Annotated[dict[str, str], Meta(description="Declared metadata keys and their types.")]
    formats: Annotated[list[str], Meta(description="Image formats that are taken.")]
    max_query_bytes: int
    max_upload_bytes: int


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
                # Python's $ passes a last newline, and S3 puts the file's own name for ${filename}
                pattern=r"^(?!.*\$\{filename\})[^/\\\x00-\x1f]{1,200}$(?!\n)",
                description="File name, kept at the key's end.",
            ),
        ]
        | None
    ) = None
    metadata: Annotated[
        dict[str, MetadataText],
        Meta(description="Declared keys only, 2 kB in all; typed when it is indexed."),
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


class Removal(msgspec.Struct, kw_only=True):
    """The object was deleted; the index follows within seconds."""

    id: str
    key: str
    status_url: Annotated[str, Meta(description="Poll this until the state is gone.")]


class Ok(msgspec.Struct, kw_only=True):
    status: Literal["ok"]


class Ready(msgspec.Struct, kw_only=True, omit_defaults=True):
    status: Literal["ok"]
    model: str
    model_name: str
    models: Annotated[list[str], Meta(description="All that the service can search with.")]
    collection: str
    points: Annotated[
        int | UnsetType,
        Meta(description="Live, rejected and deleted objects. Where there are tenants, untold."),
    ] = UNSET


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
