"""The pictures of indexed images, read from their bucket to be compared pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from likeness.embedding import Embedder
from likeness.errors import ConfigurationError, ImageError, ObjectChanged
from likeness.ports import ObjectReader
from likeness.proof.pixel_proof import ProofImage
from likeness.records import ObjectBody, Point
from likeness.settings import Limits

# Files in memory at a time: an encoded image may have 20 MiB.
_SIDE_BY_SIDE = 4
# Pictures that are kept, of at most 0.8 MB each: images of one batch often have the same partners.
_KEPT = 32


class PartnerPictures:
    """Reads the pictures of points, some side by side, and decodes one at a time.

    They are decoded exactly as the indexed image itself, so that a proof is the same both ways.
    """

    def __init__(
        self,
        store: ObjectReader,
        embedder: Embedder,
        limits: Limits,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        """Without a `pool`, objects are read in the caller's thread."""
        self._store = store
        self._embedder = embedder
        self._limits = limits
        self._map = pool.map if pool else map
        self._batch: dict[str | None, ProofImage | None] = {}
        self._kept: dict[str | None, ProofImage | None] = {}

    def keep(self, pictures: Iterable[tuple[Point, ProofImage]]) -> None:
        """Start a batch with these pictures, and forget those of the last one."""
        self._batch = {point.sha256: picture for point, picture in pictures}
        self._kept = {}

    def read(self, points: Sequence[Point]) -> Iterator[ProofImage | None]:
        """The picture of each point; None where it changed, vanished, or cannot be read or decoded.

        Raises StoreUnavailable.
        """
        for at in range(0, len(points), _SIDE_BY_SIDE):
            part = points[at : at + _SIDE_BY_SIDE]
            known = self._batch.keys() | self._kept.keys()
            unknown = [point for point in part if point.sha256 not in known]
            for point, body in zip(unknown, self._map(self._body, unknown), strict=True):
                self._kept[point.sha256] = self._decoded(body)
            pictures = {**self._kept, **self._batch}
            yield from (pictures[point.sha256] for point in part)
            while len(self._kept) > _KEPT:
                self._kept.pop(next(iter(self._kept)))

    def _body(self, point: Point) -> ObjectBody | None:
        assert point.object is not None
        try:
            return self._store.read(point.ref, point.object.etag, self._limits.max_bytes)
        except (ObjectChanged, ImageError, ConfigurationError):
            return None

    def _decoded(self, body: ObjectBody | None) -> ProofImage | None:
        if body is None:
            return None
        try:
            image, _ = self._embedder.decode(body.data, self._limits)
            return ProofImage(image)
        except (ImageError, ConfigurationError, MemoryError):
            return None
