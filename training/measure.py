"""Prints R@1 and mAP of a bundle on labelled photos: DATA/{copies,clothing,grocery}/labels.csv."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from likeness.embedding import Embedder
from likeness.images import decode
from likeness.settings import Limits

_REPOSITORY = Path(__file__).resolve().parents[1]
_DISTRACTORS = 1500


class Photos:
    """One labelled folder: its rows as columns, and a vector for each."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        self.columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        self.vectors = np.concatenate([_vector(folder / row["path"], embedder) for row in rows])

    def where(self, split: str) -> NDArray[np.intp]:
        return np.flatnonzero(self.columns["split"] == split)


def _vector(path: Path, embedder: Embedder) -> NDArray[np.float32]:
    image, _ = decode(path.read_bytes(), Limits(), embedder.decode_size)
    return embedder.embed([embedder.prepare(image)])


def report(
    title: str,
    cosines: NDArray[np.float32],
    relevant: NDArray[np.bool_],
    ignored: NDArray[np.bool_] | None = None,
) -> None:
    """Queries × gallery → one line. `ignored` pairs count neither as hits nor as misses."""
    if ignored is not None:
        cosines, relevant = np.where(ignored, -2, cosines), relevant & ~ignored
    order = np.argsort(-cosines, axis=1, kind="stable")
    hits = np.take_along_axis(relevant, order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, hits.shape[1] + 1)
    average = (precision * hits).sum(axis=1) / np.maximum(hits.sum(axis=1), 1)
    print(
        f"{title:45} queries {len(hits):4}  R@1 {hits[:, 0].mean():.3f}  mAP {average.mean():.3f}"
    )


def test_to_train(title: str, photos: Photos) -> None:
    queries, gallery = photos.where("test"), photos.where("train")
    labels = photos.columns["label"]
    cosines = photos.vectors[queries] @ photos.vectors[gallery].T
    report(title, cosines, labels[queries, None] == labels[gallery])


def edited_copies(copies: Photos, others: NDArray[np.float32]) -> None:
    """Only originals with an odd number: the weights were chosen on the even ones."""
    instances, ignore = copies.columns["instance"], copies.columns["ignore"]
    queries, gallery = copies.where("query"), copies.where("gallery")
    queries = queries[instances[queries].astype(int) % 2 == 1]
    for title, extra in (("copies", others[:0]), ("copies, clothing as distractors", others)):
        cosines = copies.vectors[queries] @ np.concatenate([copies.vectors[gallery], extra]).T
        names = np.concatenate([instances[gallery], np.full(len(extra), "none")])
        report(title, cosines, instances[queries, None] == names, ignore[queries, None] == names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with copies/, clothing/ and grocery/")
    parser.add_argument("--model", type=Path, default=_REPOSITORY / "layers" / "model")
    arguments = parser.parse_args()
    embedder = Embedder(arguments.model)
    copies, clothing, grocery = (
        Photos(arguments.data / name, embedder) for name in ("copies", "clothing", "grocery")
    )
    shuffled = np.random.default_rng(0).permutation(clothing.where("train"))
    edited_copies(copies, clothing.vectors[shuffled[:_DISTRACTORS]])
    test_to_train("clothing, test to train", clothing)
    test_to_train("grocery, test to train", grocery)


if __name__ == "__main__":
    main()
