"""What geometric verification scores by chance: percentiles over pairs of different photos.

Each validation photo of Caltech-101 against its nearest neighbours by the global vector, which are
other objects, if of its kind. `evaluate.py` lets geometry lead from the 99.9th percentile on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.progress import track

import listing
from likeness.embedding import Embedder
from likeness.images import decode
from likeness.rerank.geometry import grid, verify
from likeness.settings import Limits

NEIGHBOURS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that the listing's paths start from")
    parser.add_argument("work", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--stored", type=int, default=64, help="descriptors kept of a neighbour")
    arguments = parser.parse_args()
    embedder = Embedder(arguments.bundle)
    listed = [p for p in listing.read(arguments.work, "validation") if p.source == "caltech101"]
    found = []
    for photo in track(listed, "describing"):
        image, _ = decode((arguments.data / photo.path).read_bytes(), Limits(), 224)
        found.append(embedder.describe([embedder.prepare(image)]))
    vectors = np.concatenate([d.vectors for d in found])
    local = np.concatenate([d.local for d in found if d.local is not None])
    salience = np.concatenate([d.salience for d in found if d.salience is not None])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    best = np.argsort(-salience, axis=1, kind="stable")[:, : arguments.stored]
    kept, at = np.take_along_axis(local, best[..., None], axis=1), grid(14)
    scores = []
    for row in track(range(len(listed)), "verifying"):
        near = np.argsort(-cosines[row])[:NEIGHBOURS]
        scores.append(verify(local[row], at, kept[near], at[best[near]]).score)
    for percentile in (50, 90, 99, 99.9, 99.99):
        print(f"{percentile:6} %: {np.percentile(np.concatenate(scores), percentile):.2f}")


if __name__ == "__main__":
    main()
