"""A million images in one shard of Qdrant's engine, with the settings of our adapters.

    recall_10, recall_100   share of the exact nearest neighbours found; target .98 for ten
    p50_ms, p95_ms          one search for ten neighbours, wall-clock time
    service_…               the same for the service's search: a hundred, with vectors and payload
    write_points_s          points/s written through the adapter, with conditional writes
    graph_points_s          points/s of the graph's construction afterwards
    anon_bytes, file_bytes  memory of the searching process per point: anonymous, mapped files
    disk_bytes              disk per point, in total and for vectors, quantised, graph, payload …

    --variants              compares other storages and search settings; use --points 100000

The vectors are distributed like real ones: each is a real embedding, moved by a part of the
difference between two others. The real embeddings are of random crops of images: of --photos, or of
the demo's few. Queries are generated the same way from other random numbers: none is in the index.
The exact neighbours come from a scan of all vectors in NumPy.

The payload is that of an image without metadata, without the fields that only reranking reads;
benchmarks/rerank.py prints their size. The index is built once, in .likeness/, and an interrupted
build is resumed. Measurements run in processes of their own.
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
from console.local.data_folder import DEFAULT_DATA
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
    Point,
    State,
    Vector,
    Version,
)

LAYOUT = Layout("scale", Schema())
BATCH = 1000
REAL, QUERIES, DEPTH = 4096, 500, 100
MAX_SHIFT = 0.7  # largest part of a difference that is added to a vector
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


def crop_embeddings(photos: Path | None, count: int, embedder: Embedder) -> Vector:
    """Real embeddings (count, D), each of a random crop of at least a fifth of an image."""
    rng, found = np.random.default_rng(0), list[Vector]()
    for item in track(islice(images(photos), count), "embedding", count):
        width, height = np.sqrt(rng.uniform(0.2, 1.0)) * rng.uniform(0.8, 1.0, 2)
        left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
        try:
            part = cropped(item.image, Box(left, top, left + width, top + height))
            found.append(embedder.embed([embedder.to_tensor(part)]))
        except ImageError:
            continue  # broken, or a crop of a single colour
    return np.concatenate(found)


def real_embeddings(folder: Path, photos: Path | None, embedder: Embedder) -> Vector:
    """The embeddings of an earlier run with the same images, or new ones."""
    file = folder / "embeddings.npy"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(file, crop_embeddings(photos, REAL, embedder))
    real: Vector = np.load(file)
    return real


def images(photos: Path | None) -> Iterator[sample_images.Item]:
    """Endless: the images in the same random order, over and over."""
    if photos is None:
        return cycle([*sample_images.photographs(), *sample_images.products()])
    files = sorted(photos.rglob("*.jpg"))
    order = np.random.default_rng(0).permutation(len(files)).tolist()
    return (sample_images.Item(files[n].name, files[n].read_bytes()) for n in cycle(order))


def generated_vectors(real: Vector, count: int, seed: int) -> Vector:
    """Unit vectors (count, D): real ones, moved along the difference of two others."""
    rng = np.random.default_rng(seed)
    start, plus, minus = rng.integers(len(real), size=(3, count))
    moved = real[start] + rng.uniform(0, MAX_SHIFT, (count, 1)) * (real[plus] - real[minus])
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def nearest(real: Vector, count: int, queries: Vector) -> NDArray[np.int64]:
    """Numbers of the exact DEPTH nearest neighbours of each query (Q, DEPTH), nearest first."""
    scores = np.empty((len(queries), 0), np.float32)
    numbers = np.empty((len(queries), 0), np.int64)
    for first in track(range(0, count, BATCH), "searching exactly"):
        vectors = generated_vectors(real, min(BATCH, count - first), first)
        scores = np.hstack([scores, queries @ vectors.T])
        own = np.broadcast_to(np.arange(first, first + len(vectors)), (len(queries), len(vectors)))
        numbers = np.hstack([numbers, own])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :DEPTH]
        scores = np.take_along_axis(scores, order, axis=1)
        numbers = np.take_along_axis(numbers, order, axis=1)
    return numbers


# --- the index ---


def fill_index(index_folder: Path, real: Vector, count: int, model: str) -> float:
    """Fill the index, resuming an interrupted run; returns points/s of this run."""
    index = EmbeddedIndex(index_folder, LAYOUT)
    index.prepare(model, real.shape[1])
    first_missing = index.info().points // BATCH * BATCH
    start_s = time.perf_counter()
    for first in track(range(first_missing, count, BATCH), f"writing {count} points"):
        vectors = generated_vectors(real, min(BATCH, count - first), first)
        points = (point(first + row, vector, model) for row, vector in enumerate(vectors))
        index.write(model, list(points))
    elapsed_s = time.perf_counter() - start_s
    index.close()
    return (count - first_missing) / elapsed_s


def point(number: int, vector: Vector | None, model: str) -> Point:
    """A point as the index function writes it."""
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


def build_graph(shard: edge.EdgeShard, count: int) -> float:
    """Build the graph; returns points/s."""
    start_s = time.perf_counter()
    shard.optimize()
    elapsed_s = time.perf_counter() - start_s
    shard.close()
    return count / elapsed_s


def built_index(
    folder: Path, real: Vector, count: int, model: str
) -> tuple[Path, dict[str, float]]:
    """The folder of an index of `count` points, built if missing, and the rates of its build."""
    index_folder = folder / f"{count}"
    rates = index_folder / "rates.json"
    if not rates.exists():
        found = {"write_points_s": fill_index(index_folder, real, count, model)}
        print("building the graph …", flush=True)
        shard = edge.EdgeShard.load(str(index_folder / LAYOUT.collection(model)))
        found["graph_points_s"] = build_graph(shard, count)
        rates.write_text(json.dumps(found))
    return index_folder, json.loads(rates.read_text())


# --- measurements ---

Search = Callable[[Vector], list[str]]


def measure_search(
    search: Search, queries: Vector, truth: NDArray[np.int64], depth: int
) -> dict[str, float]:
    """Recall at `depth`, and latency of one search."""
    hits, elapsed_ms = 0, []
    for vector in queries[:50]:
        search(vector)
    for vector, numbers in zip(queries, truth[:, :depth], strict=True):
        start_s = time.perf_counter()
        found = search(vector)
        elapsed_ms.append((time.perf_counter() - start_s) * 1000)
        hits += len(set(found[:depth]) & {ref(number).point_id for number in numbers.tolist()})
    p50, p95 = np.percentile(elapsed_ms, [50, 95]).tolist()
    return {"recall": hits / (depth * len(queries)), "p50_ms": p50, "p95_ms": p95}


def measure_service(
    index_folder: Path, queries: Vector, truth: NDArray[np.int64], count: int
) -> dict[str, Any]:
    """Figures of searches through the adapter, as the service does them; memory is the increase."""
    before = memory_bytes()
    index = EmbeddedIndex(index_folder, LAYOUT)

    def search_with(limit: int, full: bool) -> Search:
        def search(vector: Vector) -> list[str]:
            [found] = index.nearest([NearestQuery([vector], limit, full=full)])
            return [candidate.point.id for candidate in found]

        return search

    ten = measure_search(search_with(10, False), queries, truth, 10)
    hundred = measure_search(search_with(DEPTH, True), queries, truth, DEPTH)
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
    values = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {
        "anon_bytes": int(values["RssAnon"]) * 1024,
        "file_bytes": int(values["RssFile"]) * 1024,
    }


def disk(folder: Path, count: int) -> dict[str, float]:
    """Bytes on disk per point, in total and by part."""
    sizes: defaultdict[str, float] = defaultdict(float)
    for file in folder.rglob("*"):
        if file.is_file():
            size = file.stat().st_blocks * 512 / count
            sizes["disk_bytes"] += size
            path = "quantized" if "quantized" in file.name else str(file.relative_to(folder))
            part = next((part for key, part in PARTS.items() if key in path), "other")
            sizes[f"{part}_bytes"] += size
    return dict(sizes)


def in_own_process(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run in a separate process, so that its memory can be measured."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


# --- other storages, other settings ---


def storages(dim: int) -> dict[str, edge.EdgeVectorParams]:
    def params(**options: Any) -> edge.EdgeVectorParams:
        return edge.EdgeVectorParams(size=dim, distance=edge.Distance.Cosine, **options)

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
        "ef 128, not rescored": params(128, rescore=False),
        "ef 128, rescored, oversampling 2": params(128, rescore=True, oversampling=2.0),
        "ef 256, rescored, oversampling 8": params(256, rescore=True, oversampling=8.0),
        "ef 1536, rescored, oversampling 8": params(1536, rescore=True, oversampling=8.0),
    }


def fill_variant(
    index_folder: Path, storage: str, real: Vector, count: int, model: str
) -> dict[str, float]:
    """Fill the adapter's collection over a shard with another storage; returns the rates."""
    index = EmbeddedIndex(index_folder, LAYOUT)
    index.prepare(model, real.shape[1])
    index.close()
    collection = index_folder / LAYOUT.collection(model)
    for part in ("segments", "wal"):
        shutil.rmtree(collection / part)
    params = storages(real.shape[1])[storage]
    edge.EdgeShard.create(str(collection), edge.EdgeConfig(vectors={VECTOR: params})).close()
    written = fill_index(index_folder, real, count, model)
    return {
        "write_points_s": written,
        "graph_points_s": build_graph(edge.EdgeShard.load(str(collection)), count),
    }


def measure_settings(
    shard_folder: Path, queries: Vector, truth: NDArray[np.int64], count: int
) -> dict[str, Any]:
    """Figures of one storage with each search setting."""
    before = memory_bytes()["anon_bytes"]
    shard = edge.EdgeShard.load(str(shard_folder))
    found: dict[str, Any] = {}
    for name, params in searches().items():

        def search(vector: Vector, params: edge.SearchParams = params) -> list[str]:
            query = edge.Query.Nearest(vector.tolist(), using=VECTOR)
            answer = shard.query(edge.QueryRequest(limit=10, query=query, params=params))
            return [str(hit.id) for hit in answer]

        found[name] = measure_search(search, queries, truth, 10)
    anon = (memory_bytes()["anon_bytes"] - before) / count
    shard.close()
    return {"searches": found, "anon_bytes": anon, **disk(shard_folder, count)}


def compare(folder: Path, real: Vector, count: int, model: str) -> dict[str, Any]:
    """Figures of all storages with the same points."""
    queries = generated_vectors(real, QUERIES, -1 % 2**32)
    truth = nearest(real, count, queries)
    found = {}
    for storage in storages(real.shape[1]):
        index_folder = folder / "variant"
        shutil.rmtree(index_folder, ignore_errors=True)
        rates = fill_variant(index_folder, storage, real, count, model)
        shard_folder = index_folder / LAYOUT.collection(model)
        figures = rates | in_own_process(measure_settings, shard_folder, queries, truth, count)
        found[storage] = figures
        print(
            f"{storage}: graph {figures['graph_points_s']:.0f} points/s, "
            f"anonymous memory {figures['anon_bytes']:.0f} bytes per point, "
            f"disk {figures['disk_bytes']:.0f}",
            flush=True,
        )
        for name, result in figures["searches"].items():
            print(
                f"  {name:<34} recall@10 {result['recall']:.4f}   p50 {result['p50_ms']:5.2f}   "
                f"p95 {result['p95_ms']:5.2f} ms",
                flush=True,
            )
        shutil.rmtree(index_folder)
    return found


def measure(folder: Path, real: Vector, count: int, model: str) -> dict[str, Any]:
    index_folder, rates = built_index(folder, real, count, model)
    queries = generated_vectors(real, QUERIES, -1 % 2**32)
    truth = nearest(real, count, queries)
    found = in_own_process(measure_service, index_folder, queries, truth, count)
    shard = edge.EdgeShard.load(str(index_folder / LAYOUT.collection(model)))
    in_graph = shard.info().indexed_vectors_count
    shard.close()
    return {
        **found,
        **rates,
        **disk(index_folder, count),
        "points": count,
        "points_in_graph": in_graph,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="a JSON object on the last line")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--photos", type=Path, help="folder of JPEGs, ideally thousands")
    parser.add_argument("--variants", action="store_true", help="compare storages and settings")
    parser.add_argument("--folder", type=Path, default=DEFAULT_DATA / "benchmarks")
    arguments = parser.parse_args()
    embedder = Embedder(MODEL)
    source = arguments.photos.name if arguments.photos else "demo"
    folder = arguments.folder / f"scale-{embedder.fingerprint}-{source}"
    real = real_embeddings(folder, arguments.photos, embedder)
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
