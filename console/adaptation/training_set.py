"""What an adapter is learned from: vectors of images, and of which product each one is."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from likeness.embedding import Embedder
from likeness.errors import InvalidRequest, ModelMismatch
from likeness.feedback import FeedbackStore
from likeness.ports import VectorIndex
from likeness.query_tokens import decode_query_token
from likeness.records import Point, State, Vector

from ..evaluation.datasets import DatasetError, Item, load
from ..evaluation.gallery import EvaluationGallery, build_gallery
from ..evaluation.judgements import by_query
from .learning import Form
from .searching import Searches

MIN_PRODUCTS = 10
MAX_QUERIES, MAX_GALLERY = 1000, 20_000
CATALOGUE = frozenset({"catalogue", "iconic", "gallery"})  # splits of catalogue pictures
PAIR = ("photo", "catalogue")  # columns of a CSV of pairs
_MAX_OF_PRODUCT = 100
_DISTRACTORS = 2000  # other images of an index, among which feedback's are searched
_PAGE = 500
_LIVE = {"must": [{"key": "state", "match": {"value": State.LIVE.value}}]}


class TrainingSet(NamedTuple):
    """vectors float32 (N, D), unit rows; product (N,), −1 for images of no known one, which are
    only searched among; catalogue (N,): whether each is a catalogue picture; sha256 (N,) of the
    files, where there are any.

    items: the readable images, in the same order; none for feedback. left_out: images or events
    that were not used, by reason.
    """

    source: str
    vectors: Vector
    product: NDArray[np.intp]
    catalogue: NDArray[np.bool_]
    sha256: NDArray[np.str_]
    items: Sequence[Item]
    left_out: Mapping[str, int]

    @property
    def products(self) -> int:
        return len(np.unique(self.product[self.product >= 0]))

    @property
    def forms(self) -> tuple[Form, ...]:
        return ("scatter", "pairs") if self.catalogue.any() else ("scatter",)

    def searches(self, seed: int) -> Searches:
        """Photo → catalogue where there is a catalogue, else photo → the other photos."""
        asks = ~self.catalogue
        found = self.catalogue | (self.product < 0) if self.catalogue.any() else asks
        return self._searches("photo → catalogue", asks, found, seed)

    def photo_searches(self, seed: int) -> Searches | None:
        """Photo → the other photos, where `searches` are something else."""
        photos: NDArray[np.bool_] = np.logical_and(~self.catalogue, self.product >= 0)
        if not self.catalogue.any() or np.bincount(self.product[photos]).max(initial=0) < 2:
            return None
        return self._searches("photo → photos", photos, photos, seed)

    def _searches(
        self, name: str, asks: NDArray[np.bool_], found: NDArray[np.bool_], seed: int
    ) -> Searches:
        rng = np.random.default_rng(seed)
        known = self.product[found & (self.product >= 0)]
        answers = np.bincount(known, minlength=self.product.max() + 1)[self.product] - found
        queries = np.flatnonzero(asks & (self.product >= 0) & (answers > 0))
        queries = np.sort(rng.permutation(queries)[:MAX_QUERIES])
        # of a large gallery the right answers stay, and as many others as there is time for
        needed = np.isin(self.product, self.product[queries])
        rows = rng.permutation(np.flatnonzero(found))
        rows = rows[np.argsort(~needed[rows], kind="stable")][:MAX_GALLERY]
        rows.sort()
        place = np.full(len(self.vectors), -1)
        place[rows] = np.arange(len(rows))
        return Searches(
            name,
            self.vectors[queries],
            self.vectors[rows],
            self.product[queries],
            self.product[rows],
            place[queries],
            self.product[queries],
        )


def from_images(
    source: Path,
    split: str | None,
    embedder: Embedder,
    cache: Path,
    most: int,
    seed: int,
    progress: Progress,
) -> TrainingSet:
    """A folder for each product, a CSV with the products, or a CSV of pairs.

    `split`: only the images of this split; of two (photos:catalogue) the second has the catalogue
    pictures. Of more than `most` images, whole products are drawn. Raises DatasetError.
    """
    pairs = _pairs(source)
    items, catalogue = _labelled(source, split) if pairs is None else _from_pairs(source, pairs)
    drawn = _drawn(items, most, seed)
    dropped = {"not drawn (--pictures)": len(items) - len(drawn)}
    gallery = build_gallery([items[row] for row in drawn], embedder, cache, progress)
    shown = [items[row].path for row in drawn if catalogue[row]]
    return _of_gallery(str(source), gallery, set(shown), dropped)


def from_feedback(index: VectorIndex, embedder: Embedder) -> TrainingSet:
    """Queries and the results that callers chose, as one product each; and other indexed images.

    Raises DatasetError if there is too little, IndexUnavailable if the index is down.
    """
    judged, without = by_query(FeedbackStore(index).all())
    left_out = Counter({"no query_id": without})
    chosen = sorted({point_id for each in judged for point_id in each.ids})
    stored = _points(index, chosen)
    queries: list[Vector] = []
    own: set[str | None] = set()
    links: list[tuple[str, str]] = []
    for number, each in enumerate(judged):
        right = each.right & stored.keys()
        if not right:
            left_out["without a right result that is still indexed"] += 1
            continue
        try:
            view = decode_query_token(each.query_id, embedder.spec)[0]
        except ModelMismatch:
            left_out["query_id belongs to another model"] += 1
        except InvalidRequest:
            left_out["query_id is invalid"] += 1
        else:
            links += [(f"?{number}", point_id) for point_id in sorted(right)]
            queries.append(view.vector)
            own |= {view.sha256} - {None}
    if not links:
        raise DatasetError(
            "the index has no feedback to learn from: POST /v1/feedback with query_id, kind "
            f"relevant or click; {_listed(left_out) or 'no events yet'}"
        )
    product_of = _components(links)
    asked = list(dict.fromkeys(query for query, _ in links))
    results = dict.fromkeys(point_id for _, point_id in links)
    others = {**_points(index, _others(index)), **stored}
    # a query's own image, where it is indexed, is no wrong answer
    wrong = [p for i, p in others.items() if i not in results and p.sha256 not in own]
    points = [*(stored[i] for i in results), *wrong]
    vectors = [*queries, *(p.vector for p in points if p.vector is not None)]
    product = [*(product_of[name] for name in (*asked, *results)), *(-1 for _ in wrong)]
    catalogue = [False] * len(asked) + [True] * len(results) + [False] * len(wrong)
    found = TrainingSet(
        "feedback",
        np.stack(vectors).astype(np.float32),
        np.array(product, np.intp),
        np.array(catalogue),
        np.array([""] * len(vectors)),
        (),
        {reason: count for reason, count in left_out.items() if count},
    )
    return _checked(found)


def _labelled(source: Path, split: str | None) -> tuple[list[Item], list[bool]]:
    if split is not None and ":" in split:
        photos, _, shown = split.partition(":")
        first, second = load(source, photos), load(source, shown)
        items, catalogue = [*first, *second], [False] * len(first) + [True] * len(second)
    else:
        items = load(source, split)
        catalogue = [split is None and item.split in CATALOGUE for item in items]
    if all(catalogue):
        catalogue = [False] * len(items)
    if not any(item.instance or item.label for item in items):
        raise DatasetError(
            f"{source} does not say which product each image shows: use a folder for each product, "
            "or a CSV with a column product, instance or label"
        )
    return items, catalogue


def _pairs(source: Path) -> list[tuple[str | None, str | None, int]] | None:
    """Photos, catalogue pictures and lines of a CSV of pairs; None for another source."""
    if source.suffix.lower() != ".csv" or not source.is_file():
        return None
    try:
        with source.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            if not set(PAIR) <= set(rows.fieldnames or ()):
                return None
            return [(row[PAIR[0]], row[PAIR[1]], rows.line_num) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{source} cannot be read as a CSV in UTF-8: {error}") from error


def _from_pairs(
    source: Path, pairs: Sequence[tuple[str | None, str | None, int]]
) -> tuple[list[Item], list[bool]]:
    """Pictures that pairs connect are of one product, or a fold could hold half of it."""
    links = []
    for photo, shown, line in pairs:
        if not photo or not shown:
            raise DatasetError(f"{source}, line {line}: {PAIR[0]} or {PAIR[1]} is empty")
        links.append((photo, shown))
    product_of = _components(links)
    missing = [name for name in product_of if not (source.parent / name).is_file()]
    if missing:
        raise DatasetError(f"{source} names {len(missing)} missing files, the first {missing[0]}")
    catalogue = {shown for _, shown in links}
    items = [
        Item(source.parent / name, None, str(product), None) for name, product in product_of.items()
    ]
    return items, [name in catalogue for name in product_of]


def _components(links: Iterable[tuple[str, str]]) -> dict[str, int]:
    """A number for each name, equal for names that are linked, directly or through others."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for one, other in links:
        first, second = root(one), root(other)
        parent[first] = second
    numbers: dict[str, int] = {}
    return {name: numbers.setdefault(root(name), len(numbers)) for name in list(parent)}


def _product(item: Item) -> str | None:
    return item.instance or item.label


def _drawn(items: Sequence[Item], most: int, seed: int) -> list[int]:
    """Rows of whole products in random order, until there are `most`; of one product not too many.

    So 100,000 products take as long as the images that are drawn.
    """
    rng = np.random.default_rng(seed)
    of_product = defaultdict[str | None, list[int]](list)
    for row, item in enumerate(items):
        of_product[_product(item)].append(row)
    names = list(of_product)
    chosen: list[int] = []
    for number in rng.permutation(len(names)).tolist():
        rows = of_product[names[number]]
        if len(rows) > _MAX_OF_PRODUCT and len(items) > most:
            rows = rng.permutation(rows)[:_MAX_OF_PRODUCT].tolist()
        if chosen and len(chosen) + len(rows) > most:
            break
        chosen += rows
    return sorted(chosen)


def _of_gallery(
    source: str, gallery: EvaluationGallery, shown: set[Path], dropped: Mapping[str, int]
) -> TrainingSet:
    """Without what would mislead: copies, files with two labels, features that are no numbers."""
    products = [_product(item) for item in gallery.items]
    sha256 = gallery.classes["original"]
    known: dict[str, set[str | None]] = defaultdict(set)
    for digest, product in zip(sha256.tolist(), products, strict=True):
        known[digest].add(product)
    finite = np.asarray(np.isfinite(gallery.vectors).all(axis=1))
    left_out = Counter(dropped)
    left_out["unreadable"] = len(gallery.unreadable)
    seen: set[str] = set()
    rows = []
    for row, (digest, product) in enumerate(zip(sha256.tolist(), products, strict=True)):
        if product is None:
            left_out["without a product"] += 1
        elif not finite[row]:
            left_out["features are not numbers"] += 1
        elif len(known[digest]) > 1:
            left_out["the same file under two products"] += 1
        elif digest in seen:
            left_out["the same file again"] += 1
        else:
            seen.add(digest)
            rows.append(row)
    names = sorted({str(products[row]) for row in rows})
    number = {name: n for n, name in enumerate(names)}
    items = [gallery.items[row] for row in rows]
    return _checked(
        TrainingSet(
            source,
            gallery.vectors[rows],
            np.array([number[str(products[row])] for row in rows], np.intp),
            np.array([item.path in shown for item in items], bool),
            sha256[rows],
            items,
            {reason: count for reason, count in left_out.items() if count},
        )
    )


def _checked(found: TrainingSet) -> TrainingSet:
    """Raises DatasetError where there is too little to learn from."""
    reasons = f"; left out: {_listed(found.left_out)}" if found.left_out else ""
    count = found.products
    if count < 2:
        raise DatasetError(
            f"{found.source} has {count} product: an adapter is learned from how images of one "
            f"product differ, and tried on others{reasons}"
        )
    usable = len(np.unique(found.searches(0).group)) if len(found.vectors) else 0
    if not usable:
        need = "a photo and a catalogue picture" if found.catalogue.any() else "two images or more"
        raise DatasetError(f"{found.source}: no product has {need}{reasons}")
    if usable < MIN_PRODUCTS:
        raise DatasetError(
            f"{found.source} has {usable} products with an image to search with and one to find; "
            f"{MIN_PRODUCTS} are needed{reasons}"
        )
    return found


def _points(index: VectorIndex, ids: Sequence[str]) -> dict[str, Point]:
    """Those of these points that are live, with finite vectors."""
    found: dict[str, Point] = {}
    for at in range(0, len(ids), _PAGE):
        for point_id, point in index.retrieve_with_vectors(ids[at : at + _PAGE]).items():
            if point.vector is not None and np.isfinite(point.vector).all():
                found[point_id] = point
    return found


def _others(index: VectorIndex) -> list[str]:
    """Ids of live points. Ids are hashes, so the first ones are a random sample."""
    return [point.id for point in index.scroll(_DISTRACTORS, None, _LIVE).points]


def _listed(reasons: Mapping[str, int]) -> str:
    return "; ".join(f"{reason}: {count}" for reason, count in reasons.items() if count)
