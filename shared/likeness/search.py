"""Searcher: a picture, words or what is indexed already → neighbours, in order, with proof."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray
from PIL import Image

from likeness import regions
from likeness.embedding import Embedder, TextEmbedder
from likeness.errors import (
    ConfigurationError,
    IndexOfOtherModel,
    IndexRefused,
    InvalidRequest,
    ModelMismatch,
    NoDetail,
    NotIndexed,
    ObjectChanged,
)
from likeness.feature_extraction import extract_features
from likeness.features import ImageFeatures, features_of_point
from likeness.filters import Schema
from likeness.images import decode, thumbnail
from likeness.ports import IndexView, ObjectStore
from likeness.proof.proofs import Proof
from likeness.proof.verdicts import Calibration
from likeness.query_tokens import decode_query_token, encode_query_token
from likeness.records import (
    WHOLE,
    Box,
    Candidate,
    CollectionInfo,
    NearestQuery,
    ObjectRef,
    Page,
    Point,
    State,
    ValueCount,
    Vector,
)
from likeness.rerank.diversity import diversify
from likeness.rerank.profiles import Profile
from likeness.rerank.ranker import Ranker
from likeness.rerank.selection import above_gap, above_relative, grouped
from likeness.settings import MIB, Limits
from likeness.stopwatch import Stopwatch

# API Gateway passes 10 MB, Lambda 6 MB with base64's third on top: 4.5 MiB of image.
MAX_QUERY_BYTES = int(4.5 * MIB)
# Neighbours that are reranked; options that compare results with each other see no others.
DEPTH = 100
# Of a picture with `detect`.
MAX_REGIONS = 5
# Of a facet.
MAX_VALUES = 50
_OTHER_MODEL = (
    "the index was made by model {0}, this service embeds with {1}, and their vectors cannot be "
    "compared. Set LIKENESS_MODEL_DIR to the model that made the index; from there "
    "`likeness migrate start` leads to another (or, locally, begin anew with another --data)"
)


class ByImage(Struct, frozen=True):
    data: bytes


class ById(Struct, frozen=True):
    id: str


class ByObject(Struct, frozen=True):
    """An object of the bucket, indexed or not."""

    ref: ObjectRef


class ByVector(Struct, frozen=True):
    """A vector the caller embedded; `model` is the fingerprint of what made it."""

    values: tuple[float, ...]
    model: str


class ByToken(Struct, frozen=True):
    """The `query_id` of an earlier answer."""

    token: str


class ByText(Struct, frozen=True):
    """Words, for models with a text tower."""

    text: str


class ByExamples(Struct, frozen=True):
    """Indexed images: like the positive ones, unlike the negative ones."""

    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


Source = ByImage | ById | ByObject | ByVector | ByToken | ByText | ByExamples


class Cutoff(Struct, frozen=True):
    """Where the list ends by itself. relative: below this share of the best score. gap: before the
    first fall of so much. Scores are those that the list is ordered by.
    """

    method: Literal["relative", "gap"]
    value: float


class Query(Struct, frozen=True):
    """What is asked. `filter` is Qdrant filter JSON as the caller wrote it, over declared keys.

    `box`: the part of the source's picture to search with. `subject`: search a cluttered picture by
    what stands out in it too. `regions`: answer for each of several things in the picture instead.
    `group_by` names a declared key: `group_size` rows for each of its values.
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
    def compares(self) -> bool:
        """Whether results are chosen by each other, so that the list ends with those reranked."""
        return bool(self.group_by or self.cutoff or self.diversity)


class Hit(Struct, frozen=True):
    """One result. `score` is the cosine; `rerank_score` is None beyond the reranked ones; `stages`
    has the scores of those that looked at it.
    """

    point: Point
    score: float
    rerank_score: float | None = None
    proof: Proof | None = None
    stages: Mapping[str, float] = {}
    group: Any = None

    @property
    def order(self) -> float:
        """The score that it stands in its place by."""
        return self.score if self.rerank_score is None else self.rerank_score


class Facet(Struct, frozen=True):
    """A declared key's most frequent values, and how many live images have each."""

    key: str
    type: str
    values: Sequence[ValueCount]


class Answer(Struct, frozen=True):
    """`next_offset` is None on the last page; `took_ms` has a key for each stage that ran.

    `box` is the part of the query that the best result is like; `query_id` is None where regions
    have results of their own. `skipped`: stages that the time did not suffice for.
    `regions`: boxes of the things in the picture, each with its own results. `candidates`: how many
    neighbours were put into order; `cut`: those of them that are not shown, by what left them out.
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


class _Page(Struct, frozen=True):
    hits: list[Hit]
    next_offset: int | None
    box: Box
    skipped: list[str]
    cut: Mapping[str, Sequence[Hit]]


class _Looked(Struct, frozen=True):
    """A source's appearance, the ids that it was taken from, and the picture where it was read."""

    appearance: ImageFeatures
    own_ids: tuple[str, ...] = ()
    picture: Image.Image | None = None
    more: tuple[ImageFeatures, ...] = ()


class Searcher:
    """Safe to share between threads."""

    def __init__(
        self,
        index: IndexView,
        embedder: Embedder,
        open_store: Callable[[], ObjectStore],
        schema: Schema | None = None,
        limits: Limits | None = None,
        calibration: Calibration | None = None,
        open_text_embedder: Callable[[], TextEmbedder] | None = None,
        patches: bool = False,
    ) -> None:
        """`open_store` is only called where a query names an object that is not indexed, and
        `open_text_embedder` where it is text. `patches`: the index keeps them, and chooses by them.
        """
        self._index = index
        self._embedder = embedder
        self._open_store = open_store
        self._schema = schema or Schema()
        self._limits = limits or Limits()
        self._ranker = Ranker(embedder.spec, calibration)
        self._open_words = open_text_embedder
        self._patches = patches and embedder.spec.patches is not None

    def over(
        self, view: Callable[[IndexView], IndexView], open_store: Callable[[], ObjectStore]
    ) -> Searcher:
        """The same searcher over a view of its index, and over another bucket."""
        searcher = copy.copy(self)
        searcher._index, searcher._open_store = view(self._index), open_store
        return searcher

    @property
    def model(self) -> str:
        return self._embedder.fingerprint

    @property
    def model_name(self) -> str:
        return self._embedder.spec.name

    @property
    def supports_text(self) -> bool:
        """Whether text can be searched with."""
        return self._open_words is not None and self._embedder.spec.text is not None

    def search(self, query: Query, deadline_s: float = math.inf) -> Answer:
        """Live neighbours, best first; an indexed source is not its own neighbour.

        `deadline_s`: on time.monotonic()'s clock; stages that would miss it are skipped. Raises an
        InputError for what the caller got wrong, Unavailable where Qdrant or S3 is down.
        """
        watch = Stopwatch()
        with watch.stage("total"):
            filter = self._schema.compile(query.filter) if query.filter else {}
            if query.group_by:
                self._schema.check_declared(query.group_by, "group_by")
            looked = self._look(query.source, query.box, query.regions, watch)
            # each region is a question of its own; frame and subject are one
            questions = self._questions(query, looked, watch)
            if left_out := sorted({*looked.own_ids, *query.exclude}):
                not_these = {"has_id": left_out}
                filter = {**filter, "must_not": [*filter.get("must_not", []), not_these]}
            with watch.stage("search"):
                if query.regions:
                    questions = self._things(questions, query, filter)
                heads, tail = self._neighbours(questions, query, filter)
            with watch.stage("rerank"):
                pages = [
                    self._page(query, views, head, tail, lambda: deadline_s - time.monotonic())
                    for views, head in zip(questions, heads, strict=True)
                ]
        skipped = sorted({name for page in pages for name in page.skipped})
        if query.regions:
            things = [(v[0].box, p.hits) for v, p in zip(questions, pages, strict=True)]
            return Answer(
                [],
                None,
                watch.took_ms,
                skipped=skipped,
                regions=things,
                candidates=sum(map(len, heads)),
            )
        [page], [views], [head] = pages, questions, heads
        return Answer(
            page.hits,
            page.next_offset,
            watch.took_ms,
            page.box,
            encode_query_token(views, self.model),
            skipped,
            candidates=len(head),
            cut=page.cut,
        )

    def compare(
        self, first: Source, second: Source, boxes: tuple[Box | None, Box | None] = (None, None)
    ) -> tuple[float, Proof | None]:
        """The cosine of two sources' pictures, and what they have in common."""
        watch = Stopwatch()
        mine, theirs = (
            self._look(source, box, False, watch).appearance
            for source, box in zip((first, second), boxes, strict=True)
        )
        proofs = self._ranker.prove(mine, [theirs])
        return float(mine.vector @ theirs.vector), proofs[0] if proofs else None

    def check_token(self, token: str) -> None:
        """Raises InvalidRequest for what is no `query_id`, ModelMismatch for another model's."""
        decode_query_token(token, self._embedder.spec)

    def image(self, point_id: str) -> Point:
        """A live or rejected point. Raises NotIndexed for any other id."""
        return self._points([point_id])[0]

    def status(self, ref: ObjectRef) -> Point | None:
        """What the index says of an object; None where it knows nothing of it."""
        return self._index.fetch([ref.point_id]).get(ref.point_id)

    def images(
        self, state: State, limit: int, cursor: str | None = None, filter: Any = None
    ) -> Page:
        """Live or rejected images in id order; `filter` as in a Query."""
        return self._index.scroll(limit, cursor, self._of_state(state, filter))

    def facets(self, keys: Sequence[str] | None = None, filter: Any = None) -> list[Facet]:
        """The values of these declared keys, or of all that can be counted, among live images.

        Raises UnknownFilterKey for a key that is not declared, InvalidRequest for one that cannot
        be counted.
        """
        paths, wanted = self._schema.countable, self._of_state(State.LIVE, filter)
        for key in keys or ():
            self._schema.check_declared(key, "keys")
            if key not in paths:
                raise InvalidRequest(f"keys: {key} is a {self._schema.types[key]}, not counted")
        return [
            Facet(key, self._schema.types[key], self._index.facet(paths[key], MAX_VALUES, wanted))
            for key in (paths if keys is None else dict.fromkeys(keys))
        ]

    def thumbnail(self, point: Point, side: int) -> bytes:
        """A JPEG of an image, at most `side` pixels wide and high, made from its object.

        Raises NotIndexed where there is none, ObjectChanged where it is no longer what was
        indexed, an ImageError where it is no picture that is taken.
        """
        store = self._open_store()
        if point.object is None or point.state is not State.LIVE:
            raise NotIndexed(f"{point.ref.key} was rejected: it has no thumbnail")
        try:
            body = store.read(point.ref, point.object.etag, self._limits.max_bytes)
        except ObjectChanged:
            if store.head(point.ref) is None:
                raise NotIndexed(f"the bucket has no object {point.ref.key} any more") from None
            raise
        return thumbnail(body.data, self._limits, side)

    def ready(self) -> CollectionInfo:
        """The collection that is searched. Raises Unavailable where searches would fail."""
        info = self._index.info()
        if (info.model, info.dim) != (self.model, self._embedder.dim):
            raise IndexOfOtherModel(_OTHER_MODEL.format(info.model, self.model))
        return info

    def _of_state(self, state: State, filter: Any) -> dict[str, Any]:
        of_state = {"key": "state", "match": {"value": state.value}}
        return {"must": [of_state, *([self._schema.compile(filter)] if filter else [])]}

    # --- from a source to what is compared ---

    def _look(self, source: Source, box: Box | None, read: bool, watch: Stopwatch) -> _Looked:
        """`read`: the picture itself is wanted, even of what is indexed."""
        if read and box:
            raise InvalidRequest("give box, or detect, which finds boxes itself; not both")
        read = read or box is not None
        match source:
            case ByImage(data):
                looked = self._see(data, box, watch)
            case ById(point_id):
                [point] = self._points([point_id])
                if read:
                    looked = self._see(self._read(point.ref), box, watch, (point_id,))
                else:
                    looked = _Looked(self._kept(point), (point_id,))
            case ByObject(ref):
                known = None if read else self.status(ref)
                if known and known.vector is not None:
                    looked = _Looked(self._kept(known), (ref.point_id,))
                else:
                    looked = self._see(self._read(ref), box, watch, (ref.point_id,))
            case _:
                if read:
                    raise InvalidRequest(
                        "box and detect need the picture: give image, id or key, not a vector, "
                        "words or a query_id"
                    )
                looked = self._imagine(source)
        return looked

    def _imagine(self, source: ByToken | ByVector | ByText | ByExamples) -> _Looked:
        """What can be searched with and has no picture."""
        match source:
            case ByToken(token):
                first, *more = decode_query_token(token, self._embedder.spec)
                return _Looked(first, more=tuple(more))
            case ByVector(values, model):
                return _Looked(ImageFeatures(self._given(values, model)))
            case ByText(text):
                return _Looked(ImageFeatures(self._words(text)))
            case ByExamples(positive, negative):
                wanted = self._towards(positive, negative)
                return _Looked(ImageFeatures(wanted), (*positive, *negative))

    def _see(
        self, data: bytes, box: Box | None, watch: Stopwatch, own_ids: tuple[str, ...] = ()
    ) -> _Looked:
        with watch.stage("decode"):
            side = self._embedder.decode_size
            # a part needs as many pixels as a whole picture does
            share = min(box.right - box.left, box.bottom - box.top) if box else 1.0
            picture, info = decode(data, self._limits, math.ceil(side / max(share, 0.1)))
        whole = extract_features(self._embedder, picture, box or WHOLE, info.sha256, watch.stage)
        return _Looked(whole, own_ids, picture)

    def _questions(
        self, query: Query, looked: _Looked, watch: Stopwatch
    ) -> list[list[ImageFeatures]]:
        whole, both = looked.appearance, query.subject and query.rerank is not Profile.NONE
        if query.regions:
            found = [self._part(looked, box, watch) for box in regions.PROPOSALS]
            return [[part] for part in found if part] or [[whole]]
        if looked.picture is None or whole.patches is None or query.box:
            return [[whole, *looked.more]] if both else [[whole]]
        if not both:
            return [[whole]]
        box = regions.subject(whole.patches)
        part = None if box == WHOLE else self._part(looked, box, watch)
        return [[whole, part] if part else [whole]]

    def _part(self, looked: _Looked, box: Box, watch: Stopwatch) -> ImageFeatures | None:
        """None for a part that is all of one colour."""
        assert looked.picture is not None
        try:
            return extract_features(self._embedder, looked.picture, box, stage=watch.stage)
        except NoDetail:
            return None

    def _points(self, ids: Sequence[str]) -> list[Point]:
        """Live and rejected points. Raises NotIndexed naming the first that is neither."""
        found = self._index.fetch(ids)
        for point_id in ids:
            if point_id not in found or found[point_id].state is State.GONE:
                raise NotIndexed(f"no image with the id {point_id}")
        return [found[point_id] for point_id in ids]

    def _kept(self, point: Point) -> ImageFeatures:
        if point.vector is None:
            raise NotIndexed(f"{point.ref.key} was rejected: {point.detail}")
        return features_of_point(point, self._embedder.spec)

    def _read(self, ref: ObjectRef) -> bytes:
        store = self._open_store()
        try:
            state = store.head(ref)
            if state is not None:
                return store.read(ref, state.etag, self._limits.max_bytes).data
        except ConfigurationError:
            pass  # forbidden: as good as absent for this caller, whose key it is
        raise NotIndexed(f"the bucket has no object {ref.key} that can be searched with")

    def _given(self, values: tuple[float, ...], model: str) -> Vector:
        if model != self.model:
            raise ModelMismatch(f"the vector is of model {model}, this index of {self.model}")
        if len(values) != self._embedder.dim:
            raise InvalidRequest(
                f"vector: {self._embedder.dim} values expected, {len(values)} given"
            )
        return _direction(np.array(values, np.float64), "vector: all values must be finite, and")

    def _words(self, text: str) -> Vector:
        if self._open_words is None or not self.supports_text:
            raise InvalidRequest(f"text: the model {self.model_name} has no text tower")
        vector: Vector = self._open_words().embed([text])[0]
        return vector

    def _towards(self, positive: Sequence[str], negative: Sequence[str]) -> Vector:
        """Qdrant's `average_vector`: the mean of the good, and as far again from the bad."""
        points = self._points([*positive, *negative])
        vectors = np.stack([self._kept(point).vector for point in points]).astype(np.float64)
        wanted = vectors[: len(positive)].mean(axis=0)
        if negative:
            wanted = 2 * wanted - vectors[len(positive) :].mean(axis=0)
        return _direction(wanted, "positive and negative: they must differ, and their mean")

    # --- from what is compared to a page of results ---

    def _things(
        self, questions: list[list[ImageFeatures]], query: Query, filter: dict[str, Any]
    ) -> list[list[ImageFeatures]]:
        """Of many parts of a picture, those that show things of their own, the surest first; the
        first, if none is like anything.
        """
        best = self._index.nearest(
            [
                NearestQuery(
                    [part.vector], 1, filter=filter or None, score_threshold=query.score_threshold
                )
                for [part] in questions
            ]
        )
        found = [row for row, answer in enumerate(best) if answer]
        chosen = regions.distinct(
            [questions[row][0].box for row in found],
            [best[row][0].point.original or best[row][0].point.id for row in found],
            [best[row][0].score for row in found],
            MAX_REGIONS,
        )
        return [questions[found[n]] for n in chosen] or questions[:1]

    def _neighbours(
        self, questions: list[list[ImageFeatures]], query: Query, filter: dict[str, Any]
    ) -> tuple[list[list[Candidate]], list[Candidate]]:
        """Each question's candidates, and of a single view's those that come after, in one trip.

        Raises IndexOfOtherModel, as a vector compared with another model's is noise.
        """
        reranks = query.rerank is not Profile.NONE
        patches = [self._patches_of(views) if reranks else None for views in questions]
        # of several views, and of those chosen by their patches, nothing comes after the first
        single = not (query.compares or query.regions or len(questions[0]) > 1 or patches[0])
        has_head = not single or (reranks and query.offset < DEPTH)
        start = max(query.offset, DEPTH) if has_head else query.offset
        end = query.offset + query.limit + 1  # one more tells whether there is a next page
        has_tail = single and end > start
        everywhere = NearestQuery(
            [view.vector for view in questions[0]],
            DEPTH,
            filter=filter or None,
            score_threshold=query.score_threshold,
        )
        queries = []
        if has_head:
            full = reranks or query.diversity > 0
            queries += [
                structs.replace(
                    everywhere,
                    views=[view.vector for view in views],
                    full=full,
                    patches=chosen_by,
                    pool=2 * DEPTH,
                )
                for views, chosen_by in zip(questions, patches, strict=True)
            ]
        if has_tail:
            queries.append(structs.replace(everywhere, limit=end - start, offset=start))
        try:
            found = self._index.nearest(queries)
        except IndexRefused:
            self.ready()  # another model's dimension is the likeliest reason, and says so itself
            raise
        if not any(found):
            self.ready()
        for candidate in (candidate for answer in found for candidate in answer):
            if candidate.point.model != self.model:
                raise IndexOfOtherModel(_OTHER_MODEL.format(candidate.point.model, self.model))
        tail = found.pop() if has_tail else []
        return found if has_head else [[]], tail

    def _patches_of(self, views: list[ImageFeatures]) -> list[Vector] | None:
        """None where the index does not choose by them, or a view came without its own."""
        patches = [view.patches for view in views if view.patches is not None]
        return patches if self._patches and len(patches) == len(views) else None

    def _page(
        self,
        query: Query,
        views: list[ImageFeatures],
        head: list[Candidate],
        tail: list[Candidate],
        time_left_s: Callable[[], float],
    ) -> _Page:
        hits, box, skipped = self._ranked(query, views, head, time_left_s)
        hits, cut = self._selected(query, hits)
        after = [Hit(candidate.point, candidate.score) for candidate in tail]
        # the tail begins where the reranked end, or at a page beyond them
        page = [*hits[query.offset :], *after][: query.limit + 1]
        end = query.offset + query.limit
        cut["page"] = [*hits[: query.offset], *hits[end:]]
        more = len(page) > query.limit
        return _Page(page[: query.limit], end if more else None, box, skipped, cut)

    def _ranked(
        self,
        query: Query,
        views: list[ImageFeatures],
        head: list[Candidate],
        time_left_s: Callable[[], float],
    ) -> tuple[list[Hit], Box, list[str]]:
        if query.rerank is Profile.NONE or not head:
            hits = [Hit(candidate.point, candidate.score) for candidate in head]
            return hits, views[0].box, []
        shown = DEPTH if query.compares else query.offset + query.limit
        seen_as = [features_of_point(candidate.point, self._embedder.spec) for candidate in head]
        ranked = self._ranker.rank(views, seen_as, query.rerank, shown, time_left_s)
        hits = [
            Hit(
                head[row].point,
                float(ranked.cosine[row]),
                float(ranked.score[row]),
                ranked.proofs.get(row),
                {
                    name: float(scores[row])
                    for name, scores in ranked.stages.items()
                    if np.isfinite(scores[row])
                },
            )
            for row in ranked.order.tolist()  # all: what is not shown is told of as cut
        ]
        return hits, views[int(ranked.view[ranked.order[0]])].box, ranked.skipped

    def _selected(self, query: Query, hits: list[Hit]) -> tuple[list[Hit], dict[str, list[Hit]]]:
        """Cut off, then spread out, then grouped; and what each of these left out."""
        left_out: dict[str, list[Hit]] = {}
        scores = np.array([hit.order for hit in hits], np.float32)
        if query.cutoff:
            cut = above_relative if query.cutoff.method == "relative" else above_gap
            end = cut(scores, query.cutoff.value)
            hits, left_out["cutoff"] = hits[:end], hits[end:]
        if query.diversity and hits:
            vectors = np.stack([_vector_of(hit) for hit in hits])
            # up to 1, as the cosines are that they are weighed against
            relative = scores[: len(hits)] / max(1.0, float(scores[0]))
            order = diversify(relative, vectors, len(hits), query.diversity)
            hits = [hits[row] for row in order]
        if query.group_by:
            values = [hit.point.meta.get(query.group_by) for hit in hits]
            rows = grouped(values, query.group_size)
            left_out["group_by"] = [hits[row] for row in sorted({*range(len(hits))} - {*rows})]
            hits = [structs.replace(hits[row], group=values[row]) for row in rows]
        return hits, left_out


def _direction(values: NDArray[np.float64], complaint: str) -> Vector:
    largest = np.abs(values).max(initial=0)
    if not np.isfinite(largest) or largest == 0:
        raise InvalidRequest(f"{complaint} not all zero")
    values = values / largest  # whose squares neither overflow nor vanish
    return np.asarray(values / np.linalg.norm(values), np.float32)


def _vector_of(hit: Hit) -> Vector:
    assert hit.point.vector is not None
    return hit.point.vector
