"""Finds the weight of the geometric score relative to the cosine, on the validation photos.

The same tasks as in training (see validation.py), with the first 30 candidates verified.
`evaluate.py` uses the gain with the highest sum.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from evaluate import STORED
from likeness.descriptor_packing import cell_positions
from likeness.embedding import Embedder
from likeness.proof.geometry import verify
from pixels import normalised
from validation import Validation

CANDIDATES = 30
GAINS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)


def extract(
    embedder: Embedder, images: list[NDArray[np.uint8]]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Vectors (N, D), local descriptors (N, 196, d), salience (N, 196)."""
    features = [embedder.extract([normalised(image)]) for image in images]
    return (
        np.concatenate([d.vectors for d in features]),
        np.concatenate([d.local for d in features if d.local is not None]),
        np.concatenate([d.salience for d in features if d.salience is not None]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that the listing's paths start from")
    parser.add_argument("work", type=Path)
    parser.add_argument("bundle", type=Path)
    arguments = parser.parse_args()
    embedder, validation = Embedder(arguments.bundle), Validation(arguments.data, arguments.work)
    whole, local, salience = extract(embedder, validation.whole)
    copies, copies_local, _ = extract(embedder, validation.copies)
    views, views_local, _ = extract(embedder, validation.views)
    edited = {"copies": copies_local, "views": views_local}
    best = np.argsort(-salience, axis=1, kind="stable")[:, :STORED]
    kept, at = np.take_along_axis(local, best[..., None], axis=1), cell_positions(14)
    sums = np.zeros(len(GAINS))
    for task in validation.tasks(whole, copies, views):
        queries = edited.get(task.name, local)[task.rows]
        first = np.argsort(-task.cosines, axis=1, kind="stable")[:, :CANDIDATES]
        scores = np.stack(
            [
                verify(query, at, kept[row], at[best[row]]).score
                for query, row in track(list(zip(queries, first, strict=True)), task.name)
            ]
        )
        cosines = np.take_along_axis(task.cosines, first, axis=1)
        right = np.take_along_axis(task.right, first, axis=1)
        chosen = [(cosines + gain * scores).argmax(axis=1) for gain in GAINS]
        recall = np.array([right[np.arange(len(right)), c].mean() for c in chosen])
        sums += recall
        print(task.name, *(f"{g}: {r:.3f}" for g, r in zip(GAINS, recall, strict=True)), sep="  ")
    print("sum", *(f"{g}: {r:.3f}" for g, r in zip(GAINS, sums, strict=True)), sep="  ")


if __name__ == "__main__":
    main()
