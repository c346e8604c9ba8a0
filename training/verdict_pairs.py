"""Writes pairs of pictures with a known verdict, by family: WORK/pairs.csv and the files.

A pair is a picture and an edit of it, two contents of one design (variants), or two different
pictures that the bundled model finds most alike (hard negatives).
"""

from __future__ import annotations

import argparse
import csv
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import drawings
import families
from console.bundles.registry import BUNDLED_MODEL
from console.evaluation.edits import EDITS
from console.evaluation.gallery import features_of_file
from families import Picture
from likeness.embedding import Embedder
from likeness.errors import ImageError
from likeness.proof.verdicts import Level

_NEAREST = 4
_POOL = 60  # pictures of a family, at least, that are held against their nearest
_ACROSS = 4  # pairs of each family with another one
_SAME_THUMBNAIL = 0.97  # correlation from which real pictures without labels may be the same


class Pair(NamedTuple):
    """One row: two files, relative to the folder."""

    a: str
    b: str
    family: str
    kind: str
    level: str


def write_pairs(
    family: str, data: Path | None, work: Path, count: int, part: int, seed: int
) -> list[Pair]:
    """The pairs of one family, and their files."""
    pool = families.pictures(family, data, part, max(_POOL, count), seed)
    writer = _FamilyWriter(
        family, work, list(pool), np.random.default_rng((seed, part, zlib.crc32(family.encode())))
    )
    return [*writer.edits(count), *writer.variants(count), *writer.negatives()]


class _FamilyWriter:
    def __init__(
        self, family: str, work: Path, pool: list[Picture], rng: np.random.Generator
    ) -> None:
        self._family, self._work, self._pool, self._rng = family, work, pool, rng
        (work / self._folder).mkdir(parents=True, exist_ok=True)

    @property
    def _folder(self) -> str:
        return self._family.replace(" ", "_")

    def edits(self, count: int) -> Iterator[Pair]:
        for picture in self._pool[:count]:
            for edit in EDITS:
                if edit.name == "hue" and self._has_designed_colours():
                    continue
                edited = edit.make(picture.image(), self._another, self._rng)
                file = self._write(f"{picture.name}_{edit.name}.jpg", edited)
                yield Pair(self._original(picture), file, self._family, edit.name, edit.level)

    def variants(self, count: int) -> Iterator[Pair]:
        for picture in self._pool[:count]:
            for number in (1, 2) if picture.variant else ():
                assert picture.variant is not None
                file = self._write(
                    f"{picture.name}_variant{number}.png", families.png(picture.variant(number))
                )
                original = self._original(picture)
                yield Pair(original, file, self._family, "variant", Level.VARIANT)

    def negatives(self) -> Iterator[Pair]:
        vectors, kept = _vectors(self._pool)
        cosines = vectors @ vectors.T
        for n, picture in enumerate(kept):
            others = [kept[m] for m in np.argsort(-cosines[n]) if m != n]
            different = [other for other in others[: 3 * _NEAREST] if self._differ(picture, other)]
            for other in different[:_NEAREST]:
                a, b = self._original(picture), self._original(other)
                yield Pair(a, b, self._family, "nearest", Level.NONE)

    def _differ(self, one: Picture, other: Picture) -> bool:
        """Whether two pictures are surely not the same: real ones may be, without a label."""
        if one.instance and one.instance == other.instance:
            return False
        drawn = self._family in drawings.FAMILIES
        return drawn or _correlation(one.image(), other.image()) < _SAME_THUMBNAIL

    def _has_designed_colours(self) -> bool:
        family = drawings.FAMILIES.get(self._family)
        return family.varied if family else self._family in families.DESIGNED_COLOURS

    def _another(self) -> Image.Image:
        return self._pool[-1 - int(self._rng.integers(len(self._pool) // 2))].image()

    def _original(self, picture: Picture) -> str:
        suffix = "png" if picture.data.startswith(b"\x89PNG") else "jpg"
        return self._write(f"{picture.name}.{suffix}", picture.data)

    def _write(self, name: str, data: bytes) -> str:
        path = f"{self._folder}/{name.replace(' ', '_')}"
        (self._work / path).write_bytes(data)
        return path


def _vectors(pool: list[Picture]) -> tuple[NDArray[np.float32], list[Picture]]:
    """Of the pictures that the model takes."""
    embedder = Embedder(BUNDLED_MODEL)
    vectors, kept = [], []
    for picture in pool:
        try:
            vectors.append(features_of_file(embedder, picture.data)[1].vector)
        except ImageError:
            continue
        kept.append(picture)
    return np.stack(vectors), kept


def _correlation(one: Image.Image, other: Image.Image) -> float:
    a, b = (
        np.asarray(image.convert("L").resize((32, 32)), float).ravel() for image in (one, other)
    )
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(1e-9, np.linalg.norm(a) * np.linalg.norm(b)))


def _across(pairs: list[Pair], rng: np.random.Generator) -> Iterator[Pair]:
    """Originals of different families."""
    originals: dict[str, list[str]] = {}
    for pair in pairs:
        originals.setdefault(pair.family, []).append(pair.a)
    names = list(originals)
    for name in names:
        for _ in range(_ACROSS):
            other = str(rng.choice([n for n in names if n != name]))
            a, b = (str(rng.choice(originals[n])) for n in (name, other))
            yield Pair(a, b, name, "another family", Level.NONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the real pictures")
    parser.add_argument("work", type=Path, help="folder that is written")
    parser.add_argument("--per-family", type=int, default=12, help="pictures that are edited")
    parser.add_argument("--part", type=int, choices=(0, 1), default=0, help="half of the sources")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", nargs="*", help="only these")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    write = partial(
        write_pairs,
        data=options.data,
        work=options.work,
        count=options.per_family,
        part=options.part,
        seed=options.seed,
    )
    chosen = options.families or families.names(options.data)
    with ProcessPoolExecutor(options.processes) as pool:
        pairs = [pair for found in pool.map(write, chosen) for pair in found]
    pairs += _across(pairs, np.random.default_rng(options.seed))
    with (options.work / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(Pair._fields)
        rows.writerows(pairs)
    print(f"{len(pairs)} pairs of {len(chosen)} families in {options.work}")


if __name__ == "__main__":
    main()
