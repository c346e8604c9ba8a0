"""A million images in one shard of Qdrant's engine, with the settings that our adapters give it.

    recall_10, recall_100   share of the exact nearest that the index finds; aim .98 for ten
    p50_ms, p95_ms          one search for ten neighbours, by the clock
    service_…               the service's own search: a hundred, with vectors and payload
    write_points_s          points/s through the adapter, each under its condition
    graph_points_s          points/s that the graph is then built with
    anon_bytes, file_bytes  memory of the searching process for a point: its own, files' pages
    disk_bytes              on disk for a point; of it vectors, quantised, graph, payload …

    --variants              compares other storages and search settings; take --points 100000

The vectors have the structure of real ones: each is a real embedding moved by a part of the
difference between two others, so that they spread as real pictures do. The real ones are random
crops of pictures: of --photos, or of the few that the demo brings. Queries are made the same way
from other random numbers: none is in the index. Exact is a scan of all vectors in NumPy.

Payload is what an image has without metadata, less what only reranking reads; benchmarks/rerank.py
says what that takes. The index is made once, in .likeness/, and goes on where it was stopped. What
is measured is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.embed import MODEL
from console.demo import sample_images
from console.local.runner import DEFAULT_DATA
from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_layout import VECTOR, Layout
from likeness.embedding import Embedder
from likeness.errors import ImageError
from likeness.filters import Schema
from likeness.preprocessing import cropped
from likeness.records import (
    Box,
    ImageInfo,
    NearestQuery,
    ObjectRef,
    ObjectState,
    OlderThan,
    Point,
    PointWrite,
    State,
    Vector,
    Version,
)

LAYOUT = Layout("scale", Schema())
BATCH = 1000
LOOKS, QUERIES, DEPTH = 4096, 500, 100
FAR = 0.7  # how much of a difference a vector is moved by at most
TARGET = 0.98
PARTS = {
    "vector_storage": "vectors",
    "quantized": "quantised",
    "vector_index": "graph",
    "payload_storage": "payload",
    "payload_index": "payload_index",
    "wal": "log",
}

# --- vectors ---


def looks(photos: Path | None, count: int, embedder: Embedder) -> Vector:
    """Real embeddings (count, D): each of another random part of a picture, a fifth or more."""
    rng, found = np.random.default_rng(0), list[Vector]()
    for item in track(islice(pictures(photos), count), "embedding", count):
        width, height = np.sqrt(rng.uniform(0.2, 1.0)) * rng.uniform(0.8, 1.0, 2)
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        try:
            part = cropped(item.image, Box(left, top, left + width, top + height))
            found.append(embedder.embed([embedder.to_tensor(part)]))
        except ImageError:
            continue  # broken, or a part of one colour
    return np.concatenate(found)


def kept(folder: Path, photos: Path | None, embedder: Embedder) -> Vector:
    """The looks of an earlier run with the same pictures, or new ones."""
    file = folder / "looks.npy"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(file, looks(photos, LOOKS, embedder))
    real: Vector = np.load(file)
    return real


def pictures(photos: Path | None) -> Iterator[sample_images.Item]:
    """Again and again, in the same random order."""
    if photos is None:
        return cycle([*sample_images.photographs(), *sample_images.products()])
    files = sorted(photos.rglob("*.jpg"))
    order = np.random.default_rng(0).permutation(len(files)).tolist()
    return (sample_images.Item(files[n].name, files[n].read_bytes()) for n in cycle(order))


def drawn(real: Vector, count: int, seed: int) -> Vector:
    """Unit vectors (count, D): a real one, moved along the difference of two others."""
    rng = np.random.default_rng(seed)
    start, towards, away = rng.integers(len(real), size=(3, count))
    moved = real[start] + rng.uniform(0, FAR, (count, 1)) * (real[towards] - real[away])
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def nearest(real: Vector, count: int, queries: Vector) -> NDArray[np.int64]:
    """Numbers of the exact DEPTH nearest of each query (Q, DEPTH), best first."""
    scores = np.empty((len(queries), 0), np.float32)
    numbers = np.empty((len(queries), 0), np.int64)
    for first in track(range(0, count, BATCH), "searching exactly"):
        vectors = drawn(real, min(BATCH, count - first), first)
        scores = np.hstack([scores, queries @ vectors.T])
        own = np.broadcast_to(np.arange(first, first + len(vectors)), (len(queries), len(vectors)))
        numbers = np.hstack([numbers, own])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        scores = np.take_along_axis(scores, order, axis=1)
        numbers = np.take_along_axis(numbers, order, axis=1)
    return numbers


# --- the index ---


def filled(place: Path, real: Vector, count: int, model: str) -> float:
    """Points/s written by this run; goes on where an earlier one was stopped."""
    index = EmbeddedIndex(place, LAYOUT)
    index.prepare(model, real.shape[1])
    begun = index.info().points // BATCH * BATCH
    start_s = time.perf_counter()
    for first in track(range(begun, count, BATCH), f"writing {count} points"):
        vectors = drawn(real, min(BATCH, count - first), first)
        points = (point(first + row, vector, model) for row, vector in enumerate(vectors))
        index.write(model, [PointWrite(point, OlderThan(point.version)) for point in points])
    took_s = time.perf_counter() - start_s
    index.close()
    return (count - begun) / took_s


def point(number: int, vector: Vector | None, model: str) -> Point:
    """As the index function writes it."""
    return Point(
        ref(number),
        State.LIVE,
        Version(number + 1),
        model,
        indexed_at_s=1.8e9 + number,
        object=ObjectState(f"{number:032x}", f"{number:032x}", 150_000, "image/jpeg", 1.8e9),
        image=ImageInfo("JPEG", 1600, 1200, f"{number:064x}"),
        vector=vector,
        settings="0123456789abcdef",
    )


def ref(number: int) -> ObjectRef:
    return ObjectRef("a-bucket-of-photos", f"products/2026/{number:09}.jpg")


def graphed(shard: edge.EdgeShard, count: int) -> float:
    """Points/s that the graph is built with."""
    start_s = time.perf_counter()
    shard.optimize()
    took_s = time.perf_counter() - start_s
    shard.close()
    return count / took_s


def made(folder: Path, real: Vector, count: int, model: str) -> tuple[Path, dict[str, float]]:
    """The folder with an index of so many points, made if it is not there; and how fast it was."""
    place = folder / f"{count}"
    rates = place / "rates.json"
    if not rates.exists():
        found = {"write_points_s": filled(place, real, count, model)}
        print("building the graph …", flush=True)
        shard = edge.EdgeShard.load(str(place / LAYOUT.collection(model)))
        found["graph_points_s"] = graphed(shard, count)
        rates.write_text(json.dumps(found))
    return place, json.loads(rates.read_text())


# --- what is measured ---

Ask = Callable[[Vector], list[str]]


def judged(ask: Ask, queries: Vector, truth: NDArray[np.int64], depth: int) -> dict[str, float]:
    """Recall of the first `depth`, and times of one search."""
    hits, took_ms = 0, []
    for vector in queries[:50]:
        ask(vector)
    for vector, numbers in zip(queries, truth[:, :depth], strict=True):
        start_s = time.perf_counter()
        found = ask(vector)
        took_ms.append((time.perf_counter() - start_s) * 1000)
        hits += len(set(found[:depth]) & {ref(number).point_id for number in numbers.tolist()})
    p50, p95 = np.percentile(took_ms, [50, 95]).tolist()
    return {"recall": hits / (depth * len(queries)), "p50_ms": p50, "p95_ms": p95}


def searched(place: Path, queries: Vector, truth: NDArray[np.int64], count: int) -> dict[str, Any]:
    """Through the adapter, as the service asks. Memory is what came in addition."""
    before = memory_bytes()
    index = EmbeddedIndex(place, LAYOUT)

    def ask(limit: int, full: bool) -> Ask:
        def asked(vector: Vector) -> list[str]:
            [found] = index.nearest([NearestQuery([vector], limit, full=full)])
            return [candidate.point.id for candidate in found]

        return asked

    ten = judged(ask(10, False), queries, truth, 10)
    hundred = judged(ask(DEPTH, True), queries, truth, DEPTH)
    after = memory_bytes()
    index.close()
    return {
        "recall_10": ten.pop("recall"),
        "recall_100": hundred.pop("recall"),
        **ten,
        **{f"service_{name}": value for name, value in hundred.items()},
        **{name: (after[name] - before[name]) / count for name in after},
    }


def memory_bytes() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    told = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {
        "anon_bytes": int(told["RssAnon"]) * 1024,
        "file_bytes": int(told["RssFile"]) * 1024,
    }


def disk(folder: Path, count: int) -> dict[str, float]:
    """Bytes on disk for a point, in all and of each part."""
    sizes: defaultdict[str, float] = defaultdict(float)
    for file in folder.rglob("*"):
        if file.is_file():
            size = file.stat().st_blocks * 512 / count
            sizes["disk_bytes"] += size
            of = "quantized" if "quantized" in file.name else str(file.relative_to(folder))
            part = next((name for path, name in PARTS.items() if path in of), "other")
            sizes[f"{part}_bytes"] += size
    return dict(sizes)


def apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """In a process of its own, so that its memory is nobody else's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


# --- other storages, other settings ---


def storages(dim: int) -> dict[str, edge.EdgeVectorParams]:
    def params(**how: Any) -> edge.EdgeVectorParams:
        return edge.EdgeVectorParams(size=dim, distance=edge.Distance.Cosine, **how)

    int8 = edge.ScalarQuantizationConfig(edge.ScalarType.Int8, always_ram=True)
    turbo = edge.TurboQuantQuantizationConfig(always_ram=True, bits=edge.TurboQuantBitSize.Bits4)
    dense = edge.HnswIndexConfig(m=32, ef_construct=200, full_scan_threshold=10_000)
    return {
        "float32": params(),
        "float16": params(datatype=edge.VectorStorageDatatype.Float16),
        "int8, float32 on disk": params(quantization_config=int8, on_disk=True),
        "int8, float16 on disk": params(
            quantization_config=int8, on_disk=True, datatype=edge.VectorStorageDatatype.Float16
        ),
        "4 bits, float32 on disk": params(quantization_config=turbo, on_disk=True),
        "int8, m 32": params(quantization_config=int8, on_disk=True, hnsw_config=dense),
    }


def searches() -> dict[str, edge.SearchParams]:
    def params(ef: int, **quantization: Any) -> edge.SearchParams:
        return edge.SearchParams(ef, quantization=edge.QuantizationSearchParams(**quantization))

    return {
        "ef 128, as it is": params(128, rescore=False),
        "ef 128, rescored of 2": params(128, rescore=True, oversampling=2.0),
        "ef 256, rescored of 8": params(256, rescore=True, oversampling=8.0),
        "ef 1536, rescored of 8": params(1536, rescore=True, oversampling=8.0),
    }


def stored(place: Path, storage: str, real: Vector, count: int, model: str) -> dict[str, float]:
    """The adapter's collection over a shard of another configuration."""
    index = EmbeddedIndex(place, LAYOUT)
    index.prepare(model, real.shape[1])
    index.close()
    collection = place / LAYOUT.collection(model)
    for part in ("segments", "wal"):
        shutil.rmtree(collection / part)
    params = storages(real.shape[1])[storage]
    edge.EdgeShard.create(str(collection), edge.EdgeConfig(vectors={VECTOR: params})).close()
    written = filled(place, real, count, model)
    return {
        "write_points_s": written,
        "graph_points_s": graphed(edge.EdgeShard.load(str(collection)), count),
    }


def tried(
    shard_folder: Path, queries: Vector, truth: NDArray[np.int64], count: int
) -> dict[str, Any]:
    """One storage with each search setting."""
    before = memory_bytes()["anon_bytes"]
    shard = edge.EdgeShard.load(str(shard_folder))
    found: dict[str, Any] = {}
    for name, how in searches().items():

        def ask(vector: Vector, how: edge.SearchParams = how) -> list[str]:
            query = edge.Query.Nearest(vector.tolist(), using=VECTOR)
            answer = shard.query(edge.QueryRequest(limit=10, query=query, params=how))
            return [str(one.id) for one in answer]

        found[name] = judged(ask, queries, truth, 10)
    anon = (memory_bytes()["anon_bytes"] - before) / count
    shard.close()
    return {"searches": found, "anon_bytes": anon, **disk(shard_folder, count)}


def compare(folder: Path, real: Vector, count: int, model: str) -> dict[str, Any]:
    """All storages with the same points."""
    queries = drawn(real, QUERIES, -1 % 2**32)
    truth = nearest(real, count, queries)
    found = {}
    for storage in storages(real.shape[1]):
        place = folder / "variant"
        shutil.rmtree(place, ignore_errors=True)
        rates = stored(place, storage, real, count, model)
        told = apart(tried, place / LAYOUT.collection(model), queries, truth, count) | rates
        found[storage] = told
        print(
            f"{storage}: graph {told['graph_points_s']:.0f} points/s, "
            f"own memory {told['anon_bytes']:.0f} bytes a point, disk {told['disk_bytes']:.0f}",
            flush=True,
        )
        for name, one in told["searches"].items():
            print(
                f"  {name:<24} recall@10 {one['recall']:.4f}   p50 {one['p50_ms']:5.2f}   "
                f"p95 {one['p95_ms']:5.2f} ms",
                flush=True,
            )
        shutil.rmtree(place)
    return found


def measure(folder: Path, real: Vector, count: int, model: str) -> dict[str, Any]:
    place, rates = made(folder, real, count, model)
    queries = drawn(real, QUERIES, -1 % 2**32)
    truth = nearest(real, count, queries)
    found = apart(searched, place, queries, truth, count)
    shard = edge.EdgeShard.load(str(place / LAYOUT.collection(model)))
    in_graph = shard.info().indexed_vectors_count
    shard.close()
    return {**found, **rates, **disk(place, count), "points": count, "points_in_graph": in_graph}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="a JSON object on the last line")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--photos", type=Path, help="real pictures, at best some thousands")
    parser.add_argument("--variants", action="store_true", help="compare storages and settings")
    parser.add_argument("--folder", type=Path, default=DEFAULT_DATA / "benchmarks")
    arguments = parser.parse_args()
    embedder = Embedder(MODEL)
    source = arguments.photos.name if arguments.photos else "demo"
    folder = arguments.folder / f"scale-{embedder.fingerprint}-{source}"
    real = kept(folder, arguments.photos, embedder)
    work = compare if arguments.variants else measure
    found = work(folder, real, arguments.points, embedder.fingerprint)
    if not arguments.variants:
        for name, value in found.items():
            print(f"{name:<20} {value:,.4g}")
        print(f"target: recall_10 at least {TARGET}")
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
