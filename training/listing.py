"""Lists the training photos and splits them by instance: WORK/photos.csv.

Clothing is split by contributor (one person photographs the same clothes before the same wall),
Caltech-101 by category, since its photos have no instance labels. So validation uses garments of
unseen contributors, and unseen categories. Contributors of the benchmark's test split are excluded;
the sets `grocery` and `copies` are never listed.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

COLUMNS = ("path", "source", "label", "instance", "part")
VALIDATION_SHARE = 0.1


class Photo(NamedTuple):
    """One row: path under DATA, its set, class, instance, and train or validation."""

    path: str
    source: str
    label: str
    instance: str
    part: str


def read(work: Path, part: str | None = None) -> list[Photo]:
    """The rows that `listing.py` wrote, all or those of one part."""
    with (work / "photos.csv").open(encoding="utf-8", newline="") as file:
        photos = [Photo(**row) for row in csv.DictReader(file)]
    return [photo for photo in photos if part in (None, photo.part)]


def clothing(folder: Path, rng: np.random.Generator) -> list[Photo]:
    """Clothing split by contributor, without those of the benchmark."""
    rows = _rows(folder)
    benchmark = {row["sender_id"] for row in rows if row["split"] == "test"}
    rows = [row for row in rows if row["sender_id"] not in benchmark]
    return _split("clothing", rows, "sender_id", "sender_id", rng)


def caltech101(folder: Path, rng: np.random.Generator) -> list[Photo]:
    """Caltech-101 split by category; each photo is an instance of its own."""
    return _split("caltech101", _rows(folder), "label", "path", rng)


def _split(
    source: str, rows: list[dict[str, str]], by: str, instance: str, rng: np.random.Generator
) -> list[Photo]:
    """`by`: the column whose equal values stay in one part; `instance`: the column of instances."""
    held_out = _held_out([row[by] for row in rows], rng)
    return [
        Photo(
            f"{source}/{row['path']}",
            source,
            f"{source}/{row['label']}",
            f"{source}/{row[instance]}",
            "validation" if row[by] in held_out else "train",
        )
        for row in rows
    ]


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _held_out(groups: list[str], rng: np.random.Generator) -> set[str]:
    """Random groups with VALIDATION_SHARE of the rows in all; none larger than half of that."""
    sizes: dict[str, int] = defaultdict(int)
    for group in groups:
        sizes[group] += 1
    chosen: set[str] = set()
    target = VALIDATION_SHARE * len(groups)
    for group in rng.permutation(sorted(sizes)):
        if sum(sizes[g] for g in chosen) >= target:
            break
        if sizes[group] <= target / 2:
            chosen.add(str(group))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with clothing/ and caltech101/")
    parser.add_argument("work", type=Path, help="folder for the output of all training steps")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    photos = [
        *clothing(arguments.data / "clothing", rng),
        *caltech101(arguments.data / "caltech101", rng),
    ]
    arguments.work.mkdir(parents=True, exist_ok=True)
    with (arguments.work / "photos.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(photos)
    for source in ("clothing", "caltech101"):
        for part in ("train", "validation"):
            listed = [p for p in photos if (p.source, p.part) == (source, part)]
            print(
                f"{source:11} {part:11} {len(listed):5} photos, "
                f"{len({p.label for p in listed}):3} classes, "
                f"{len({p.instance for p in listed}):5} instances"
            )


if __name__ == "__main__":
    main()
