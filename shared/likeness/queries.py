"""The values of a search: what a caller asks, and what the answer holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from likeness.proof.proofs import Proof
from likeness.records import WHOLE, Box, ObjectRef, Point
from likeness.rerank.profiles import Profile
from likeness.settings import MIB

# API Gateway accepts 10 MB, Lambda 6 MB including base64's extra third: 4.5 MiB of image.
MAX_QUERY_BYTES = int(4.5 * MIB)


class ByImage(Struct, frozen=True):
    """The bytes of an image file."""

    data: bytes


class ById(Struct, frozen=True):
    """An indexed image."""

    id: str


class ByObject(Struct, frozen=True):
    """An object of the bucket, indexed or not."""

    ref: ObjectRef


class ByVector(Struct, frozen=True):
    """A vector that the caller embedded; `model` is the fingerprint of the model that made it."""

    values: tuple[float, ...]
    model: str


class ByToken(Struct, frozen=True):
    """The `query_id` of an earlier answer."""

    token: str


class ByText(Struct, frozen=True):
    """A text, for models with a text encoder."""

    text: str


class ByExamples(Struct, frozen=True):
    """Indexed images: the results should resemble the positive ones and not the negative ones."""

    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


Source = ByImage | ById | ByObject | ByVector | ByToken | ByText | ByExamples


class Cutoff(Struct, frozen=True):
    """Where to end the list early. relative: at the first score below this share of the best one.
    gap: before the first drop of at least this much. The scores are those the list is ordered by.
    """

    method: Literal["relative", "gap"]
    value: float


class Query(Struct, frozen=True):
    """One search. `filter` is Qdrant filter JSON as the caller wrote it, over declared keys.

    `box`: search with this part of the source image only. `subject`: search a cluttered image also
    by its most salient part. `regions`: detect several objects in the image and answer for each.
    `group_by` names a declared key: up to `group_size` results for each of its values.
    """

    source: Source
    limit: int = 10
    offset: int = 0
    filter: Mapping[str, Any] | None = None
    score_threshold: float | None = None
    box: Box | None = None
    rerank: Profile = Profile.PRECISE
    subject: bool = True
    regions: bool = False
    group_by: str | None = None
    group_size: int = 1
    exclude: tuple[str, ...] = ()
    cutoff: Cutoff | None = None
    diversity: float = 0.0

    @property
    def compares_results(self) -> bool:
        """Whether results are compared with each other; the list then ends after the reranked."""
        return bool(self.group_by or self.cutoff or self.diversity)


class Hit(Struct, frozen=True):
    """One result. `score` is the cosine; `rerank_score` is None for results that were not reranked;
    `stages` has the score of each rerank stage that examined it; `box` is the part of the query
    that it was compared with.
    """

    point: Point
    score: float
    rerank_score: float | None = None
    proof: Proof | None = None
    stages: Mapping[str, float] = {}
    group: Any = None
    box: Box = WHOLE

    @property
    def order(self) -> float:
        """The score that decides its place in the list."""
        return self.score if self.rerank_score is None else self.rerank_score


class Answer(Struct, frozen=True):
    """`next_offset` is None on the last page; `took_ms` has a key for each stage that ran.

    `box` is the part of the query image that matched the best result; `query_id` is None for a
    search by regions. `skipped`: stages skipped because of the deadline. `regions`: the boxes of
    detected objects, each with its own results. `candidates`: how many neighbours were reranked;
    `cut`: those of them that are not shown, by the step that removed them.
    """

    results: list[Hit]
    next_offset: int | None
    took_ms: Mapping[str, float]
    box: Box = WHOLE
    query_id: str | None = None
    skipped: Sequence[str] = ()
    regions: Sequence[tuple[Box, list[Hit]]] = ()
    candidates: int = 0
    cut: Mapping[str, Sequence[Hit]] = {}


class Comparison(Struct, frozen=True):
    """Two images compared. `cosine` is that of their vectors; `proof` is None without a
    calibration. `notes` say why pixels were not compared; there are none where they were.
    """

    cosine: float
    proof: Proof | None
    notes: Sequence[str] = ()
