"""The pictures of indexed images, read from their bucket to be compared pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from likeness.errors import ConfigurationError, ImageError, ObjectChanged
from likeness.ports import ObjectReader
from likeness.proof.pixel_proof import ProofImage
from likeness.proof_decoding import decode_for_proof
from likeness.records import Point
from likeness.settings import Limits

# Files in memory at a time: one may have 20 MiB.
_SIDE_BY_SIDE = 4
# Pictures that are kept, of at most 0.8 MB each: images of one batch often have the same partners.
_KEPT = 32


class PartnerPictures:
    """Reads the files of points, some side by side, and decodes one at a time.

    All are decoded alike, so that a proof is the same both ways.
    """

    def __init__(
        self,
        store: ObjectReader,
        limits: Limits,
        version: int,
        pool: ThreadPoolExecutor | None = None,
    ) -> None:
        """`version`: that of the preprocessing, which decides what a file's pixels are. Without a
        `pool`, files are read in the caller's thread.
        """
        self._store = store
        self._limits = limits
        self._version = version
        self._map = pool.map if pool else map
        self._files: Mapping[str | None, bytes] = {}
        self._kept: dict[str | None, ProofImage | None] = {}

    def start(self, files: Mapping[str | None, bytes]) -> None:
        """Begin a batch. Its own files, by their sha256, need no reading."""
        self._files = files
        self._kept = {}

    def read(self, points: Sequence[Point]) -> Iterator[ProofImage | None]:
        """The picture of each point; None where it changed, vanished, or cannot be read or decoded.

        Raises StoreUnavailable.
        """
        for at in range(0, len(points), _SIDE_BY_SIDE):
            part = points[at : at + _SIDE_BY_SIDE]
            unknown = [point for point in part if point.sha256 not in self._kept]
            for point, data in zip(unknown, self._map(self._file, unknown), strict=True):
                self._kept[point.sha256] = self._decoded(data)
            yield from [self._kept[point.sha256] for point in part]
            while len(self._kept) > _KEPT:
                self._kept.pop(next(iter(self._kept)))

    def _file(self, point: Point) -> bytes | None:
        if point.sha256 in self._files:
            return self._files[point.sha256]
        assert point.object is not None
        try:
            return self._store.read(point.ref, point.object.etag, self._limits.max_bytes).data
        except (ObjectChanged, ImageError, ConfigurationError):
            return None

    def _decoded(self, data: bytes | None) -> ProofImage | None:
        if data is None:
            return None
        try:
            return decode_for_proof(data, self._limits, self._version)
        except (ImageError, ConfigurationError, MemoryError):
            return None
