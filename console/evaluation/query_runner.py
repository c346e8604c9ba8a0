"""Runs the queries of `likeness evaluate` through the service's own Searcher.

One at a time, over the embedded engine. After the reranked results the rest of the gallery follows
by the whole frame's cosine, so that metrics cover a whole ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from likeness.embedding import Embedder
from likeness.errors import StoreUnavailable
from likeness.features import features_of_point
from likeness.gallery import Gallery
from likeness.images import decode
from likeness.ports import ObjectStore, VectorIndex
from likeness.proof.pixel_proof import ProofImage
from likeness.proof.proofs import Proof
from likeness.proof.verdicts import FITTED_LEVELS, Calibration, Level, probabilities
from likeness.queries import Answer, ById, ByImage, ByVector, Query, Source
from likeness.query_tokens import decode_query_token
from likeness.records import Vector
from likeness.rerank.profiles import Profile
from likeness.rerank.ranker import Ranker
from likeness.rerank.stage import Need
from likeness.search import DEPTH, Searcher
from likeness.settings import Limits

from .edits import START_SIDE
from .gallery import EvaluationGallery, features_of_file
from .metrics import Ranking, rank
from .queries import EvaluationQuery
from .stages import DIVERSITY, AnsweredQuery, Scores, TableRow, scores_of_profile, table_rows

SHOWN = 10  # results of a query by default, as the service answers it

Masks = Mapping[str, NDArray[np.bool_]]
Rankings = Mapping[str, Mapping[str, Ranking]]


class QueryVerdicts(NamedTuple):
    """Verdicts on an edit's original, and on wrong results in their order.

    Verdicts are those that the pixels give, for the original and for what the index suspects.
    probability: what the index claims for the original being `same_item` or closer, by the whole
    frame; wrong_probability: the same for one of the first SHOWN wrong results, None if there is
    none.
    """

    verdict: Level
    wrong_verdicts: Sequence[Level]
    probability: float
    wrong_probability: float | None


class QueryOutcome(NamedTuple):
    """profiles, stages: metrics by relevance and name, for each relevance with right answers.

    first, right, rank: the rows of the first result in `precise` and of the first right one, and
    the rank of the latter, for the first relevance.
    """

    query: EvaluationQuery
    profiles: Rankings
    stages: Rankings
    first: int
    right: int
    rank: int
    verdicts: QueryVerdicts | None


class QueryRunner:
    """`rows`: the rows of the table of gains that this model and gallery can be measured for."""

    def __init__(
        self,
        gallery: EvaluationGallery,
        index: VectorIndex,
        embedder: Embedder,
        calibration: Calibration | None,
    ) -> None:
        self._gallery, self._embedder, self._calibration = gallery, embedder, calibration
        self._searcher = Searcher(Gallery(index, no_store), embedder, calibration)
        self._ranker = Ranker(embedder.spec, calibration)
        self.rows = [row for row in table_rows() if self._is_possible(row)]

    def _is_possible(self, row: TableRow) -> bool:
        return not (
            (Need.CALIBRATION in row.needs and self._calibration is None)
            or (Need.PATCHES in row.needs and self._gallery.patches is None)
        )

    def run(self, query: EvaluationQuery) -> QueryOutcome | None:
        """None for a query without a right answer in the gallery. Raises ImageError."""
        data, ignored = query.make()
        left_out = np.zeros(len(self._gallery.items), bool)
        left_out[[*ignored, *([] if query.own is None else [query.own])]] = True
        right = self._right_answers(query, left_out)
        if not right:
            return None
        searched = self._searched(data, query.own)
        by_profile = {p.value: scores_of_profile(p, searched) for p in Profile}
        by_stage = {row.name: row.scores(searched) for row in self.rows}
        order = np.argsort(-np.where(left_out, -np.inf, by_profile[Profile.PRECISE]), kind="stable")
        first_relevance = next(iter(right.values()))
        place = int(np.argmax(first_relevance[order]))
        verdicts = None
        if query.original is not None and self._calibration:
            wrong = ~first_relevance & ~left_out
            verdicts = self._judge(query.original, data, searched, wrong)
        return QueryOutcome(
            query,
            _rankings(by_profile, right, left_out),
            _rankings(by_stage, right, left_out),
            int(order[0]),
            int(order[place]),
            place + 1,
            verdicts,
        )

    def took_ms(self, query: EvaluationQuery) -> dict[Profile, Mapping[str, float]]:
        """Time of one search with default options, by profile."""
        data, _ = query.make()
        source = ByImage(data)
        return {p: self._search(source, p, query.own, SHOWN).took_ms for p in Profile}

    def _right_answers(self, query: EvaluationQuery, left_out: NDArray[np.bool_]) -> Masks:
        """Which rows are right (G,), for each relevance that the query has right answers for."""
        return {
            relevance: right
            for relevance, names in self._gallery.classes.items()
            if (wanted := query.wanted.get(relevance))
            if (right := (names == wanted) & ~left_out).any()
        }

    def _searched(self, data: bytes, own: int | None) -> AnsweredQuery:
        source, spec = ByImage(data), self._embedder.spec
        answers = {p: self._search(source, p, own, DEPTH) for p in Profile}
        diversified = self._search(source, Profile.PRECISE, own, DEPTH, DIVERSITY)
        _, frame = features_of_file(self._embedder, data)
        token = answers[Profile.FAST].query_id
        assert token
        views = [frame, *decode_query_token(token, spec)[1:]]  # the frame, and its subject

        def nearest(vector: Vector) -> Answer:
            again = ByVector(tuple(vector.tolist()), self._embedder.fingerprint)
            return self._search(again, Profile.NONE, own, DEPTH)

        return AnsweredQuery(
            self._gallery, spec, self._ranker, frame, views, answers, diversified, nearest
        )

    def _search(
        self, source: Source, profile: Profile, own: int | None, limit: int, diversity: float = 0.0
    ) -> Answer:
        exclude = () if own is None else (self._gallery.points[own].id,)
        return self._searcher.search(
            Query(source, limit, rerank=profile, exclude=exclude, diversity=diversity)
        )

    def _judge(
        self, original: int, data: bytes, searched: AnsweredQuery, wrong: NDArray[np.bool_]
    ) -> QueryVerdicts:
        """`wrong`: rows of the gallery (G,)."""
        point, rows = self._gallery.points[original], self._gallery.row_of
        results = searched.answers[Profile.PRECISE].results
        proofs = {hit.point.id: hit.proof for hit in results if hit.proof}
        proof = proofs.get(point.id) or self._searcher.compare(ByImage(data), ById(point.id)).proof
        wrong_ids = [point_id for point_id in proofs if wrong[rows[point_id]]]
        # any of the shown ones, but the same in every run
        drawn = np.random.default_rng(original).permutation(wrong_ids[:SHOWN])[:1]
        pairs = [point, *(self._gallery.points[rows[point_id]] for point_id in drawn.tolist())]
        assert self._calibration
        assert proof  # there is a calibration
        images = [features_of_point(pair, self._embedder.spec) for pair in pairs]
        at_least = probabilities(
            self._calibration, self._ranker.pair_features(searched.frame, images)
        )
        same = at_least[:, FITTED_LEVELS.index(Level.SAME_ITEM)].tolist()
        image = _proof_image(data)
        return QueryVerdicts(
            self._settled(proof, image, original).verdict.level,
            [
                self._settled(proofs[point_id], image, rows[point_id]).verdict.level
                if proofs[point_id].suspected
                else proofs[point_id].verdict.level
                for point_id in wrong_ids
            ],
            same[0],
            same[1] if len(same) > 1 else None,
        )

    def _settled(self, proof: Proof, image: ProofImage, row: int) -> Proof:
        """What the pixels of the query and of a row of the gallery give."""
        assert self._calibration
        other = _proof_image(self._gallery.items[row].path.read_bytes())
        return proof.settled(image, other, self._calibration)


def _proof_image(data: bytes) -> ProofImage:
    return ProofImage(decode(data, Limits(), START_SIDE)[0])


def _rankings(scores: Mapping[str, Scores], right: Masks, left_out: NDArray[np.bool_]) -> Rankings:
    return {
        relevance: {
            name: rank(row[None], mask[None], left_out[None]) for name, row in scores.items()
        }
        for relevance, mask in right.items()
    }


def no_store() -> ObjectStore:
    """For searches without the bucket: their verdicts rest on what the index stores."""
    raise StoreUnavailable("this command reads no bucket")
