"""Families of pictures that verdicts are judged by: drawn ones, and real ones from a data folder.

Two pictures of one family look alike and are different: what verdicts must tell apart. `part` 0 and
1 share no source: no book, shop, contributor, category, product or seed.
"""

from __future__ import annotations

import argparse
import csv
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import drawings
from console.evaluation.edits import START_SIDE
from likeness.images import decode
from likeness.settings import Limits

Variant = Callable[[int], Image.Image]
Row = dict[str, str]
Belongs = Callable[[Row], bool]

_PICTURES_OF_A_PART = 100_000  # drawn pictures of part 0 have smaller numbers
_COLOURFUL = 40  # of 255: saturation from which a pixel belongs to what a variant recolours


class Picture(NamedTuple):
    """One picture of a family.

    data: its file. instance: equal for two pictures of one thing, label: for two of one class, or
    "". variant(n): another picture of the same design; None where the family has no variants.
    """

    name: str
    data: bytes
    instance: str = ""
    label: str = ""
    variant: Variant | None = None

    def image(self) -> Image.Image:
        return decode(self.data, Limits(), START_SIDE)[0]


class _Listed(NamedTuple):
    """A family of pictures that labels.csv of one folder lists."""

    folder: str
    source: str  # the column of which parts share no value
    belongs: Belongs
    recolourable: bool = False
    instance: str = "instance"  # the columns that name the thing, and its class
    label: str = ""


def _of_kind(kind: str, *without: str) -> Belongs:
    return lambda row: row["kind"] == kind and row["label"] not in without


def _labelled(*labels: str) -> Belongs:
    return lambda row: row["label"] in labels


def _grocery(department: str) -> _Listed:
    """Photos in a shop and the catalogue's pictures of the same products."""
    return _Listed(
        *("grocery", "label", lambda row: row["dept"] == department),
        instance="label",
        label="coarse",
    )


_ENGRAVINGS = ("technical_drawing", "technical_engraving", "mechanical_drawing", "engraving")
_REAL = {
    "photo": _Listed("copies", "instance", lambda row: row["edit"] == "orig"),
    "caltech photo": _Listed("caltech101", "label", lambda row: True, label="label"),
    "web photo": _Listed("varied", "source", _of_kind("photo", "night")),
    "night photo": _Listed("varied", "path", _labelled("night")),
    "product": _Listed("varied", "source", _of_kind("product"), recolourable=True),
    "packaging": _Listed("grocery", "label", lambda row: row["split"] == "iconic"),
    "packages in a shop": _grocery("Packages"),
    "fruit in a shop": _grocery("Fruit"),
    "vegetables in a shop": _grocery("Vegetables"),
    "painting": _Listed("varied", "source", _of_kind("art")),
    "engraving": _Listed("varied", "source", _labelled(*_ENGRAVINGS, "insect_engraving")),
    "drawing": _Listed("varied", "source", _of_kind("drawing", *_ENGRAVINGS)),
    "logo": _Listed("varied", "source", _of_kind("logo", "flag"), recolourable=True),
    "flag": _Listed("varied", "path", _labelled("flag")),
    "book page": _Listed("varied", "source", _labelled("book_page", "sheet_music", "map")),
    "screenshot": _Listed("varied", "source", _labelled("screenshot")),
    "plotted chart": _Listed("varied", "path", _labelled("chart")),
    "place": _Listed("varied", "source", _of_kind("place")),
    "clothing": _Listed(
        "clothing", "sender_id", lambda row: row["split"] == "train", label="label"
    ),
}
# Labels of `varied` that name one kind of thing; the others (`painting`, `web_photo`) are no class.
_SPECIFIC = ("fruit_", "home_", "card_", "flower_", "sci_", "contoso_", "part_", "jet_")
DARK = "dark photo"
REAL = (*_REAL, DARK)
# A picture of these in other hues is a variant, so that no hue shift of it is an edit.
DESIGNED_COLOURS = ("product", "logo", "flag", "clothing", "packaging")


def names(data: Path | None) -> list[str]:
    return [*drawings.FAMILIES, *(REAL if data else ())]


def pictures(
    family: str, data: Path | None, part: int, count: int, seed: int, partners: bool = False
) -> Sequence[Picture]:
    """Up to `count` pictures of one part of a family, the same for one seed.

    partners: whether pictures of one thing come together, as far as there are such.
    """
    if family in drawings.FAMILIES:
        first = part * _PICTURES_OF_A_PART + seed * 1000
        return [_drawn(family, first + n) for n in range(count)]
    if data is None:
        raise ValueError(f"{family}: real pictures need a data folder")
    if family == DARK:
        return [_darkened(p) for p in pictures("caltech photo", data, part, count, seed + 1)]
    listed = _REAL[family]
    with (data / listed.folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if listed.belongs(row)]
    own = [row for row in rows if zlib.crc32(row[listed.source].encode()) % 2 == part]
    rng = np.random.default_rng(seed)
    shuffled = [own[n] for n in rng.permutation(len(own))]
    chosen = _with_partners(shuffled, listed.instance)[:count] if partners else shuffled[:count]
    return [_real(data / listed.folder, row, listed) for row in chosen]


def _with_partners(rows: list[Row], instance: str) -> list[Row]:
    """Each row followed by another of its instance, if there is one."""
    ordered: dict[str, Row] = {}
    for row in rows:
        same = [other for other in rows if row[instance] and other[instance] == row[instance]]
        ordered |= {each["path"]: each for each in (row, *same[:2])}
    return list(ordered.values())


def _drawn(family: str, number: int) -> Picture:
    varied = drawings.FAMILIES[family].varied

    def variant(content: int) -> Image.Image:
        return drawings.drawn(family, number, content)

    data = png(drawings.drawn(family, number))
    return Picture(str(number), data, str(number), variant=variant if varied else None)


def _real(folder: Path, row: Row, listed: _Listed) -> Picture:
    data = (folder / row["path"]).read_bytes()
    kind = row.get("label", "")
    label = kind if kind.startswith(_SPECIFIC) else row.get(listed.label, "")
    picture = Picture(Path(row["path"]).stem, data, row[listed.instance], label)
    image = picture.image()
    if not listed.recolourable or _colourful(image).mean() < 0.05:
        return picture
    return picture._replace(variant=lambda n: recoloured(image, n))


def _colourful(image: Image.Image) -> NDArray[np.bool_]:
    return np.asarray(image.convert("HSV"))[..., 1] > _COLOURFUL


def recoloured(image: Image.Image, number: int) -> Image.Image:
    """What is coloured in another hue, at least 60° away; grey and white stay."""
    rng = np.random.default_rng((zlib.crc32(image.tobytes()), number))
    pixels = np.array(image.convert("HSV"))
    pixels[..., 0] += np.uint8(rng.integers(43, 213))
    return Image.fromarray(pixels, "HSV").convert("RGB")


def _darkened(picture: Picture) -> Picture:
    """As a camera takes it at night: less light, more noise."""
    rng = np.random.default_rng(zlib.crc32(picture.data))
    light = np.asarray(picture.image(), float) / 255
    dark = 255 * rng.uniform(0.12, 0.35) * light ** rng.uniform(1, 1.8)
    noisy = dark + rng.normal(0, rng.uniform(1, 5), dark.shape)
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return Picture(picture.name, png(image), picture.instance)


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def write_dataset(data: Path | None, work: Path, count: int, part: int, seed: int) -> Path:
    """Pictures of all families, as `likeness calibrate` reads them: WORK/pictures.csv."""
    file = work / "pictures.csv"
    work.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(("path", "label", "instance", "family", "design"))
        for family in names(data):
            folder = family.replace(" ", "_")
            (work / folder).mkdir(exist_ok=True)
            for picture in pictures(family, data, part, count, seed, partners=True):
                instance = picture.instance and f"{folder} {picture.instance}"
                design = f"{folder} {picture.name}" if picture.variant else ""
                for name, content in _files(picture):
                    (work / folder / name).write_bytes(content)
                    path = f"{folder}/{name}"
                    rows.writerow((path, picture.label, instance, family, design))
    return file


def _files(picture: Picture) -> Iterator[tuple[str, bytes]]:
    """The picture, and every fourth's variant."""
    suffix = "png" if picture.data.startswith(b"\x89PNG") else "jpg"
    yield f"{picture.name}.{suffix}", picture.data
    if picture.variant and zlib.crc32(picture.data) % 4 == 0:
        yield f"{picture.name}_variant.png", png(picture.variant(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the real pictures")
    parser.add_argument("work", type=Path, help="folder that is written")
    parser.add_argument("--per-family", type=int, default=60)
    parser.add_argument("--part", type=int, choices=(0, 1), default=0, help="half of the sources")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(write_dataset(options.data, options.work, options.per_family, options.part, options.seed))


if __name__ == "__main__":
    main()
