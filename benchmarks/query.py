"""A whole query against 100,000 indexed images, over its floor: the decode and the network alone.

    ratio        a 12-megapixel JPEG, warm, `precise`, ten results, over its floor; lower is better
    ratio_small  the same with a JPEG of 640 × 480
    ratio_full   the first over a floor that decodes at full resolution
    frame_ms     ours without the subject's own pass; search_ms and the like are parts of ours

The floor is the work that no visual search can avoid: the photo decoded and resized by Pillow, at
reduced size as ours does it, and one run of the same network with onnxruntime. Ours adds checks, a
second pass over the subject if the photo has one, the search, verification of 100 candidates, and
proofs.

The index is made once, in .likeness/: random unit vectors around those of real images, with these
images' own descriptors, in the embedded engine, with its graph built. No query image is indexed, so
no query has the clear winner that would end verification early. All runs on one core; times are
processor time, which other programs disturb less than wall-clock time: the minimum of several
rounds in which ours and the floor take turns, and the mean of five photos. Parts are wall-clock
time.
"""
# ruff: noqa: E402

from __future__ import annotations

import os

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before NumPy starts a thread a core

import argparse
import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import qdrant_edge as edge
from msgspec import structs
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.embed import MODEL, bare_session, bare_tensor, jpegs
from benchmarks.rerank import calibrated, indexed, least_ms
from console.demo import sample_images
from console.local.data_folder import DEFAULT_DATA
from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.embedding import Embedder
from likeness.filters import Schema
from likeness.gallery import Gallery
from likeness.ports import ObjectStore
from likeness.queries import ByImage, Query
from likeness.records import ObjectRef, Point
from likeness.search import Searcher

LAYOUT = Layout("bench", Schema())
BATCH = 1000
SPREAD = 1.0  # length of the noise on a unit vector: cosine .7 with the picture it came from
PHONE, SMALL = (4000, 3000), (640, 480)
TARGET = 1.5


def open_or_make(folder: Path, count: int, embedder: Embedder) -> Path:
    """The folder with an index of `count` points, made if it is missing."""
    collection = LAYOUT.collection(embedder.fingerprint)
    place = folder / f"{collection}-{count}"
    if place.exists():
        return place
    draft = place.with_suffix(".new")
    shutil.rmtree(draft, ignore_errors=True)
    index = EmbeddedIndex(draft, LAYOUT)
    index.prepare(embedder.fingerprint, embedder.dim)
    pictures = [item.data for item in (*sample_images.photographs(), *sample_images.products())]
    real = indexed(pictures, embedder)
    rng = np.random.default_rng(0)
    for first in track(range(0, count, BATCH), f"writing {count} points"):
        numbers = range(first, min(first + BATCH, count))
        index.write(
            embedder.fingerprint,
            [near(real[n % len(real)], n, rng) for n in numbers],
        )
    index.close()
    print("building the graph …")
    shard = edge.EdgeShard.load(str(draft / collection))
    shard.optimize()
    shard.close()
    return draft.rename(place)


def near(point: Point, number: int, rng: np.random.Generator) -> Point:
    assert point.vector is not None
    size = len(point.vector)
    vector = point.vector + rng.normal(0, SPREAD / np.sqrt(size), size).astype(np.float32)
    ref = ObjectRef("bench", f"{number:06}.jpg")
    return structs.replace(point, ref=ref, vector=vector / np.linalg.norm(vector))


def graph_size(place: Path, embedder: Embedder) -> int:
    """Number of vectors in the engine's graph."""
    shard = edge.EdgeShard.load(str(place / LAYOUT.collection(embedder.fingerprint)))
    count = shard.info().indexed_vectors_count
    shard.close()
    return count


def no_store() -> ObjectStore:
    raise SystemExit("no query of this benchmark reads the bucket")


def measure(folder: Path, count: int, rounds: int) -> dict[str, float]:
    embedder = Embedder(MODEL)
    place = open_or_make(folder, count, embedder)
    in_graph = graph_size(place, embedder)
    index = EmbeddedIndex(place, LAYOUT)
    searcher = Searcher(Gallery(index, no_store), embedder, calibration=calibrated(embedder))
    phone = against_floor(searcher, embedder, jpegs(*PHONE), rounds)
    small = against_floor(searcher, embedder, jpegs(*SMALL), rounds)
    index.close()
    return {
        "ratio": phone["ours_ms"] / phone["floor_ms"],
        "ratio_small": small["ours_ms"] / small["floor_ms"],
        "ratio_full": phone["ours_ms"] / phone["full_floor_ms"],
        **phone,
        **{f"small_{name}": value for name, value in small.items()},
        "points": count,
        "points_in_graph": in_graph,
    }


def against_floor(
    searcher: Searcher, embedder: Embedder, photos: list[bytes], rounds: int
) -> dict[str, float]:
    """Means over the photos: ours, the floor, and each part of ours."""
    session, spec = bare_session(), embedder.spec
    means: defaultdict[str, float] = defaultdict(float)
    for photo in photos:
        stages: list[dict[str, float]] = []
        query = Query(ByImage(photo))
        of_frame = structs.replace(query, subject=False)

        def ours(query: Query = query, stages: list[dict[str, float]] = stages) -> None:
            stages.append(dict(searcher.search(query).took_ms))

        def frame(query: Query = of_frame) -> None:
            searcher.search(query)

        def floor(photo: bytes = photo) -> None:
            tensor = bare_tensor(photo, spec, draft=2 * embedder.decode_size)
            session.run(None, {spec.input.name: tensor})

        def full_floor(photo: bytes = photo) -> None:
            session.run(None, {spec.input.name: bare_tensor(photo, spec)})

        works = {"ours_ms": ours, "frame_ms": frame, "floor_ms": floor, "full_floor_ms": full_floor}
        found = least_ms(works, rounds)
        for stage in stages[0]:
            found[f"{stage}_ms"] = min(took[stage] for took in stages)
        for name, value in found.items():
            means[name] += value / len(photos)
    return dict(means)


def show(found: dict[str, float]) -> None:
    print(f"{found['points']:.0f} points, {found['points_in_graph']:.0f} in the graph")
    for title, prefix, ratio in (
        ("12 megapixels", "", "ratio"),
        ("640 × 480", "small_", "ratio_small"),
    ):
        stages = ", ".join(
            f"{stage} {found[f'{prefix}{stage}_ms']:.1f}"
            for stage in ("decode", "embed", "search", "rerank", "total")
        )
        print(
            f"{title:<14} ours {found[f'{prefix}ours_ms']:6.1f} ms   "
            f"floor {found[f'{prefix}floor_ms']:6.1f} ms   ratio {found[ratio]:.2f}"
        )
        print(f"{'':<14} by the clock: {stages} ms")
        print(
            f"{'':<14} without the subject {found[f'{prefix}frame_ms']:.1f} ms; "
            f"floor with all pixels decoded {found[f'{prefix}full_floor_ms']:.1f} ms"
        )
    print(f"target: ratio at most {TARGET}; over the full decode it is {found['ratio_full']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="a JSON object on the last line")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=DEFAULT_DATA / "benchmarks")
    arguments = parser.parse_args()
    found = measure(arguments.folder, arguments.points, arguments.rounds)
    show(found)
    if arguments.json:
        print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
