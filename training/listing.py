"""Lists the pictures and splits them by instance: WORK/photos.csv.

Clothing is split by contributor (one person photographs the same clothes before the same wall),
Caltech-101 by category, since its photos have no instance labels. So validation uses garments of
unseen contributors, and unseen categories. Contributors of the benchmark's test split are excluded;
the sets `grocery` and `copies` are never listed. `varied` is split by source: some sources
validate, others only judge (part `test`), among them all whose licence is ShareAlike, which could
ask something of weights that learnt from them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

COLUMNS = ("path", "source", "label", "instance", "part")
VALIDATION_SHARE = 0.1
# Of `varied`, by the hash of a source's name: percent that judge, percent that validate.
_TEST_PERCENT, _VALIDATION_PERCENT = 15, 10
# Sources with several pictures of one thing, or with rooms, are few: these are assigned by name.
_VARIED_PARTS = {
    "saleor/saleor": "test",
    "solidusio/solidus": "test",
    "spree/spree": "test",
    "spothq/cryptocurrency-icons": "test",
    "technext/interior": "test",
    "technext/royalestate": "test",
    "technext/homeland": "test",
    "devicons/devicon": "validation",
    "technext/stayhome": "validation",
    "technext/findstate": "validation",
    "apache/echarts-www": "validation",
    "GITenberg/British-Castles_40630": "validation",
    "technext/aranoz": "validation",
    "technext/amado": "validation",
    "microsoft/TailwindTraders-Backend": "train",
    "googlefonts/noto-emoji": "train",
}
# Labels of `varied` that name one kind of thing; the others (`painting`, `web_photo`) are no class.
_SPECIFIC = ("fruit_", "home_", "card_", "flower_", "sci_", "contoso_", "part_", "jet_")


class Photo(NamedTuple):
    """One row: path under DATA, its set, class, instance, and train, validation or test.

    Where nothing says that two pictures show one class or one thing, label and instance are the
    path.
    """

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


def varied(folder: Path) -> list[Photo]:
    """The varied pictures split by source. `source` is the kind: drawing, product, place …"""
    return [
        Photo(
            path := f"varied/{row['path']}",
            f"varied {row['kind']}",
            f"varied/{row['label']}" if row["label"].startswith(_SPECIFIC) else path,
            f"varied/{row['instance']}" if row["instance"] else path,
            _varied_part(row["source"], row["licence"]),
        )
        for row in _rows(folder)
    ]


def _varied_part(source: str, licence: str) -> str:
    if "SA" in licence:
        return "test"
    if source in _VARIED_PARTS:
        return _VARIED_PARTS[source]
    percent = int(hashlib.sha256(source.encode()).hexdigest(), 16) % 100
    if percent < _TEST_PERCENT:
        return "test"
    return "validation" if percent < _TEST_PERCENT + _VALIDATION_PERCENT else "train"


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
    parser.add_argument("data", type=Path, help="folder with clothing/, caltech101/, varied/")
    parser.add_argument("work", type=Path, help="folder for the output of all training steps")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    photos = [
        *clothing(arguments.data / "clothing", rng),
        *caltech101(arguments.data / "caltech101", rng),
        *varied(arguments.data / "varied"),
    ]
    arguments.work.mkdir(parents=True, exist_ok=True)
    with (arguments.work / "photos.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(photos)
    for source in dict.fromkeys(photo.source for photo in photos):
        for part in ("train", "validation", "test"):
            listed = [p for p in photos if (p.source, p.part) == (source, part)]
            print(
                f"{source:15} {part:11} {len(listed):5} photos, "
                f"{len({p.label for p in listed}):3} classes, "
                f"{len({p.instance for p in listed}):5} instances"
            )


if __name__ == "__main__":
    main()
