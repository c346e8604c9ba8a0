"""Reranking: what each stage costs, how well geometry separates images, and the bytes it needs.

    fast_ms_per_100, precise_ms_per_100
                         Ranker.rank with these profiles, 100 candidates as the index keeps them
    STAGE_ms             one stage alone, on 100 candidates; at most its time budget
    geometry_ms_per_50   unpacking and verifying 50 of them
    ratio                our milliseconds for one pair over the peer's, lower is better
    auc, peer_auc        how often an image's edited copy scores above another image
    …_bytes              of one image, as stored and in the bodies of REST calls

The peer is a common method without a network: OpenCV's ORB, 500 features, cross-checked matches and
a similarity by RANSAC, on the same images; its descriptors are computed beforehand, too. Ground
truth is known because the edits are ours. Times are of one core, in processor time, which other
programs disturb less than wall-clock time: the minimum of several rounds, run in turns.
"""
# ruff: noqa: E402

from __future__ import annotations

import os

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before NumPy starts a thread a core

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from msgspec import structs
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.embed import MODEL
from console.demo import sample_images
from console.evaluation.edits import EDITS
from console.evaluation.query_expansion import expand
from console.evaluation.stages import TRIED
from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.adapters.qdrant_points import to_payload, to_vectors
from likeness.descriptor_packing import cell_positions, unpack
from likeness.embedding import Embedder
from likeness.feature_extraction import extract_features
from likeness.features import ImageFeatures, features_of_point
from likeness.filters import Schema
from likeness.images import decode
from likeness.indexing import Indexer
from likeness.proof.evidence import PAIR_FEATURES
from likeness.proof.geometry import verify
from likeness.proof.proofs import verify_pairs
from likeness.proof.verdicts import (
    FITTED_LEVELS,
    Calibration,
    Level,
    LevelModel,
    load_calibration,
)
from likeness.records import Point
from likeness.rerank.diversity import diversify
from likeness.rerank.profiles import STAGES, Profile
from likeness.rerank.ranker import Ranker
from likeness.rerank.stage import Order, RankingTask, Stage
from likeness.settings import Limits
from tests.fake_bucket import FakeBucket

CANDIDATES, VERIFIED, SHOWN = 100, 50, 10
OTHERS = 8  # wrong answers of each edited copy
ORB_FEATURES, ORB_SIDE = 500, 640
TARGETS = {
    "precise_ms_per_100": 15.0,
    "geometry_ms_per_50": 6.0,
    "query_expansion_ms": 2.5,
    "k_reciprocal_ms": 2.5,
    "diversity_ms": 2.5,
    "local_packed_bytes": 4096,
    "local_base64_bytes": 4096,
    "patches_stored_bytes": 8192,
}
MISSING = (
    "OpenCV is not installed, so there is no peer: `uv pip install --group bench`, or pip's, "
    "brings it"
)


def timed_stages() -> dict[str, Stage]:
    """By the name of its figure, each stage of a profile and each that was tried."""
    every = [*STAGES, *(tried.stage for tried in TRIED if tried.stage)]
    return {f"{stage.name.replace(' ', '_').replace('-', '_')}_ms": stage for stage in every}


class Copy(NamedTuple):
    """An edited image's file, and the number of the image."""

    of: int
    data: bytes


def least_ms(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Processor milliseconds of each call, the minimum of its rounds; they take turns."""
    least = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            start = time.process_time()
            work()
            least[name] = min(least[name], (time.process_time() - start) * 1000)
    return least


def indexed(images: Sequence[bytes], embedder: Embedder) -> list[Point]:
    """What the index keeps of these files, through the real indexer; rejected ones are left out."""
    bucket = FakeBucket("bench")
    for number, data in enumerate(images):
        bucket.put(f"{number:05}", data)
    with tempfile.TemporaryDirectory() as folder:
        index = EmbeddedIndex(Path(folder), Layout("bench", Schema()))
        Indexer(bucket, index, embedder).reconcile(bucket.events)
        found = index.retrieve_with_vectors([hint.ref.point_id for hint in bucket.events])
        index.close()
    points = [found[hint.ref.point_id] for hint in bucket.events]
    return [point for point in points if point.vector is not None]


def features_of(data: bytes, embedder: Embedder) -> ImageFeatures:
    """A query's image, with all its descriptors."""
    image, info = embedder.decode(data, Limits())
    return extract_features(embedder, image, sha256=info.sha256)


def calibrated(embedder: Embedder) -> Calibration:
    """The bundle's calibration, or an empty one of the same cost."""
    nothing = LevelModel((0.0,) * PAIR_FEATURES, 0.0)
    return load_calibration(MODEL, embedder.fingerprint) or Calibration(
        embedder.fingerprint, {level.value: nothing for level in FITTED_LEVELS}, nothing
    )


def edited_copies(images: Sequence[bytes]) -> list[Copy]:
    """Every image with every edit that leaves it the same image."""
    rng = np.random.default_rng(0)
    edits = [edit for edit in EDITS if edit.level in (Level.COPY, Level.EDITED)]
    copies = []
    for number, data in enumerate(track(images, "editing", transient=True)):
        image = decode(data, Limits(), ORB_SIDE)[0]
        copies += [Copy(number, edit.make(image, image.copy, rng)) for edit in edits]
    return copies


# --- time ---


def works(
    query: ImageFeatures, candidates: list[ImageFeatures], embedder: Embedder
) -> dict[str, Callable[[], object]]:
    """Profiles, stages, and parts of them, as calls."""
    spec, calibration = embedder.spec, calibrated(embedder)
    assert spec.local is not None
    assert query.local is not None
    side, dim = spec.local.side, spec.local.dim
    # no index keeps patches: the query's own stand in
    with_patches = [structs.replace(each, patches=query.patches) for each in candidates]
    task = RankingTask.of([query], with_patches, SHOWN, spec, calibration)
    order, cosines = Order.by_best_view(task.cosines), task.cosines[0]
    nearest = task.vectors[order.rows()]
    verified = verify_pairs(query, candidates, spec)
    packed = [candidate.packed or b"" for candidate in candidates[:VERIFIED]]
    few, few_at = unpack(packed, side, dim)
    ranker, at = Ranker(spec, calibration), cell_positions(side)
    return {
        **{
            f"{profile.value}_ms_per_100": partial(ranker.rank, [query], candidates, profile, SHOWN)
            for profile in (Profile.PRECISE, Profile.FAST)
        },
        **{name: partial(stage.run, task, order) for name, stage in timed_stages().items()},
        "geometry_ms_per_50": lambda: verify(query.local, at, *unpack(packed, side, dim)),
        "verify_ms_per_50": lambda: verify(query.local, at, few, few_at),
        "verdicts_ms": lambda: verified.proofs(calibration),
        "query_expansion_ms": lambda: expand(query.vector, nearest),
        "diversity_ms": lambda: diversify(cosines, task.vectors, CANDIDATES, 0.5),
    }


# --- the peer ---


class Orb:
    """OpenCV's features of a image, and how many of two images' agree on a similarity."""

    def __init__(self, cv2: ModuleType) -> None:
        cv2.setNumThreads(1)
        cv2.setRNGSeed(0)
        self._cv2 = cv2
        self._features = cv2.ORB_create(ORB_FEATURES)
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)

    def describe(self, data: bytes) -> tuple[NDArray[np.float32], Any]:
        """Positions (n, 2) in pixels and descriptors (n, 32), or None for a blank one."""
        return self.detect(self.pixels(data))

    def pixels(self, data: bytes) -> NDArray[np.uint8]:
        image = decode(data, Limits(), ORB_SIDE)[0].convert("L")
        image.thumbnail((ORB_SIDE, ORB_SIDE), Image.Resampling.BICUBIC)
        return np.asarray(image)

    def detect(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], Any]:
        spots, descriptors = self._features.detectAndCompute(pixels, None)
        return np.array([spot.pt for spot in spots], np.float32), descriptors

    def inliers(self, one: tuple[Any, Any], other: tuple[Any, Any]) -> int:
        (here, mine), (there, theirs) = one, other
        if mine is None or theirs is None:
            return 0
        matches = self._matcher.match(mine, theirs)
        if len(matches) < 3:
            return 0
        source = here[[match.queryIdx for match in matches]]
        target = there[[match.trainIdx for match in matches]]
        _, agree = self._cv2.estimateAffinePartial2D(source, target)
        return 0 if agree is None else int(agree.sum())


def open_peer() -> Orb | None:
    try:
        import cv2
    except ImportError:
        return None
    return Orb(cv2)


# --- right and wrong ---


def separation(
    copies: list[Copy], images: list[bytes], embedder: Embedder, orb: Orb | None
) -> dict[str, float]:
    """Each copy against its own image and some others: AUC of our score and of the peer's."""
    spec = embedder.spec
    assert spec.local is not None
    points = indexed(images, embedder)
    if len(points) < len(images):
        raise SystemExit("some of the images cannot be indexed")
    packed = [point.local or b"" for point in points]
    features = [orb.describe(data) for data in images] if orb else []
    ours, theirs = [], []
    for copy in track(copies, "comparing", transient=True):
        wrong = [(copy.of + step) % len(images) for step in range(1, OTHERS + 1)]
        against = [copy.of, *wrong]
        query = features_of(copy.data, embedder)
        assert query.local is not None
        local, at = unpack([packed[n] for n in against], spec.local.side, spec.local.dim)
        ours.append(verify(query.local, cell_positions(spec.local.side), local, at).score)
        if orb:
            mine = orb.describe(copy.data)
            theirs.append([orb.inliers(mine, features[n]) for n in against])
    found = {"pairs": float(len(copies) * (OTHERS + 1)), "auc": auc(np.array(ours))}
    return found | ({"peer_auc": auc(np.array(theirs))} if orb else {})


def auc(scores: NDArray[Any]) -> float:
    """Of (N, 1 + M) scores, right ones first: how often any right one is above any wrong one."""
    right, wrong = scores[:, 0, None], scores[:, 1:].ravel()[None]
    return float((right > wrong).mean() + (right == wrong).mean() / 2)


# --- bytes ---


def sizes(points: list[Point], patches: NDArray[np.float32]) -> dict[str, float]:
    """Mean bytes of one image: as the engine stores them, and as JSON in a REST call's body."""
    bodies = [
        to_payload(point) | to_vectors(structs.replace(point, patches=patches)) for point in points
    ]

    def in_body(name: str) -> float:
        return float(np.mean([len(json.dumps(body[name])) for body in bodies]))

    return {
        "vector_stored_bytes": float(np.mean([p.vector.nbytes for p in points])),  # type: ignore[union-attr]
        "vector_body_bytes": in_body("image"),
        "local_packed_bytes": float(np.mean([len(p.local or b"") for p in points])),
        "local_base64_bytes": in_body("local"),
        "colours_packed_bytes": float(np.mean([len(p.colours or b"") for p in points])),
        "colours_base64_bytes": in_body("colours"),
        "patches_stored_bytes": float(patches.astype(np.float16).nbytes),
        "patches_body_bytes": in_body("patches"),
        "body_bytes": float(np.mean([len(json.dumps(body)) for body in bodies])),
    }


def measure(data: Path | None, images: int, rounds: int) -> dict[str, float]:
    embedder, orb = Embedder(MODEL), open_peer()
    files = [item.data for item in sampled(data, images)]
    copies = edited_copies(files)
    fill = [item.data for item in sample_images.products()] if data is None else []
    listed = [*files, *fill, *(copy.data for copy in copies)][:CANDIDATES]
    points = indexed(listed, embedder)
    query = features_of(copies[0].data, embedder)
    timed = works(query, [features_of_point(point, embedder.spec) for point in points], embedder)
    if orb:
        pixels = orb.pixels(copies[0].data)
        mine, others = orb.detect(pixels), [orb.describe(file) for file in listed[:VERIFIED]]
        timed["peer_describe_ms"] = lambda: orb.detect(pixels)
        timed["peer_ms_per_50"] = lambda: [orb.inliers(mine, other) for other in others]
    found = least_ms(timed, rounds)
    if orb:
        found["ratio"] = found["geometry_ms_per_50"] / found["peer_ms_per_50"]
    assert query.patches is not None
    return found | separation(copies, files, embedder, orb) | sizes(points, query.patches)


def sampled(data: Path | None, most: int) -> list[sample_images.Item]:
    """An even sample of a folder's images, or scikit-image's photographs."""
    items = list(sample_images.from_folder(data) if data else sample_images.photographs())
    return items[:: -(-len(items) // most)]


def show(found: dict[str, float]) -> None:
    budgets = {name: 1000 * stage.budget_s for name, stage in timed_stages().items()}
    targets = budgets | TARGETS
    print(f"{'':<24}{'figure':>10}{'at most':>10}")
    for name, value in found.items():
        figure = f"{value:10.0f}" if value >= 100 else f"{value:10.3f}"
        print(f"{name:<24}{figure}{targets.get(name, ''):>10}")
    if "ratio" not in found:
        print(MISSING)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="a JSON object on the last line")
    parser.add_argument("--data", type=Path, help="a folder of photos instead of scikit-image's")
    parser.add_argument("--pictures", type=int, default=40, help="at most so many of them")
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    found = measure(arguments.data, arguments.pictures, arguments.rounds)
    show(found)
    if arguments.json:
        print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
