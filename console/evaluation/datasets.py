"""Datasets that `likeness evaluate` and `likeness calibrate` read: images with their labels."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from likeness.feeding import IMAGE_SUFFIXES

from ..indexing.uploads import image_files

# Names of splits whose rows are queries, and of those whose rows are searched.
QUERIES = frozenset({"query", "test"})
GALLERY = frozenset({"gallery", "train", "iconic"})


class DatasetError(RuntimeError):
    """The dataset cannot be used; the message says what to do."""


class Item(NamedTuple):
    """One image. label: its class; instance: the individual object that it shows; split: as in a
    CSV; ignore: an instance in its background, which counts neither as right nor as wrong. family:
    the kind of picture, such as photo or invoice; design: images of one are variants of each other.
    """

    path: Path
    label: str | None
    instance: str | None
    split: str | None
    ignore: str | None = None
    family: str | None = None
    design: str | None = None


def load(dataset: Path, split: str | None = None) -> list[Item]:
    """A folder of images, a folder for each class, or a CSV; with `split`, only its rows.

    A CSV has a header: path, relative to the CSV's folder, and any of label, instance (or product),
    split, ignore, family, design; other columns are ignored. A single folder is not a class; if all
    folders are named like splits (train/, test/), those inside them are the classes. Raises
    DatasetError.
    """
    if dataset.is_dir():
        items = _from_folder(dataset)
    elif dataset.suffix.lower() == ".csv" and dataset.is_file():
        items = _from_csv(dataset)
    else:
        raise DatasetError(f"{dataset} is neither a folder nor a .csv file")
    if not items:
        raise DatasetError(f"{dataset} contains no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    if split is None:
        return items
    if kept := [item for item in items if item.split == split]:
        return kept
    found = sorted({item.split for item in items if item.split})
    raise DatasetError(f"{dataset} has no split {split}; it has {', '.join(found) or 'none'}")


def divided(dataset: Path, split: str | None = None) -> tuple[list[Item], list[Item]]:
    """Queries and gallery, by the names of the splits (QUERIES, GALLERY).

    Without such names, the same list twice: each image is then searched among the others. The same
    holds for one `split` (test); two (test:iconic) are queries and gallery. Raises DatasetError.
    """
    if split is not None and ":" in split:
        first, _, second = split.partition(":")
        return load(dataset, first), load(dataset, second)
    items = load(dataset, split)
    queries = [item for item in items if item.split in QUERIES]
    gallery = [item for item in items if item.split in GALLERY]
    return (queries, gallery) if queries and gallery else (items, items)


def _from_folder(folder: Path) -> list[Item]:
    paths = image_files(folder)
    places = [path.relative_to(folder).parts[:-1] for path in paths]
    splits: list[str | None] = [None] * len(paths)
    if places and all(place and place[0] in QUERIES | GALLERY for place in places):
        splits = [place[0] for place in places]
        places = [place[1:] for place in places]
    classes = [place[0] if place else None for place in places]
    has_classes = len(set(classes)) > 1
    return [
        Item(path, label if has_classes else None, None, split)
        for path, label, split in zip(paths, classes, splits, strict=True)
    ]


def _from_csv(file: Path) -> list[Item]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            columns = rows.fieldnames or ()
            if "path" not in columns:
                raise DatasetError(
                    f"{file} needs a column named path, and any of label, instance, split; "
                    f"it has {', '.join(columns) or 'no header'}"
                )
            items = [_from_row(file, rows.line_num, row) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{file} cannot be read as a CSV in UTF-8: {error}") from error
    _check_files(file, (item.path for item in items))
    return items


def _from_row(file: Path, line: int, row: Mapping[str, str | None]) -> Item:
    if not row["path"]:
        raise DatasetError(f"{file}, line {line}: no path")
    instance = row.get("instance") or row.get("product")
    label, *others = (
        row.get(name) or None for name in ("label", "split", "ignore", "family", "design")
    )
    return Item(file.parent / row["path"], label, instance or None, *others)


def _check_files(file: Path, paths: Iterable[Path]) -> None:
    named = Counter(paths)
    if missing := [path for path in named if not path.is_file()]:
        raise DatasetError(f"{file} names {len(missing)} missing files, the first {missing[0]}")
    path, times = named.most_common(1)[0] if named else (None, 0)
    if times > 1:
        raise DatasetError(f"{file} names {path} {times} times: use one row for each image")
