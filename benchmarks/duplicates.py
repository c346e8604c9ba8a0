"""Duplicates of one folder: how many of the pairs that are called so are, and how many pictures
with a duplicate get a right one.

`python benchmarks/duplicates.py DATA`: the 966 pictures of DATA/copies (originals and their edits)
among 1,500 of DATA/varied that no label calls one thing, indexed by the real indexer in the
embedded engine, in a random order. Pairs are counted twice: those of the matches that pictures
keep, and all pairs of each group. A picture pasted into another one shows both.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.embedding import Embedder
from likeness.filters import Schema
from likeness.indexing import Indexer, IndexerConfig
from likeness.proof.verdicts import load_calibration
from likeness.records import Hint, Point
from tests.fake_bucket import FakeBucket

MODEL = Path(__file__).resolve().parents[1] / "layers" / "model"
DISTRACTORS, BATCH, SEED = 1500, 10, 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path, help="the folder that holds copies/ and varied/")
    parser.add_argument("--distractors", type=int, default=DISTRACTORS)
    arguments = parser.parse_args()
    truth = {**_copies(arguments.data), **_distractors(arguments.data, arguments.distractors)}
    start = time.perf_counter()
    points = _indexed(arguments.data, list(truth))
    print(f"{len(truth)} pictures, {time.perf_counter() - start:.0f} s")
    kept = {frozenset((point.ref.key, match.key)) for point in points for match in point.partners}
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for point in points:
        if point.group:
            groups[point.group].append(point.ref.key)
    grouped = (itertools.combinations(keys, 2) for keys in groups.values())
    _report("matches kept", kept, truth)
    _report("pairs of groups", map(frozenset, itertools.chain.from_iterable(grouped)), truth)
    variants = {frozenset((p.ref.key, match.key)) for p in points for match in p.variants}
    print(f"called variants: {len(variants)} pairs")


def _copies(data: Path) -> dict[str, set[str]]:
    """The pictures that each file shows, by its path."""
    with (data / "copies" / "labels.csv").open(newline="") as file:
        return {
            f"copies/{row['path']}": {row["instance"], row["ignore"] or row["instance"]}
            for row in csv.DictReader(file)
        }


def _distractors(data: Path, count: int) -> dict[str, set[str]]:
    with (data / "varied" / "labels.csv").open(newline="") as file:
        paths = [f"varied/{row['path']}" for row in csv.DictReader(file) if not row["instance"]]
    rng = np.random.default_rng(SEED)
    return {paths[n]: {paths[n]} for n in rng.permutation(len(paths))[:count]}


def _indexed(data: Path, paths: list[str]) -> list[Point]:
    embedder, bucket = Embedder(MODEL), FakeBucket("bench")
    calibration = load_calibration(MODEL, embedder.fingerprint)
    order = np.random.default_rng(SEED).permutation(len(paths))
    with tempfile.TemporaryDirectory() as folder:
        index = EmbeddedIndex(Path(folder), Layout("bench", Schema()))
        indexer = Indexer(bucket, index, embedder, IndexerConfig(calibration=calibration))
        for n in order:
            bucket.put(paths[n], (data / paths[n]).read_bytes())
        hints = [Hint(bucket.ref(paths[n])) for n in order]
        for at in range(0, len(hints), BATCH):
            indexer.reconcile(hints[at : at + BATCH])
            print(f"\r{at + BATCH} indexed", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        points: list[Point] = []
        cursor = None
        while True:
            page = index.scroll(1000, cursor)
            points += page.points
            if (cursor := page.next_cursor) is None:
                break
        index.close()
    return points


def _report(name: str, pairs: Iterable[frozenset[str]], truth: Mapping[str, set[str]]) -> None:
    found = set(pairs)
    right = {pair for pair in found if set.intersection(*(truth[key] for key in pair))}
    sizes = Counter(picture for shown in truth.values() for picture in shown)
    possible = sum(n * (n - 1) // 2 for n in sizes.values())
    with_duplicate = [key for key, shown in truth.items() if any(sizes[p] > 1 for p in shown)]
    matched = {key for pair in right for key in pair}
    print(
        f"{name:16} {len(found):6} pairs, precision {len(right) / max(1, len(found)):.4f},"
        f" recall {len(right) / possible:.3f};"
        f" {len(matched) / len(with_duplicate):.3f} of {len(with_duplicate)} pictures with a"
        " duplicate get a right one"
    )
    for one, other in sorted(map(sorted, found - right))[:20]:
        print(f"    wrong: {one} {other}")


if __name__ == "__main__":
    main()
