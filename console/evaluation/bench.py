"""Pictures of a dataset embedded, indexed and searched, as `likeness evaluate` measures it.

Queries run through the service's own Searcher over the embedded engine, one at a time. Beyond the
reranked ones, a list goes on by the whole frame's cosine: its metrics are of a whole ranking.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from rich.progress import Progress

from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.embedding import Embedder
from likeness.errors import ImageError
from likeness.feature_extraction import extract_features
from likeness.features import ImageFeatures, features_of_point
from likeness.filters import Schema
from likeness.gallery import Gallery as IndexedGallery
from likeness.images import decode
from likeness.ports import ObjectStore, VectorIndex
from likeness.proof.verdicts import FITTED, Calibration, Level, chances
from likeness.queries import Answer, ById, ByImage, ByVector, Query, Source
from likeness.query_tokens import decode_query_token
from likeness.records import (
    ImageInfo,
    ObjectRef,
    OlderThan,
    Point,
    PointWrite,
    State,
    Vector,
    Version,
)
from likeness.rerank.profiles import Profile, Ranker
from likeness.search import DEPTH, Searcher
from likeness.settings import Limits

from .datasets import DatasetError, Item
from .edits import EDITS, START_SIDE, Edit
from .k_reciprocal import reciprocal
from .late_interaction import max_similarity
from .metrics import Ranking, rank
from .query_expansion import NEIGHBOURS, expand

SHOWN = 10  # results of a query as people ask: what the service answers by default
_CHUNK = 256  # points of one write
_MAX_PATCHES_BYTES = 2**30  # in memory, for late interaction
# Names the form of what is kept of a picture: another number makes all of it anew.
_CACHE = "vectors-1"
_FIRST = 10.0  # above any cosine: what was reranked comes before what was not

DIVERSITY = 0.3  # that the line of that name asks with

# The stages of a search, and what each is measured against. No profile has those that are TRIED:
# query expansion and k-reciprocal in the place of refinement, late interaction after it, with the
# weight of the global score. Diversity is an option of any search.
OVER: Mapping[str, str | None] = {
    "none": None,
    "subject crop": "none",
    "query expansion": "subject crop",
    "k-reciprocal": "subject crop",
    "refinement": "subject crop",
    "late interaction": "refinement",
    "geometry": "refinement",
    "diversity": "geometry",
}
TRIED = ("query expansion", "k-reciprocal", "late interaction")
STAGE_OF = {Profile.NONE: "none", Profile.FAST: "refinement", Profile.PRECISE: "geometry"}
AS_IT_IS = "as it is"


class Gallery(NamedTuple):
    """G pictures. vectors float32 (G, D); patches float16 (G, m, p), or None where the model has
    none or they are too many; names (G,): what each is an example of, by relevance.
    """

    items: list[Item]
    points: list[Point]
    vectors: Vector
    patches: NDArray[np.float16] | None
    names: Mapping[str, NDArray[np.str_]]
    row_of: Mapping[str, int]
    unreadable: list[str]


class Asked(NamedTuple):
    """One query. `make` gives its file, and gallery rows that count neither as right nor as wrong.

    wanted: the name of right answers, by relevance. group: what is resampled with it. own: its row,
    which is left out of the results; original: the row that an edit started from.
    """

    name: str
    make: Callable[[], tuple[bytes, list[int]]]
    wanted: Mapping[str, str | None]
    group: str
    own: int | None = None
    original: int | None = None
    edit: str = ""
    level: Level | None = None


class Judged(NamedTuple):
    """Of a query with an original: the verdict on it, and those on wrong results in their order.

    chance: the probability, by the whole frame, that the original is edited or closer;
    wrong_chance: the same of one of the first SHOWN wrong results, None where there is none.
    """

    verdict: Level
    others: Sequence[Level]
    chance: float
    wrong_chance: float | None


class Outcome(NamedTuple):
    """values: by relevance and stage, for what the query has right answers to.

    first, right, rank: rows of what `precise` has first, and of its first right answer, whose place
    it is; for the first relevance of the values.
    """

    query: Asked
    values: Mapping[str, Mapping[str, Ranking]]
    first: int
    right: int
    rank: int
    judged: Judged | None


# --- the gallery ---


def gallery(items: list[Item], embedder: Embedder, folder: Path, progress: Progress) -> Gallery:
    """Pictures as the index function sees them; vectors are kept in the folder.

    Raises DatasetError where fewer than two can be read.
    """
    cache = folder / _CACHE / embedder.fingerprint
    cache.mkdir(parents=True, exist_ok=True)
    task = progress.add_task("embedding", total=len(items))
    kept, used, unreadable = list[_Kept](), list[Item](), list[str]()
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        looked = pool.map(partial(_look, embedder, cache), items)
        for item, found in zip(items, looked, strict=True):
            if isinstance(found, _Kept):
                kept.append(found)
                used.append(item)
            else:
                unreadable.append(f"{item.path.name}: {found}")
            progress.advance(task)
    finally:  # on Ctrl-C too: what is in the cache stays there
        pool.shutdown(cancel_futures=True)
    if len(used) < 2:
        raise DatasetError(
            f"{len(used)} of {len(items)} pictures can be read: {'; '.join(unreadable[:3])}"
        )
    vectors = [np.frombuffer(each.vector, np.float32) for each in kept]
    points = [
        Point(
            ref=ObjectRef("evaluation", str(item.path)),
            state=State.LIVE,
            version=Version(1),
            model=embedder.fingerprint,
            indexed_at_s=0.0,
            image=each.image,
            vector=vector,
            local=each.packed,
            colours=each.colours,
        )
        for item, each, vector in zip(used, kept, vectors, strict=True)
    ]
    return Gallery(
        used,
        points,
        np.stack(vectors),
        _patches(kept, embedder),
        _names(used, kept),
        {point.id: row for row, point in enumerate(points)},
        unreadable,
    )


class _Kept(Struct, frozen=True):
    """What is kept of one picture: vector float32, packed descriptors, patches float16, colours."""

    image: ImageInfo
    vector: bytes
    packed: bytes | None
    patches: bytes | None
    colours: bytes | None


def _look(embedder: Embedder, cache: Path, item: Item) -> _Kept | ImageError:
    """From the cache where the same file was seen before."""
    data = item.path.read_bytes()
    file = cache / hashlib.sha256(data).hexdigest()
    with contextlib.suppress(OSError, msgspec.MsgspecError):  # not there, or not whole
        return msgspec.msgpack.decode(file.read_bytes(), type=_Kept)
    try:
        info, seen = _seen(embedder, data)
    except ImageError as error:
        return error
    kept = _Kept(
        info,
        seen.vector.tobytes(),
        seen.packed,
        None if seen.patches is None else seen.patches.astype(np.float16).tobytes(),
        seen.colours,
    )
    draft = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    draft.write_bytes(msgspec.msgpack.encode(kept))
    draft.replace(file)
    return kept


def _seen(embedder: Embedder, data: bytes) -> tuple[ImageInfo, ImageFeatures]:
    """Raises ImageError."""
    picture, info = decode(data, Limits(), embedder.decode_size)
    return info, extract_features(embedder, picture, sha256=info.sha256)


def _patches(kept: list[_Kept], embedder: Embedder) -> NDArray[np.float16] | None:
    told = embedder.spec.patches
    if told is None or len(kept) * told.side**2 * told.dim * 2 > _MAX_PATCHES_BYTES:
        return None
    rows = [np.frombuffer(each.patches or b"", np.float16) for each in kept]
    return np.stack(rows).reshape(len(kept), told.side**2, told.dim)


def _names(items: list[Item], kept: list[_Kept]) -> dict[str, NDArray[np.str_]]:
    names = {
        "original": [each.image.sha256 for each in kept],  # a file that is there twice is right
        "instance": [item.instance or "" for item in items],
        "label": [item.label or "" for item in items],
    }
    return {name: np.array(values) for name, values in names.items()}


@contextlib.contextmanager
def index_of(gallery: Gallery, embedder: Embedder) -> Iterator[VectorIndex]:
    """The embedded engine over a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        index = EmbeddedIndex(Path(folder), Layout("evaluation", Schema()))
        index.prepare(embedder.fingerprint, embedder.dim)
        for start in range(0, len(gallery.points), _CHUNK):
            part = gallery.points[start : start + _CHUNK]
            index.write(embedder.fingerprint, [PointWrite(p, OlderThan(p.version)) for p in part])
        try:
            yield index
        finally:
            index.close()


# --- the queries ---


def labelled(gallery: Gallery, asked: list[Item], count: int, seed: int) -> list[Asked]:
    """At most `count`, drawn by chance; one of the gallery's own is searched among the others."""
    drawn = np.sort(np.random.default_rng(seed).permutation(len(asked))[:count])
    rows = {item.path: row for row, item in enumerate(gallery.items)}
    # where labels say just what instances say, they are no second way to be right
    same = all(item.label == item.instance for item in (*asked, *gallery.items))
    return [
        Asked(
            item.path.name,
            partial(_beside, gallery, item),
            {"instance": item.instance, "label": None if same else item.label},
            item.instance or item.label or "",
            own=rows.get(item.path),
        )
        for item in (asked[row] for row in drawn.tolist())
    ]


def synthetic(gallery: Gallery, count: int, seed: int) -> list[Asked]:
    """Each edit in turn, and the file as it is; originals in a random order, all equally often."""
    rng, size = np.random.default_rng(seed), len(gallery.items)
    originals = np.concatenate([rng.permutation(size) for _ in range(-(-count // size))])
    edits: tuple[Edit | None, ...] = (None, *EDITS)
    asked = []
    for number, row in enumerate(originals[:count].tolist()):
        path, name = gallery.items[row].path, str(gallery.names["original"][row])
        edit = edits[number % len(edits)]
        make = (
            partial(_edited, gallery, row, edit, (seed, number))
            if edit
            else partial(_as_it_is, path)
        )
        title = edit.name if edit else AS_IT_IS
        level = edit.level if edit else Level.EXACT
        wanted = {"original": name}
        asked.append(Asked(f"{path.name}, {title}", make, wanted, name, None, row, title, level))
    return asked


def _as_it_is(path: Path) -> tuple[bytes, list[int]]:
    return path.read_bytes(), []


def _beside(gallery: Gallery, item: Item) -> tuple[bytes, list[int]]:
    """A query of a dataset, and the rows that its CSV says to ignore."""
    ignored = (gallery.names["instance"] == item.ignore) & (item.ignore is not None)
    return item.path.read_bytes(), np.flatnonzero(ignored).tolist()


def _edited(
    gallery: Gallery, row: int, edit: Edit, seed: tuple[int, int]
) -> tuple[bytes, list[int]]:
    """What a scene is made of is found with some right: it does not count."""
    rng, used = np.random.default_rng(seed), list[int]()

    def another() -> Image.Image:
        other = int(rng.integers(len(gallery.items) - 1))
        used.append(other + (other >= row))
        return _picture(gallery.items[used[-1]].path)

    return edit.make(_picture(gallery.items[row].path), another, rng), used


def _picture(path: Path) -> Image.Image:
    return decode(path.read_bytes(), Limits(), START_SIDE)[0]


# --- the searches ---


class Bench:
    """Asks the service's own Searcher."""

    def __init__(
        self,
        gallery: Gallery,
        index: VectorIndex,
        embedder: Embedder,
        calibration: Calibration | None,
    ) -> None:
        self._gallery, self._embedder, self._calibration = gallery, embedder, calibration
        self._searcher = Searcher(IndexedGallery(index, no_store), embedder, calibration)
        self._ranker = Ranker(embedder.spec, calibration)

    def ask(self, query: Asked) -> Outcome | None:
        """None for a query that nothing in the gallery answers. Raises ImageError."""
        data, ignored = query.make()
        out = np.zeros(len(self._gallery.items), bool)
        out[[*ignored, *([] if query.own is None else [query.own])]] = True
        rights = {
            relevance: right
            for relevance, names in self._gallery.names.items()
            if (wanted := query.wanted.get(relevance))
            if (right := (names == wanted) & ~out).any()
        }
        if not rights:
            return None
        source = ByImage(data)
        answers = {p: self._search(source, p, query.own, DEPTH) for p in Profile}
        spread = self._search(source, Profile.PRECISE, query.own, DEPTH, DIVERSITY)
        _, seen = _seen(self._embedder, data)
        scores = self._by_stage(seen, answers, spread, query.own)
        values = {
            relevance: {
                stage: rank(row[None], right[None], out[None]) for stage, row in scores.items()
            }
            for relevance, right in rights.items()
        }
        precise = np.where(out, -np.inf, scores[STAGE_OF[Profile.PRECISE]])
        order = np.argsort(-precise, kind="stable")
        first_right = next(iter(rights.values()))
        place = int(np.argmax(first_right[order]))
        judged = None
        if query.original is not None and self._calibration:
            answer, wrong = answers[Profile.PRECISE], ~first_right & ~out
            judged = self._judged(query.original, data, seen, answer, wrong)
        return Outcome(query, values, int(order[0]), int(order[place]), place + 1, judged)

    def took_ms(self, query: Asked) -> dict[Profile, Mapping[str, float]]:
        """Of one search as people ask, with each profile."""
        data, _ = query.make()
        source = ByImage(data)
        return {p: self._search(source, p, query.own, SHOWN).took_ms for p in Profile}

    def _search(
        self, source: Source, profile: Profile, own: int | None, limit: int, diversity: float = 0.0
    ) -> Answer:
        exclude = () if own is None else (self._gallery.points[own].id,)
        return self._searcher.search(
            Query(source, limit, rerank=profile, exclude=exclude, diversity=diversity)
        )

    def _by_stage(
        self,
        query: ImageFeatures,
        answers: Mapping[Profile, Answer],
        spread: Answer,
        own: int | None,
    ) -> dict[str, NDArray[np.float32]]:
        """Scores (G,) of the whole gallery after each stage; `spread`: precise, with diversity."""
        gallery, fast = self._gallery, answers[Profile.FAST]
        plain = gallery.vectors @ query.vector

        def after(rows: Sequence[int], values: ArrayLike) -> NDArray[np.float32]:
            scores = plain.copy()
            scores[rows] = _FIRST + np.asarray(values)
            return scores

        rows, cosines = self._rows(fast), [hit.stages["cosine"] for hit in fast.results]
        nearest = gallery.vectors[rows]
        scores = {
            stage: after(self._rows(answers[p]), [hit.order for hit in answers[p].results])
            for p, stage in STAGE_OF.items()
        }
        scores["subject crop"] = after(rows, cosines)
        assert fast.query_id
        views = decode_query_token(fast.query_id, self._embedder.spec)  # the frame, and its subject
        best = nearest[np.argsort(cosines)[: -NEIGHBOURS - 1 : -1]]
        again = self._expanded(views, best, own)
        scores["query expansion"] = after(list(again), list(again.values()))
        mutual = [reciprocal(view.vector, nearest) for view in views]
        scores["k-reciprocal"] = after(rows, np.max(mutual, axis=0))
        if query.patches is not None and gallery.patches is not None:
            late = scores["refinement"].copy()
            late[rows] += max_similarity(query.patches, gallery.patches[rows].astype(np.float32))
            scores["late interaction"] = late
        scores["diversity"] = after(self._rows(spread), -np.arange(len(spread.results)) / DEPTH)
        return scores

    def _expanded(
        self, views: Sequence[ImageFeatures], best: Vector, own: int | None
    ) -> dict[int, float]:
        """The index is asked again with each view expanded: rows, with the best of their scores."""
        scores = dict[int, float]()
        for view in views:
            wanted = ByVector(tuple(expand(view.vector, best).tolist()), self._embedder.fingerprint)
            answer = self._search(wanted, Profile.NONE, own, DEPTH)
            for row, hit in zip(self._rows(answer), answer.results, strict=True):
                scores[row] = max(hit.score, scores.get(row, -1.0))
        return scores

    def _rows(self, answer: Answer) -> list[int]:
        return [self._gallery.row_of[hit.point.id] for hit in answer.results]

    def _judged(
        self,
        original: int,
        data: bytes,
        query: ImageFeatures,
        answer: Answer,
        wrong: NDArray[np.bool_],
    ) -> Judged:
        point, rows = self._gallery.points[original], self._gallery.row_of
        proofs = {hit.point.id: hit.proof for hit in answer.results if hit.proof}
        proof = proofs.get(point.id) or self._searcher.compare(ByImage(data), ById(point.id))[1]
        others = [point_id for point_id in proofs if wrong[rows[point_id]]]
        # any of those that are shown, but the same at every run
        drawn = np.random.default_rng(original).permutation(others[:SHOWN])[:1]
        pairs = [point, *(self._gallery.points[rows[point_id]] for point_id in drawn.tolist())]
        assert self._calibration
        assert proof  # there is a calibration
        seen_as = [features_of_point(one, self._embedder.spec) for one in pairs]
        likely = chances(self._calibration, self._ranker.features(query, seen_as))
        likely = likely[:, FITTED.index(Level.EDITED)].tolist()
        return Judged(
            proof.verdict.level,
            [proofs[point_id].verdict.level for point_id in others],
            likely[0],
            likely[1] if len(likely) > 1 else None,
        )


def no_store() -> ObjectStore:
    raise AssertionError("no query names an object")
