"""Compares models on photos that training never saw: prints tables, writes WORK/evaluation.json.

Rows: our bundle, as shipped and with --float before quantisation; an earlier bundle; the networks
of MODELS; fixed filters; perceptual hashes. Models with local descriptors have further rows, with
geometric verification of the first 50 candidates. Columns: the tasks; those on varied pictures use
sources that training never saw (`listing.py`). Vectors are cached in WORK/vectors, so that a second
run takes seconds.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import imagehash
import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

import listing
from console.demo.sample_images import jpeg
from console.evaluation.edits import EDITS
from console.evaluation.metrics import Estimate, Ranking, estimate, rank
from likeness.descriptor_packing import cell_positions
from likeness.embedding import BatchFeatures, Embedder
from likeness.errors import NoDetail
from likeness.proof.geometry import verify
from likeness.settings import Limits

_REPOSITORY = Path(__file__).resolve().parents[1]
BUNDLED = _REPOSITORY / "layers" / "model"
FIXED_FILTERS = _REPOSITORY / "tests" / "models" / "fixed-filters"
RERANKED = 50
STORED = 64  # descriptors per image that the index would store: the most salient
GEOMETRY_GAIN = 0.1  # weight of the geometric score relative to the cosine; see `geometry_gain.py`
_SETS = ("grocery", "copies", "clothing", "varied", "edits")
_EDITS = "edits"  # of the varied pictures: made here, in WORK
_FEWEST_SOURCES = 5  # below, intervals come from resampling pictures
_ROOMS = {f"technext/{name}" for name in ("interior", "royalestate", "homeland")}
# Clothing photos that copies/ uses as backgrounds: as distractors they would be correct answers.
_BACKGROUNDS = {f"images/{n}.jpg" for n in ("00641", "03471", "03642", "04326", "04541", "04725")}
_HASHES: dict[str, Callable[[Image.Image], imagehash.ImageHash]] = {
    "pHash": imagehash.phash,
    "dHash": imagehash.dhash,
    "wHash": imagehash.whash,
}
_FLOAT: dict[str, Any] = {
    "input": {"name": "image", "height": 224, "width": 224},
    "normalise": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
_QUANTISED: dict[str, Any] = {
    "input": {"name": "input", "height": 224, "width": 224, "layout": "NHWC", "dtype": "uint8"},
    "normalise": {},
}
PEERS: dict[str, tuple[int, dict[str, Any]]] = {
    "mobilenetv2_fp32": (1280, _FLOAT),
    "mobilenetv2_int8": (1280, _QUANTISED),
    "mobilenetv1_int8": (1024, _QUANTISED),
    "squeezenet1.1_fp32": (512, _FLOAT),
}


class Task(NamedTuple):
    """Queries and gallery as rows of their sets, the relevant pairs, and the groups to resample."""

    name: str
    queries: tuple[str, NDArray[np.intp]]
    gallery: list[tuple[str, NDArray[np.intp]]]
    relevant: NDArray[np.bool_]
    ignored: NDArray[np.bool_] | None
    groups: NDArray[np.str_]


class SetFeatures(NamedTuple):
    """Features of one set: unit rows (N, D); local (N, 196, d) and salience, or None."""

    vectors: NDArray[np.float32]
    local: NDArray[np.float32] | None
    salience: NDArray[np.float32] | None


def tasks(data: Path, work: Path) -> list[Task]:
    """The tasks of the data's README, on held-out photos only, and those on varied pictures."""
    grocery, copies, clothing = (
        _columns(data / name) for name in ("grocery", "copies", "clothing")
    )
    test, train, iconic = (_rows(grocery, "split", s) for s in ("test", "train", "iconic"))
    cartons = [rows[grocery["dept"][rows] == "Packages"] for rows in (test, train, iconic)]

    def products(name: str, queries: NDArray[np.intp], gallery: NDArray[np.intp]) -> Task:
        label = grocery["label"]
        relevant = label[queries, None] == label[gallery]
        return Task(
            name, ("grocery", queries), [("grocery", gallery)], relevant, None, label[queries]
        )

    return [
        _clothing(clothing),
        products("grocery: photo → photos", test, train),
        products("cartons: photo → photos", cartons[0], cartons[1]),
        products("grocery: photo → catalogue", test, iconic),
        products("cartons: photo → catalogue", cartons[0], cartons[2]),
        _copies(copies, clothing),
        *_varied(data / "varied", _columns(work / _EDITS)),
    ]


def _varied(folder: Path, edits: dict[str, NDArray[np.str_]]) -> list[Task]:
    """Several pictures of one thing, one picture left out; and an edit of a picture → the picture,
    by kind. The gallery is all varied pictures that judge.
    """
    varied = _columns(folder)
    parts = {photo.path.removeprefix("varied/"): photo for photo in listing.varied(folder)}
    judging = np.array([parts[path].part == "test" for path in varied["path"]])
    gallery = np.flatnonzero(judging)
    instances = varied["instance"]
    counted = dict(zip(*np.unique(instances[gallery], return_counts=True), strict=True))
    rows = np.array([n for n in gallery if instances[n] and counted[instances[n]] > 1], np.intp)
    found = [
        Task(
            "varied: one thing",
            ("varied", rows),
            [("varied", gallery)],
            instances[rows, None] == instances[gallery],
            rows[:, None] == gallery,
            instances[rows],
        )
    ]
    sources = dict(zip(varied["path"], varied["source"], strict=True))
    rooms = np.array([sources[path] in _ROOMS for path in edits["original"]])
    kinds = np.where(rooms, "room", edits["kind"])
    for kind in sorted(set(kinds)):
        rows = np.flatnonzero(kinds == kind)
        original = edits["original"][rows]
        # other pictures of the same thing are no mistake
        thing = np.array([parts[path].instance for path in original])
        things = np.array([parts[path].instance for path in varied["path"][gallery]])
        right = original[:, None] == varied["path"][gallery]
        same = (thing[:, None] == things) & ~right
        groups = np.array([sources[path] for path in original])
        groups = original if len(set(groups)) < _FEWEST_SOURCES else groups
        found.append(
            Task(f"edited {kind}", ("edits", rows), [("varied", gallery)], right, same, groups)
        )
    return found


def make_edits(data: Path, work: Path) -> None:
    """Write WORK/edits: for each varied picture that judges one edit of those that `likeness
    calibrate` knows, and a photo of it in a scene, dim and noisy.
    """
    folder = work / _EDITS
    if (folder / "labels.csv").exists():
        return
    (folder / "images").mkdir(parents=True, exist_ok=True)
    chosen = [photo for photo in listing.varied(data / "varied") if photo.part == "test"]
    scene = next(edit for edit in EDITS if edit.name == "in a scene")
    rng, rows = np.random.default_rng(0), []

    def another() -> Image.Image:
        return Image.open(data / chosen[rng.integers(len(chosen))].path).convert("RGB")

    for number, photo in enumerate(track(chosen, "editing")):
        image = Image.open(data / photo.path).convert("RGB")
        edit = EDITS[rng.integers(len(EDITS))]
        placed = Image.open(io.BytesIO(scene.make(image, another, rng))).convert("RGB")
        for name, file in ((edit.name, edit.make(image, another, rng)), ("dim", _dim(placed, rng))):
            path = f"images/{number:05}-{name.replace(' ', '-')}.jpg"
            (folder / path).write_bytes(file)
            original = photo.path.removeprefix("varied/")
            kind = photo.source.removeprefix("varied ")
            rows.append({"path": path, "original": original, "edit": name, "kind": kind})
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _dim(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Two to five times darker, with noise, as a phone's photo of a thing at night."""
    pixels = np.asarray(image) * rng.uniform(0.2, 0.5)
    noisy = np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
    return jpeg(Image.fromarray(noisy), int(rng.integers(50, 95)))


def _clothing(columns: dict[str, NDArray[np.str_]]) -> Task:
    queries, gallery = _rows(columns, "split", "test"), _rows(columns, "split", "train")
    label = columns["label"]
    return Task(
        "clothing: class, other contributors",
        ("clothing", queries),
        [("clothing", gallery)],
        label[queries, None] == label[gallery],
        None,
        columns["sender_id"][queries],
    )


def _copies(copies: dict[str, NDArray[np.str_]], clothing: dict[str, NDArray[np.str_]]) -> Task:
    """Distractors are all photos of the contributors whom training never saw."""
    queries, gallery = _rows(copies, "split", "query"), _rows(copies, "split", "gallery")
    unseen = set(clothing["sender_id"][clothing["split"] == "test"])
    others = np.flatnonzero(
        np.isin(clothing["sender_id"], sorted(unseen))
        & ~np.isin(clothing["path"], sorted(_BACKGROUNDS))
    )
    names = np.concatenate([copies["instance"][gallery], np.full(len(others), "none")])
    return Task(
        "edited copies → originals, distractors",
        ("copies", queries),
        [("copies", gallery), ("clothing", others)],
        copies["instance"][queries, None] == names,
        copies["ignore"][queries, None] == names,
        copies["instance"][queries],
    )


def _columns(folder: Path) -> dict[str, NDArray[np.str_]]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _rows(columns: dict[str, NDArray[np.str_]], name: str, value: str) -> NDArray[np.intp]:
    return np.flatnonzero(columns[name] == value)


def extract(folder: Path, embedder: Embedder, title: str) -> SetFeatures:
    """Features of all photos of one set, as the service would extract them; zeros, which find
    nothing, for one that the service refuses because it is too flat.
    """
    found: list[BatchFeatures | None] = []
    for path in track(_columns(folder)["path"], f"{title}, {folder.name}", transient=True):
        image, _ = embedder.decode((folder / path).read_bytes(), Limits())
        try:
            tensor = embedder.to_tensor(image)
        except NoDetail:
            found.append(None)
        else:
            found.append(embedder.extract([tensor]))
    some = next(features for features in found if features)
    nothing = BatchFeatures(*(None if v is None else np.zeros_like(v) for v in some))
    filled = [features or nothing for features in found]
    local = salience = None
    if embedder.spec.local:
        local = np.concatenate([d.local for d in filled if d.local is not None])
        salience = np.concatenate([d.salience for d in filled if d.salience is not None])
    return SetFeatures(np.concatenate([d.vectors for d in filled]), local, salience)


def hash_images(
    folder: Path, hash_image: Callable[[Image.Image], imagehash.ImageHash]
) -> SetFeatures:
    """Bits as ±1, scaled to unit rows: their cosine falls as the Hamming distance grows."""
    rows = [
        np.where(hash_image(Image.open(folder / path).convert("RGB")).hash.ravel(), 1, -1)
        for path in track(_columns(folder)["path"], f"hashes, {folder.name}", transient=True)
    ]
    bits = np.array(rows, np.float32)
    return SetFeatures(bits / np.sqrt(np.float32(bits.shape[1])), None, None)


def measure(task: Task, sets: dict[str, SetFeatures], stored: int | None) -> Ranking:
    """The task's metrics. Geometry uses the `stored` most salient descriptors of a gallery image;
    with None there is no geometry.
    """
    query_set, queries = task.queries
    gallery = [_part(sets[name], rows) for name, rows in task.gallery]
    scores = sets[query_set].vectors[queries] @ np.concatenate([g.vectors for g in gallery]).T
    if stored is not None:
        kept, kept_at = zip(*(_most_salient(g, stored) for g in gallery), strict=True)
        scores = _verified(
            scores, _part(sets[query_set], queries), np.concatenate(kept), np.concatenate(kept_at)
        )
    return rank(scores, task.relevant, task.ignored)


def _part(features: SetFeatures, rows: NDArray[np.intp]) -> SetFeatures:
    return SetFeatures(*(None if values is None else values[rows] for values in features))  # type: ignore[arg-type]


def _most_salient(
    gallery: SetFeatures, stored: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The most salient descriptors (N, stored, d) and their positions (N, stored, 2)."""
    assert gallery.local is not None
    assert gallery.salience is not None
    best = np.argsort(-gallery.salience, axis=1, kind="stable")[:, :stored]
    at = cell_positions(round(gallery.local.shape[1] ** 0.5))
    return np.take_along_axis(gallery.local, best[..., None], axis=1), at[best]


def _verified(
    scores: NDArray[np.float32],
    queries: SetFeatures,
    kept: NDArray[np.float32],
    kept_at: NDArray[np.float32],
) -> NDArray[np.float32]:
    assert queries.local is not None
    at = cell_positions(round(queries.local.shape[1] ** 0.5))
    fused = scores.copy()
    for row, query in enumerate(queries.local):
        first = np.argsort(-scores[row], kind="stable")[:RERANKED]
        found = verify(query, at, kept[first], kept_at[first])
        fused[row, first] += GEOMETRY_GAIN * found.score
    return fused


def peer_bundle(folder: Path, network: Path) -> Path:
    """A bundle of a teacher's network, with the centre crop that it was trained with."""
    dim, fields = PEERS[network.stem]
    data = network.read_bytes()
    (folder / network.name).write_bytes(data)
    manifest = fields | {
        "name": network.stem,
        "version": "1",
        "licence": "Apache-2.0",
        "source": "a teacher",
        "files": {network.name: hashlib.sha256(data).hexdigest()},
        "image_file": network.name,
        "resize": {"rule": "crop", "short_side": 224},
        "embedding": {"name": "embedding", "dim": dim},
    }
    (folder / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def float_bundle(folder: Path, bundle: Path, network: Path) -> Path:
    """Our bundle with the network before quantisation."""
    manifest = json.loads((bundle / "model.json").read_text(encoding="utf-8"))
    data = network.read_bytes()
    (folder / "image.onnx").write_bytes(data)
    manifest["files"] = {"image.onnx": hashlib.sha256(data).hexdigest()}
    (folder / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


class Vectors:
    """Features of every set by each method, cached by the model's fingerprint."""

    def __init__(self, data: Path, work: Path) -> None:
        self._cache = work / "vectors"
        self._cache.mkdir(parents=True, exist_ok=True)
        self._folders = {name: (work if name == _EDITS else data) / name for name in _SETS}

    def of_bundle(self, title: str, folder: Path) -> dict[str, SetFeatures]:
        embedder = Embedder(folder, os.cpu_count() or 1)
        return {
            name: self._cached(
                f"{embedder.fingerprint}-{name}",
                lambda name=name: extract(self._folders[name], embedder, title),  # type: ignore[misc]
            )
            for name in _SETS
        }

    def of_hash(self, title: str) -> dict[str, SetFeatures]:
        return {
            name: self._cached(
                f"{title}-{name}",
                lambda name=name: hash_images(self._folders[name], _HASHES[title]),  # type: ignore[misc]
            )
            for name in _SETS
        }

    def _cached(self, key: str, compute: Callable[[], SetFeatures]) -> SetFeatures:
        path = self._cache / f"{key}.npz"
        if not path.exists():
            found = {k: v for k, v in compute()._asdict().items() if v is not None}
            partial = path.with_name(f"partial-{path.name}")
            np.savez(partial, **found)
            partial.rename(path)
        arrays = np.load(path)
        return SetFeatures(*(arrays.get(f) for f in SetFeatures._fields))


class Cell(msgspec.Struct):
    """One method on one task."""

    method: str
    task: str
    queries: int
    r_at_1: Estimate
    r_at_5: Estimate
    mean_ap: Estimate


def cells(title: str, sets: dict[str, SetFeatures], listed: list[Task]) -> list[Cell]:
    """A model with local descriptors has three rows: the vector alone, and geometry with all
    descriptors or with those that the index would store.
    """
    variants: list[tuple[str, int | None]] = [(title, None)]
    local = sets["grocery"].local
    if local is not None:
        variants += [
            (f"{title} + geometry", local.shape[1]),
            (f"{title} + geometry, {STORED}", STORED),
        ]
    found = []
    for name, stored in variants:
        for task in track(listed, name, transient=True):
            ranking = measure(task, sets, stored)
            shown = (ranking.at_1, ranking.at_5, ranking.average_precision)
            estimates = [estimate(values, task.groups) for values in shown]
            found.append(Cell(name, task.name, len(task.groups), *estimates))
    return found


def table(found: list[Cell], title: str, value: Callable[[Cell], Estimate]) -> str:
    """Markdown: a row per method, a column per task, and the mean; one metric with its interval."""
    names = list(dict.fromkeys(cell.task for cell in found))
    lines = [f"| {title} | {' | '.join(names)} | mean |", "|---" * (len(names) + 2) + "|"]
    for method in dict.fromkeys(cell.method for cell in found):
        row = {cell.task: value(cell) for cell in found if cell.method == method}
        mean = np.mean([row[name].mean for name in names])
        shown = " | ".join(_short(row[name]) for name in names)
        lines.append(f"| {method} | {shown} | {mean:.3f} |".replace("| 0.", "| ."))
    return "\n".join(lines)


def _short(value: Estimate) -> str:
    return f"{value.mean:.3f} [{value.low:.2f}, {value.high:.2f}]".replace("0.", ".")


def tables(found: list[Cell]) -> str:
    """R@1, R@5 and mAP of all methods on all tasks."""
    return "\n\n".join(
        [
            table(found, "R@1", lambda cell: cell.r_at_1),
            table(found, "R@5", lambda cell: cell.r_at_5),
            table(found, "mAP", lambda cell: cell.mean_ap),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with grocery/, copies/, clothing/, varied/")
    parser.add_argument("work", type=Path, help="folder for vectors and evaluation.json")
    parser.add_argument("--models", type=Path, help="folder with the teachers' .onnx files")
    parser.add_argument("--bundle", type=Path, default=BUNDLED, help="(default: the bundled model)")
    parser.add_argument(
        "--earlier", type=Path, metavar="BUNDLE", help="folder of an earlier bundle, as a row"
    )
    parser.add_argument(
        "--float", type=Path, metavar="ONNX", help="our network before quantisation"
    )
    parser.add_argument("--ours", action="store_true", help="only our own model")
    arguments = parser.parse_args()
    make_edits(arguments.data, arguments.work)
    vectors, listed = Vectors(arguments.data, arguments.work), tasks(arguments.data, arguments.work)
    found: list[Cell] = []
    with tempfile.TemporaryDirectory() as scratch:
        if not arguments.ours:
            for title in _HASHES:
                found += cells(title, vectors.of_hash(title), listed)
            found += cells(
                "fixed filters", vectors.of_bundle("fixed filters", FIXED_FILTERS), listed
            )
            for name in PEERS if arguments.models else ():
                folder = Path(tempfile.mkdtemp(dir=scratch))
                peer = peer_bundle(folder, arguments.models / f"{name}.onnx")
                found += cells(name, vectors.of_bundle(name, peer), listed)
        if arguments.earlier:
            found += cells("earlier", vectors.of_bundle("earlier", arguments.earlier), listed)
        if arguments.float:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            ours = float_bundle(folder, arguments.bundle, arguments.float)
            found += cells("ours float32", vectors.of_bundle("ours float32", ours), listed)
        found += cells("ours", vectors.of_bundle("ours", arguments.bundle), listed)
    path = arguments.work / "evaluation.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    print(tables(found))


if __name__ == "__main__":
    main()
