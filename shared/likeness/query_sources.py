"""What a query searches with: its source, resolved to the features of one or several views.

The source is an uploaded image, an indexed one, an object of the bucket, a vector, a text, examples
or the token of an earlier answer. An image may be searched by several views of it: as a whole and
by its subject, or by many parts, each of which is searched separately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from PIL import Image

from likeness import regions
from likeness.embedding import Embedder, TextEmbedder
from likeness.errors import InvalidRequest, ModelMismatch, NoDetail, NotIndexed
from likeness.feature_extraction import extract_features
from likeness.features import ImageFeatures, features_of_point
from likeness.gallery import Gallery
from likeness.pixel_verification import Picture, ReadFile
from likeness.queries import (
    ByExamples,
    ById,
    ByImage,
    ByObject,
    ByText,
    ByToken,
    ByVector,
    Query,
    Source,
)
from likeness.query_tokens import decode_query_token
from likeness.records import WHOLE, Box, Point, Vector
from likeness.rerank.profiles import Profile
from likeness.stopwatch import Stopwatch

# Views that are searched together: a neighbour counts by the one that it is nearest to.
Views = list[ImageFeatures]


class ResolvedQuery(Struct, frozen=True):
    """`parts` are searched separately: one, or each proposed region of the image. `point_ids` are
    the indexed images that the query was made from. `read` returns the file of the query's image;
    None where the query has none.
    """

    parts: list[Views]
    point_ids: tuple[str, ...]
    read: ReadFile | None


class _ResolvedSource(Struct, frozen=True):
    """The features of a source, the ids of the indexed images it names, and its pixels where they
    were decoded. `other_views` come from a token. `read` as in ResolvedQuery.
    """

    features: ImageFeatures
    point_ids: tuple[str, ...] = ()
    image: Image.Image | None = None
    other_views: tuple[ImageFeatures, ...] = ()
    read: ReadFile | None = None


class SourceResolver:
    """Resolves sources with one model, over one gallery. Safe to share between threads."""

    def __init__(
        self,
        gallery: Gallery,
        embedder: Embedder,
        open_text_embedder: Callable[[], TextEmbedder] | None,
    ) -> None:
        self._gallery = gallery
        self._embedder = embedder
        self._open_text_embedder = open_text_embedder

    @property
    def supports_text(self) -> bool:
        return self._open_text_embedder is not None and self._embedder.spec.text is not None

    def resolve(self, query: Query, watch: Stopwatch) -> ResolvedQuery:
        """Everything the query searches with.

        Raises an InputError for what the caller got wrong, Unavailable where Qdrant or S3 is down.
        """
        source = self._resolve_source(query.source, query.box, query.regions, watch)
        return ResolvedQuery(self._query_views(query, source, watch), source.point_ids, source.read)

    def resolve_picture(
        self, source: Source, box: Box | None, watch: Stopwatch
    ) -> tuple[ImageFeatures, Picture | None]:
        """The features of one source, or of the part of it inside a box, and its picture where the
        source has one. Raises as `resolve`.
        """
        found = self._resolve_source(source, box, False, watch)
        return found.features, Picture(found.read, box or WHOLE) if found.read else None

    def _resolve_source(
        self, source: Source, box: Box | None, detect: bool, watch: Stopwatch
    ) -> _ResolvedSource:
        if detect and box:
            raise InvalidRequest("give either box or detect, which finds boxes itself; not both")
        needs_pixels = detect or box is not None
        match source:
            case ByImage(data):
                resolved = self._decode_and_embed(data, box, watch)
            case ById(point_id):
                point = self._gallery.image(point_id)
                if needs_pixels:
                    data = self._gallery.read(point.ref)
                    resolved = self._decode_and_embed(data, box, watch, (point_id,))
                else:
                    resolved = self._stored(point)
            case ByObject(ref):
                known = None if needs_pixels else self._gallery.status(ref)
                if known and known.vector is not None:
                    resolved = self._stored(known)
                else:
                    data = self._gallery.read(ref)
                    resolved = self._decode_and_embed(data, box, watch, (ref.point_id,))
            case _:
                if needs_pixels:
                    raise InvalidRequest(
                        "box and detect need an image: give image, id or key, not a vector, "
                        "a text or a query_id"
                    )
                resolved = self._features_without_image(source)
        return resolved

    def _features_without_image(
        self, source: ByToken | ByVector | ByText | ByExamples
    ) -> _ResolvedSource:
        match source:
            case ByToken(token):
                first, *others = decode_query_token(token, self._embedder.spec)
                return _ResolvedSource(first, other_views=tuple(others))
            case ByVector(values, model):
                return _ResolvedSource(ImageFeatures(self._validate_vector(values, model)))
            case ByText(text):
                return _ResolvedSource(ImageFeatures(self._embed_text(text)))
            case ByExamples(positive, negative):
                vector = self._recommend_vector(positive, negative)
                return _ResolvedSource(ImageFeatures(vector), (*positive, *negative))

    def _decode_and_embed(
        self, data: bytes, box: Box | None, watch: Stopwatch, point_ids: tuple[str, ...] = ()
    ) -> _ResolvedSource:
        with watch.stage("decode"):
            # a part needs as many pixels as a whole image does
            share = min(box.right - box.left, box.bottom - box.top) if box else 1.0
            image, info = self._embedder.decode(data, self._gallery.limits, max(share, 0.1))
        features = extract_features(self._embedder, image, box or WHOLE, info.sha256, watch.stage)
        return _ResolvedSource(features, point_ids, image, read=lambda: data)

    def _query_views(self, query: Query, source: _ResolvedSource, watch: Stopwatch) -> list[Views]:
        whole = source.features
        if query.regions:
            assert source.image is not None
            content = self._embedder.content_box(source.image)
            boxes = [box.placed_in(content) for box in regions.PROPOSALS]
            found = [self._part(source.image, box, watch) for box in boxes]
            return [[part] for part in found if part] or [[whole]]
        if not query.subject or query.rerank is Profile.NONE:
            return [[whole]]
        if source.image is None or whole.patches is None or query.box:
            return [[whole, *source.other_views]]
        box = regions.subject(whole.patches)
        part = None
        if box != WHOLE:
            box = box.placed_in(whole.seen).intersection(WHOLE)
            part = self._part(source.image, box, watch)
        return [[whole, part] if part else [whole]]

    def _part(self, image: Image.Image | None, box: Box, watch: Stopwatch) -> ImageFeatures | None:
        """None for a part of one flat colour."""
        assert image is not None
        try:
            return extract_features(self._embedder, image, box, stage=watch.stage)
        except NoDetail:
            return None

    def _stored(self, point: Point) -> _ResolvedSource:
        features, read = self._stored_features(point), partial(self._gallery.read_indexed, point)
        return _ResolvedSource(features, (point.id,), read=read)

    def _stored_features(self, point: Point) -> ImageFeatures:
        if point.vector is None:
            raise NotIndexed(f"{point.ref.key} was rejected: {point.detail}")
        return features_of_point(point, self._embedder.spec)

    def _validate_vector(self, values: tuple[float, ...], model: str) -> Vector:
        if model != self._embedder.fingerprint:
            raise ModelMismatch(
                f"the vector was made by model {model}, this index by {self._embedder.fingerprint}"
            )
        if len(values) != self._embedder.dim:
            raise InvalidRequest(
                f"vector: {self._embedder.dim} values expected, {len(values)} given"
            )
        return _unit_vector(np.array(values, np.float64), "vector: all values must be finite, and")

    def _embed_text(self, text: str) -> Vector:
        if self._open_text_embedder is None or not self.supports_text:
            raise InvalidRequest(f"text: the model {self._embedder.spec.name} has no text encoder")
        vector: Vector = self._open_text_embedder().embed([text])[0]
        return vector

    def _recommend_vector(self, positive: Sequence[str], negative: Sequence[str]) -> Vector:
        """Twice the mean of the positive vectors minus the mean of the negative ones: Qdrant's
        recommendation strategy `average_vector`.
        """
        points = self._gallery.points([*positive, *negative])
        vectors = np.stack([self._stored_features(point).vector for point in points])
        vectors = vectors.astype(np.float64)
        wanted = vectors[: len(positive)].mean(axis=0)
        if negative:
            wanted = 2 * wanted - vectors[len(positive) :].mean(axis=0)
        return _unit_vector(wanted, "positive and negative: they must differ, and their mean")


def _unit_vector(values: NDArray[np.float64], complaint: str) -> Vector:
    largest = np.abs(values).max(initial=0)
    if not np.isfinite(largest) or largest == 0:
        raise InvalidRequest(f"{complaint} not all zero")
    values = values / largest  # the squares then neither overflow nor underflow
    return np.asarray(values / np.linalg.norm(values), np.float32)
