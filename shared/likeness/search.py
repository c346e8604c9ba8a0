"""Searcher: a query → its neighbours in the gallery, reranked, each with its verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from msgspec import Struct, structs

from likeness import regions
from likeness.embedding import Embedder, TextEmbedder
from likeness.errors import IndexOfOtherModel, IndexRefused, InputError, ObjectChanged
from likeness.features import ImageFeatures, features_of_point
from likeness.gallery import Gallery
from likeness.pixel_verification import (
    MAX_SETTLED,
    STAGE,
    Loaded,
    Pair,
    Picture,
    PixelVerifier,
    ReadFile,
    TimeLeft,
)
from likeness.proof.pixel_proof import ProofImage
from likeness.proof.verdicts import Calibration
from likeness.queries import Answer, Comparison, Hit, Query, Source
from likeness.query_sources import ResolvedQuery, SourceResolver, Views
from likeness.query_tokens import decode_query_token, encode_query_token
from likeness.records import Box, Candidate, CollectionInfo, NearestQuery, Vector
from likeness.rerank.diversity import diversify
from likeness.rerank.profiles import Profile
from likeness.rerank.ranker import Ranker
from likeness.rerank.selection import above_gap, above_relative, grouped
from likeness.stopwatch import Stopwatch

# Neighbours that are reranked; options that compare results with each other see no others.
DEPTH = 100
_MAX_REGIONS = 5
_OTHER_MODEL = (
    "the index was made by model {0}, but this service embeds with {1}, and their vectors cannot "
    "be compared. Set LIKENESS_MODEL_DIR to the model that made the index, and change models with "
    "`likeness migrate start` (or, locally, start an empty index with another --data)"
)


class _RankedPage(Struct, frozen=True):
    hits: list[Hit]
    next_offset: int | None
    box: Box
    skipped: list[str]
    cut: dict[str, list[Hit]]


class Searcher:
    """Searches one gallery with one model. Safe to share between threads."""

    def __init__(
        self,
        gallery: Gallery,
        embedder: Embedder,
        calibration: Calibration | None = None,
        open_text_embedder: Callable[[], TextEmbedder] | None = None,
        use_patches: bool = False,
    ) -> None:
        """`open_text_embedder` is called only for a text query. `use_patches`: the index keeps
        patches, and selects candidates by them.
        """
        self.gallery = gallery
        self._embedder = embedder
        self._calibration = calibration
        self._open_text_embedder = open_text_embedder
        self._use_patches = use_patches and embedder.spec.patches is not None
        self._sources = SourceResolver(gallery, embedder, open_text_embedder)
        self._ranker = Ranker(embedder.spec, calibration)
        self._verifier = (
            PixelVerifier(gallery.limits, embedder.spec.preprocessing, calibration)
            if calibration
            else None
        )

    def for_tenant(self, tenant: str | None) -> Searcher:
        """The same searcher over the tenant's part of the gallery; without a tenant, over all."""
        if tenant is None:
            return self
        return Searcher(
            self.gallery.for_tenant(tenant),
            self._embedder,
            self._calibration,
            self._open_text_embedder,
            self._use_patches,
        )

    @property
    def model(self) -> str:
        return self._embedder.fingerprint

    @property
    def model_name(self) -> str:
        return self._embedder.spec.name

    @property
    def supports_text(self) -> bool:
        """Whether the model can search by text."""
        return self._sources.supports_text

    def search(self, query: Query, deadline_s: float = math.inf) -> Answer:
        """Live neighbours, best first; an indexed image is not its own neighbour.

        `deadline_s`: on time.monotonic()'s clock; stages that would miss it are skipped. Raises an
        InputError for what the caller got wrong, Unavailable where Qdrant or S3 is down.
        """
        watch, schema = Stopwatch(), self.gallery.schema

        def time_left_s() -> float:
            return deadline_s - time.monotonic()

        with watch.stage("total"):
            filter = schema.compile(query.filter) if query.filter else {}
            if query.group_by:
                schema.check_declared(query.group_by, "group_by")
            resolved = self._sources.resolve(query, watch)
            filter = _without(sorted({*resolved.point_ids, *query.exclude}), filter)
            with watch.stage("search"):
                parts = self._parts(query, resolved, filter)
                heads, tail = self._neighbours(query, parts, filter)
            with watch.stage("rerank"):
                pages = [
                    self._page(query, views, head, tail, time_left_s)
                    for views, head in zip(parts, heads, strict=True)
                ]
            if query.rerank is Profile.PRECISE and resolved.read:
                pages = [self._settle(page, resolved.read, watch, time_left_s) for page in pages]
        if query.regions:
            return Answer(
                [],
                None,
                watch.took_ms,
                skipped=sorted({name for page in pages for name in page.skipped}),
                regions=[(v[0].box, p.hits) for v, p in zip(parts, pages, strict=True)],
                candidates=sum(map(len, heads)),
            )
        [page], [views], [head] = pages, parts, heads
        return Answer(
            page.hits,
            page.next_offset,
            watch.took_ms,
            page.box,
            encode_query_token(views, self.model),
            sorted(page.skipped),
            candidates=len(head),
            cut=page.cut,
        )

    def compare(
        self,
        first: Source,
        second: Source,
        boxes: tuple[Box | None, Box | None] = (None, None),
        deadline_s: float = math.inf,
    ) -> Comparison:
        """Two sources' images by their pixels, or else by what the index stores. Raises as
        `search`.
        """
        watch = Stopwatch()
        (one, query), (other, target) = (
            self._compared(name, source, box, watch)
            for name, source, box in zip(("first", "second"), (first, second), boxes, strict=True)
        )
        cosine = float(one.vector @ other.vector)
        # of both images the descriptors that the index keeps: their order must not matter
        one, other = structs.replace(one, local=None), structs.replace(other, local=None)
        proofs = self._ranker.prove(one, [other])
        if not proofs or not self._verifier:
            return Comparison(cosine, None)
        pictures = [picture for picture in (query, target) if picture]
        loaded = self._verifier.load(pictures, deadline_s - time.monotonic()) if pictures else {}
        proof = proofs[0]
        if query and target:
            proof = self._verifier.settle(Pair(proof, query, target), loaded)
        return Comparison(cosine, proof, _notes({"first": query, "second": target}, loaded))

    def _compared(
        self, name: str, source: Source, box: Box | None, watch: Stopwatch
    ) -> tuple[ImageFeatures, Picture | None]:
        """An error says which of the two it is about."""
        try:
            return self._sources.resolve_picture(source, box, watch)
        except InputError as error:
            raise type(error)(f"{name}: {error}") from error

    def check_query_token(self, token: str) -> None:
        """Raises InvalidRequest for what is not a `query_id`, ModelMismatch for another model's."""
        decode_query_token(token, self._embedder.spec)

    def ready(self) -> CollectionInfo:
        """The collection that is searched. Raises Unavailable where searches would fail."""
        info = self.gallery.index.info()
        if (info.model, info.dim) != (self.model, self._embedder.dim):
            raise IndexOfOtherModel(_OTHER_MODEL.format(info.model, self.model))
        return info

    def _parts(self, query: Query, resolved: ResolvedQuery, filter: dict[str, Any]) -> list[Views]:
        """What is searched separately: the whole query, or the regions that show distinct objects,
        the most certain first (the first part, where no part resembles anything).
        """
        parts = resolved.parts
        if not query.regions:
            return parts
        nearest = NearestQuery([], 1, filter=filter or None, score_threshold=query.score_threshold)
        best = self.gallery.index.nearest(
            [structs.replace(nearest, views=[part.vector]) for [part] in parts]
        )
        found = [row for row, answer in enumerate(best) if answer]
        chosen = regions.distinct(
            [parts[row][0].box for row in found],
            [best[row][0].point.original or best[row][0].point.id for row in found],
            [best[row][0].score for row in found],
            _MAX_REGIONS,
        )
        return [parts[found[n]] for n in chosen] or parts[:1]

    def _neighbours(
        self, query: Query, parts: list[Views], filter: dict[str, Any]
    ) -> tuple[list[list[Candidate]], list[Candidate]]:
        """Each part's candidates for reranking, and for a single view the page's neighbours beyond
        them, in one round trip.

        Raises IndexOfOtherModel, because vectors of different models cannot be compared.
        """
        reranks = query.rerank is not Profile.NONE
        patches = [self._patches(views) if reranks else None for views in parts]
        # several views, and candidates selected by patches, have no list beyond the candidates
        single = not (query.compares_results or query.regions or len(parts[0]) > 1 or patches[0])
        has_head = not single or (reranks and query.offset < DEPTH)
        start = max(query.offset, DEPTH) if has_head else query.offset
        end = query.offset + query.limit + 1  # one more shows whether there is a next page
        has_tail = single and end > start
        nearest = NearestQuery(
            [view.vector for view in parts[0]],
            DEPTH,
            filter=filter or None,
            score_threshold=query.score_threshold,
        )
        queries = []
        if has_head:
            queries += [
                structs.replace(
                    nearest,
                    views=[view.vector for view in views],
                    full=reranks or query.diversity > 0,
                    patches=view_patches,
                    pool=2 * DEPTH,
                )
                for views, view_patches in zip(parts, patches, strict=True)
            ]
        if has_tail:
            queries.append(structs.replace(nearest, limit=end - start, offset=start))
        found = self._nearest(queries)
        tail = found.pop() if has_tail else []
        return found if has_head else [[]], tail

    def _nearest(self, queries: list[NearestQuery]) -> list[list[Candidate]]:
        try:
            found = self.gallery.index.nearest(queries)
        except IndexRefused:
            self.ready()  # the likeliest reason is another model's dimension, which this names
            raise
        if not any(found):
            self.ready()
        for candidate in (candidate for answer in found for candidate in answer):
            if candidate.point.model != self.model:
                raise IndexOfOtherModel(_OTHER_MODEL.format(candidate.point.model, self.model))
        return found

    def _patches(self, views: Views) -> list[Vector] | None:
        """None where the index does not select by patches, or a view has none."""
        patches = [view.patches for view in views if view.patches is not None]
        return patches if self._use_patches and len(patches) == len(views) else None

    def _page(
        self,
        query: Query,
        views: Views,
        head: list[Candidate],
        tail: list[Candidate],
        time_left_s: Callable[[], float],
    ) -> _RankedPage:
        hits, box, skipped = self._rank(query, views, head, time_left_s)
        hits, cut = _select(query, hits)
        beyond = [Hit(candidate.point, candidate.score) for candidate in tail]
        # the tail begins where the reranked end, or at a page beyond them
        page = [*hits[query.offset :], *beyond][: query.limit + 1]
        end = query.offset + query.limit
        cut["page"] = [*hits[: query.offset], *hits[end:]]
        next_offset = end if len(page) > query.limit else None
        return _RankedPage(page[: query.limit], next_offset, box, skipped, cut)

    def _settle(
        self, page: _RankedPage, read: ReadFile, watch: Stopwatch, time_left_s: TimeLeft
    ) -> _RankedPage:
        """The page with the verdicts that pixels give to its first suspected results."""
        suspected = [n for n, hit in enumerate(page.hits) if hit.proof and hit.proof.suspected]
        if not suspected or not self._verifier:
            return page
        hits, rows = list(page.hits), suspected[:MAX_SETTLED]
        with watch.stage(STAGE):
            pairs = [self._pair(hits[row], read) for row in rows]
            settled = self._verifier.settle_all(pairs, time_left_s)
        for row, proof in zip(rows, settled.proofs, strict=True):
            hits[row] = structs.replace(hits[row], proof=proof)
        skipped = page.skipped if settled.in_time else [*page.skipped, STAGE]
        return structs.replace(page, hits=hits, skipped=skipped)

    def _pair(self, hit: Hit, read: ReadFile) -> Pair:
        assert hit.proof
        target = Picture(partial(self.gallery.read_indexed, hit.point))
        return Pair(hit.proof, Picture(read, hit.box), target)

    def _rank(
        self,
        query: Query,
        views: Views,
        head: list[Candidate],
        time_left_s: Callable[[], float],
    ) -> tuple[list[Hit], Box, list[str]]:
        if query.rerank is Profile.NONE or not head:
            hits = [Hit(candidate.point, candidate.score) for candidate in head]
            return hits, views[0].box, []
        shown = DEPTH if query.compares_results else query.offset + query.limit
        candidates = [features_of_point(one.point, self._embedder.spec) for one in head]
        ranked = self._ranker.rank(views, candidates, query.rerank, shown, time_left_s)
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
                box=views[int(ranked.view[row])].box,
            )
            for row in ranked.order.tolist()  # all: those not shown are reported as cut
        ]
        return hits, views[int(ranked.view[ranked.order[0]])].box, ranked.skipped


def _notes(pictures: Mapping[str, Picture | None], loaded: Mapping[Picture, Loaded]) -> list[str]:
    """Why pixels were not compared."""
    reasons = {name: _why_not(picture, loaded) for name, picture in pictures.items()}
    return [f"{name}: {reason}" for name, reason in reasons.items() if reason]


def _why_not(picture: Picture | None, loaded: Mapping[Picture, Loaded]) -> str | None:
    if picture is None:
        return "a query_id carries no pixels"
    match loaded[picture]:
        case ProofImage():
            return None
        case None:
            return "its pixels could not be read in time"
        case InputError() | ObjectChanged() as error:
            return str(error)
        case _:
            return "the bucket could not be read"  # its own messages are not for callers


def _without(ids: list[str], filter: dict[str, Any]) -> dict[str, Any]:
    """The filter, excluding these points."""
    if not ids:
        return filter
    return {**filter, "must_not": [*filter.get("must_not", []), {"has_id": ids}]}


def _select(query: Query, hits: list[Hit]) -> tuple[list[Hit], dict[str, list[Hit]]]:
    """The hits cut off, diversified and grouped, and those that cutoff and grouping removed."""
    removed: dict[str, list[Hit]] = {}
    scores = np.array([hit.order for hit in hits], np.float32)
    if query.cutoff:
        find_end = above_relative if query.cutoff.method == "relative" else above_gap
        end = find_end(scores, query.cutoff.value)
        hits, removed["cutoff"] = hits[:end], hits[end:]
    if query.diversity and hits:
        vectors = np.stack([_vector_of(hit) for hit in hits])
        # at most 1, like the cosines that diversify weighs them against
        relative = scores[: len(hits)] / max(1.0, float(scores[0]))
        order = diversify(relative, vectors, len(hits), query.diversity)
        hits = [hits[row] for row in order]
    if query.group_by:
        values = [hit.point.meta.get(query.group_by) for hit in hits]
        rows = grouped(values, query.group_size)
        removed["group_by"] = [hits[row] for row in sorted({*range(len(hits))} - {*rows})]
        hits = [structs.replace(hits[row], group=values[row]) for row in rows]
    return hits, removed


def _vector_of(hit: Hit) -> Vector:
    assert hit.point.vector is not None
    return hit.point.vector
