"""Packs local descriptors into few bytes: the most salient cells, four bits per value.

Four bits lose nothing that geometric verification needs (decision 0026); 64 descriptors of 64
values take 2,112 bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KEPT = 64
_STEPS = 7  # a value is −7…7, shifted to 1…15
_RANGE = 3.0  # a unit row's values have a spread of 1/√D: beyond three of it they are clipped
# both values of each possible byte, (256, 2)
_PAIRS = np.stack(np.divmod(np.arange(256, dtype=np.float32), 16), axis=1) - (_STEPS + 1)


def cell_positions(side: int) -> NDArray[np.float32]:
    """Positions (x, y) of a square map's cells, row by row: float32 (side², 2)."""
    rows, columns = np.divmod(np.arange(side * side, dtype=np.float32), np.float32(side))
    return np.stack([columns, rows], axis=1)


def pack(
    local: NDArray[np.float32], salience: NDArray[np.float32] | None = None, keep: int = KEPT
) -> bytes:
    """One image's local descriptors, float32 (side², D), unit rows, D even, side at most 16.

    Those with the highest salience are kept, or the first ones without a salience. The bytes are
    `keep` cell numbers, then D/2 bytes for each.
    """
    order = np.arange(len(local)) if salience is None else np.argsort(-salience, kind="stable")
    cells = order[:keep]
    scale = _STEPS * np.sqrt(local.shape[1]) / _RANGE
    levels = np.clip(np.rint(local[cells] * scale), -_STEPS, _STEPS).astype(np.int8) + _STEPS + 1
    nibbles = levels.astype(np.uint8)
    pairs: NDArray[np.uint8] = nibbles[:, ::2] << 4 | nibbles[:, 1::2]
    return cells.astype(np.uint8).tobytes() + pairs.tobytes()


def first_descriptors(packed: bytes, dim: int, keep: int = KEPT) -> bytes:
    """The first `keep` of one image's packed descriptors of `dim` values, or all it has."""
    count = len(packed) // (1 + dim // 2)
    if count <= keep:
        return packed
    return packed[:keep] + packed[count : count + keep * dim // 2]


def unpack(
    packed: list[bytes], side: int, dim: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """K images → descriptors float32 (K, m, dim), unit rows, and positions (K, m, 2) in cells.

    An image with fewer descriptors than the others is padded with zero rows, which match nothing.
    Raises ValueError for bytes that are not packed descriptors of such a map.
    """
    lengths = [len(data) for data in packed]
    longest = max(lengths, default=0) // (1 + dim // 2)
    descriptors = np.zeros((len(packed), longest, dim), np.float32)
    cells = np.zeros((len(packed), longest), np.intp)
    for length in set(lengths):  # nearly always one
        count, rest = divmod(length, 1 + dim // 2)
        if rest:
            raise ValueError(f"{length} bytes are not descriptors of {dim} values")
        rows = [row for row, size in enumerate(lengths) if size == length]
        raw = np.frombuffer(b"".join(packed[row] for row in rows), np.uint8)
        raw = raw.reshape(len(rows), length)
        cells[rows, :count] = raw[:, :count]
        values = _PAIRS.take(raw[:, count:], axis=0)
        descriptors[rows, :count] = values.reshape(len(rows), count, dim)
    if (cells >= side * side).any():
        raise ValueError(f"a cell lies outside a map of {side} × {side}")
    norms = np.sqrt(np.einsum("kmd,kmd->km", descriptors, descriptors))
    descriptors /= np.maximum(norms, 1e-9)[..., None]
    return descriptors, cell_positions(side)[cells]
