"""The schemas of a search and of a comparison: options, requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from .schemas import Filter, Id, Probability, Text, Token, Uuid

MAX_OFFSET = 10_000

Share = Annotated[float, Meta(ge=0, le=1)]
Sides = tuple[Share, Share, Share, Share]
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
            "without verdicts. Only precise compares pixels: of the first three results that may "
            "be copies or edits."
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


class Difference(msgspec.Struct, kw_only=True):
    """A region of each image where they differ, although both show the place: left, top, right,
    bottom, as fractions of its size.
    """

    query: Sides
    target: Sides


class Explanation(msgspec.Struct, kw_only=True):
    """What both images show. transform, agreeing and differences are found by comparing pixels,
    and are missing where pixels were not compared or have nothing in common.
    """

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
    transform: Annotated[
        Annotated[list[float], Meta(min_length=9, max_length=9)] | UnsetType,
        Meta(
            description="A homography, 3 × 3 row by row, from a place (x, y) in the query to the "
            "place in the target that shows the same, both as fractions of width and height.",
        ),
    ] = UNSET
    agreeing: Annotated[
        float | UnsetType,
        Meta(description="Percentage of what both show, where it has detail, that agrees."),
    ] = UNSET
    differences: list[Difference] = []


Level = Annotated[
    Literal["exact", "copy", "edited", "variant", "same_item", "similar", "none"],
    Meta(
        description="exact: the same bytes. copy: re-encoded or rescaled. edited: cropped, "
        "rotated, recoloured or overlaid. variant: the same design in another colour or with "
        "other content. same_item: another photo of the same object. similar: of the same kind. "
        "none: not similar. copy, edited and variant are only claimed after comparing pixels."
    ),
]
Basis = Annotated[
    Literal["bytes", "pixels", "index"],
    Meta(
        description="What the verdict rests on. bytes: the files are equal. pixels: the images "
        "were laid over each other. index: only what the index stores was compared, so the "
        "verdict is same_item at the closest."
    ),
]
Edit = Literal[
    "cropped",
    "scaled",
    "mirrored",
    "turned",
    "recoloured",
    "blurred",
    "recompressed",
    "overlaid",
    "bordered",
    "part_of",
]
Edits = Annotated[
    list[Edit],
    Meta(
        description="What was done to one image to make the other; only known where pixels were "
        "compared."
    ),
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
    rests_on: Basis | UnsetType = UNSET
    edits: Edits | UnsetType = UNSET
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
            description="Milliseconds spent in decode, embed, search, rerank, pixels and in "
            "total; and cold_start."
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
    rests_on: Basis | UnsetType = UNSET
    edits: Edits | UnsetType = UNSET
    explain: Explanation | UnsetType = UNSET
    notes: Annotated[
        list[str],
        Meta(description="Why pixels were not compared, where they were not: one for each image."),
    ] = []
