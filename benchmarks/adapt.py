"""What an adapter costs: learning with features at hand, its part of a query, and filling.

`learn`: choosing and fitting for 5,000 drawn vectors, beside the floor, one scatter matrix and its
inverse root. `query`: the network with a map inside, beside the network without one, one core.
`fill`: points that are mapped per second in the embedded engine, beside writing the same points.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from console.adaptation import learning, selection
from console.adaptation.training_set import TrainingSet
from console.bundles import adapted_bundle
from console.bundles.adapter import LinearMap
from console.migration import filling, lifecycle
from console.migration.transformation import Transformation
from likeness.adapters.index import open_index
from likeness.embedding import Embedder, unit_rows
from likeness.model import load_spec
from likeness.records import ImageInfo, ObjectRef, ObjectState, Point, State, Version
from likeness.settings import Settings

BUNDLE = Path(__file__).resolve().parent.parent / "layers" / "model"
DIM, IMAGES, PRODUCTS = 256, 5000, 500
RUNS = 100


def drawn() -> TrainingSet:
    rng = np.random.default_rng(0)
    product = np.repeat(np.arange(PRODUCTS), IMAGES // PRODUCTS)
    noise = np.where(np.arange(DIM) < 16, 3.0, 0.6)
    vectors = rng.normal(size=(PRODUCTS, DIM))[product] + noise * rng.normal(size=(IMAGES, DIM))
    rows = unit_rows(vectors.astype(np.float32))
    none, names = np.zeros(IMAGES, bool), np.array([""] * IMAGES)
    return TrainingSet("drawn", rows, product, none, names, (), {})


def learn() -> dict[str, float]:
    training = drawn()
    start = time.perf_counter()
    selection.select(training, training.searches(0), [], 0)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    found = learning.moments(training.vectors, training.product, training.catalogue)
    learning.fit(learning.diagonalise(found, "scatter"), learning.Plan("scatter", 0.1))
    floor = time.perf_counter() - start
    return {"seconds": ours, "floor_s": floor, "ratio": ours / floor}


def random_map() -> LinearMap:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(DIM, DIM)).astype(np.float32)
    return LinearMap(rng.normal(size=DIM).astype(np.float32) / DIM, matrix)


def query(adapted: Path) -> dict[str, float]:
    """Least of many runs, which alternate: what else the machine does makes some of them longer."""
    embedders = Embedder(BUNDLE), Embedder(adapted)
    shape = (1, 3, embedders[0].spec.input.height, embedders[0].spec.input.width)
    tensor = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    times: list[list[float]] = [[], []]
    for _ in range(RUNS):
        for embedder, taken in zip(embedders, times, strict=True):
            start = time.perf_counter()
            embedder.embed([tensor])
            taken.append((time.perf_counter() - start) * 1e3)
    floor, ours = map(min, times)
    return {"ms": ours, "floor_ms": floor, "added_ms": ours - floor, "ratio": ours / floor}


def fill(adapted: Path, count: int) -> dict[str, float]:
    base, spec = load_spec(BUNDLE), load_spec(adapted)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings.from_env({"QDRANT_URL": Path(folder).as_uri()})
        with closing(open_index(settings)) as index:
            index.prepare(base.fingerprint, DIM)
            written = 0.0
            for at in range(0, count, 250):
                points = [point(n, base.fingerprint, rng) for n in range(at, min(at + 250, count))]
                start = time.perf_counter()
                index.write(base.fingerprint, points)
                written += time.perf_counter() - start
            migration = lifecycle.begin(index, spec, str(adapted), keep_patches=False)
            filler = Transformation(index, migration, random_map())
            start = time.perf_counter()
            filling.measure(index, migration, lambda done: None, filler.fill)
            ours = time.perf_counter() - start
            assert filler.done == count
    return {"points_per_s": count / ours, "floor_per_s": count / written, "ratio": ours / written}


def point(number: int, model: str, rng: np.random.Generator) -> Point:
    return Point(
        ObjectRef("photos", f"{number}.jpg"),
        State.LIVE,
        Version(number + 1),
        model,
        0.0,
        ObjectState("etag", None, 1, "image/jpeg", 0.0),
        ImageInfo("jpeg", 10, 10, f"{number:064x}"),
        vector=unit_rows(rng.normal(size=(1, DIM)).astype(np.float32))[0],
        local=rng.bytes(64 * 33),
        colours=rng.bytes(300),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=10_000)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"learn": learn()}
    with tempfile.TemporaryDirectory() as folder:
        adapted = Path(folder) / "adapted"
        adapted_bundle.write(adapted, BUNDLE, random_map(), lambda made, spec: None)
        report |= {"query": query(adapted), "fill": fill(adapted, arguments.points)}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
