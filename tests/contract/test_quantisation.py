"""Both adapters: int8 vectors in memory, originals on disk, no needless graph links."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import qdrant_edge as edge
from qdrant_client import models

from likeness.adapters.qdrant_edge_requests import vector_params
from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_layout import SYSTEM_INDEXES, VECTOR, Layout
from likeness.adapters.qdrant_queries import HNSW_EF, oversampling, window
from likeness.filters import Schema
from likeness.records import (
    NearestQuery,
    ObjectRef,
    Point,
    State,
    Version,
)
from tests.fault_server import ok
from tests.scripted_qdrant import DIM, prepared, scripted_index

MODEL, LAYOUT = "0123456789abcdef", Layout("images", Schema())
POINTS, SIZE, QUERIES = 1000, 32, 50


def test_a_server_collection_has_int8_in_memory_and_originals_on_disk() -> None:
    server = prepared(ok(True))
    [body] = [
        r.body for r in server.requests if r.path == "/collections/images-" + MODEL and r.body
    ]
    asked = models.CreateCollection.model_validate(body, extra="forbid")
    assert isinstance(asked.vectors, dict)
    stored = asked.vectors[VECTOR]
    int8 = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True)
    assert stored.quantization_config == models.ScalarQuantization(scalar=int8)
    assert stored.on_disk


def test_system_fields_are_indexed_without_graph_links() -> None:
    server = prepared(ok(True))
    bodies = [request.body for request in server.requests if "/index?" in request.path]
    asked = {body["field_name"]: models.CreateFieldIndex.model_validate(body) for body in bodies}
    for path, index in asked.items():
        linked = getattr(index.field_schema, "enable_hnsw", None)
        assert linked is (False if path in SYSTEM_INDEXES else None)
    assert SYSTEM_INDEXES.keys() < asked.keys()
    assert not SYSTEM_INDEXES.keys() & Schema().indexes.keys()  # which callers may filter by


def test_a_server_search_is_rescored_with_originals() -> None:
    with scripted_index([ok([{"points": []}])]) as (server, index):
        lookup = NearestQuery([np.eye(DIM, dtype=np.float32)[0]], 10)
        index.nearest([lookup])
    asked = models.QueryRequestBatch.model_validate(server.requests[0].body, extra="forbid")
    quantised = models.QuantizationSearchParams(
        rescore=True, oversampling=oversampling(window(lookup)[0])
    )
    assert asked.searches[0].params == models.SearchParams(hnsw_ef=HNSW_EF, quantization=quantised)


def test_few_results_are_chosen_among_enough_candidates() -> None:
    assert [limit * oversampling(limit) for limit in (1, 10, 40, 100)] == [80, 80, 80, 200]


def test_the_embedded_engine_finds_with_int8_what_a_scan_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(POINTS + QUERIES, SIZE)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    stored, queries = vectors[:POINTS], vectors[POINTS:]
    points = [
        Point(ObjectRef("b", f"{n}"), State.LIVE, Version(1), MODEL, 1.0, vector=vector)
        for n, vector in enumerate(stored)
    ]
    index = EmbeddedIndex(tmp_path, LAYOUT)
    index.prepare(MODEL, SIZE)
    index.write(MODEL, list(points))
    index.close()
    early = edge.EdgeConfig(  # two thousand vectors would have no graph
        vectors=vector_params({"dim": SIZE}),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=1),
    )
    shard = edge.EdgeShard.load(str(tmp_path / LAYOUT.collection(MODEL)), early)
    shard.optimize()
    assert shard.info().indexed_vectors_count == POINTS
    shard.close()
    assert list(tmp_path.rglob("quantized*"))
    index = EmbeddedIndex(tmp_path, LAYOUT)
    found = index.nearest([NearestQuery([query], 10) for query in queries])
    index.close()
    exact = np.argsort(-(queries @ stored.T), axis=1)[:, :10].tolist()
    hits = [
        candidate.point.id in {points[n].id for n in nearest}
        for candidates, nearest in zip(found, exact, strict=True)
        for candidate in candidates
    ]
    assert len(hits) == 10 * QUERIES
    assert np.mean(hits) >= 0.98
    # a score is that of the originals: int8 alone is off by some thousandths
    scores = np.array([[candidate.score for candidate in candidates] for candidates in found])
    wanted = -np.sort(-(queries @ stored.T), axis=1)[:, :10]
    assert np.abs(scores - wanted).max(axis=1).mean() < 0.002
