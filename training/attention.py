"""An experiment: does a learned verifier, attention over two images' descriptors, beat geometry?

A small version of AMES (Suma et al., ECCV 2024, arXiv 2408.03282): 32 descriptors of each image
with their positions, two layers of 96 dimensions, one logit. Positive pairs are views of one photo,
negative ones views of similar photos. Writes WORK/RUN/attention.onnx, times it, and measures on the
tasks of `evaluate.py` how much it improves the ranking of the profile `precise` when its
probability, times a weight, is added to the score. All weights are shown, so the best figure is
optimistic: if even that is no gain, there is none.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from console.evaluation.metrics import Estimate, estimate
from evaluate import SetFeatures, Task, Vectors, tasks
from likeness.descriptor_packing import KEPT, cell_positions
from likeness.embedding import Embedder
from likeness.proof.geometry import verify
from likeness.proof.verdicts import Calibration, load_calibration
from likeness.rerank.refinement import refine
from likeness.search import DEPTH
from pixels import normalised

TOKENS = 32  # the most salient descriptors of an image
_DIM, _LAYERS, _HEADS = 96, 2, 4
_BATCH, _NEGATIVES = 64, 3
_HARD = 20  # negatives are drawn from this many nearest views of other photos
_SIDE = 14
WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.5)


class Verifier(nn.Module):
    """Descriptors (N, 32, D) and positions (N, 32, 2) of 0…1 of two images → logits (N,)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.descriptor = nn.Linear(dim, _DIM)
        self.place = nn.Sequential(nn.Linear(2, _DIM), nn.ReLU(), nn.Linear(_DIM, _DIM))
        self.image = nn.Parameter(torch.randn(2, _DIM) * 0.02)
        self.verdict = nn.Parameter(torch.randn(1, 1, _DIM) * 0.02)
        layer = nn.TransformerEncoderLayer(
            _DIM, _HEADS, 2 * _DIM, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)
        self.logit = nn.Linear(_DIM, 1)

    def forward(self, query: Tensor, query_at: Tensor, target: Tensor, target_at: Tensor) -> Tensor:
        images = [
            self.descriptor(rows) + self.place(at) + self.image[n]
            for n, (rows, at) in enumerate(((query, query_at), (target, target_at)))
        ]
        # added to zeros, not expanded: an exported graph would keep the example's batch size
        verdict = self.verdict + torch.zeros_like(images[0][:, :1])
        seen = self.layers(torch.cat([verdict, *images], dim=1))
        logit: Tensor = self.logit(seen[:, 0])[:, 0]
        return logit


def salient(
    local: NDArray[np.float32], salience: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The TOKENS most salient descriptors (N, 32, D) and their positions (N, 32, 2) of 0…1."""
    best = np.argsort(-salience, axis=1, kind="stable")[:, :TOKENS]
    rows = np.take_along_axis(local, best[..., None], axis=1)
    return rows.astype(np.float32), cell_positions(_SIDE)[best] / (_SIDE - 1)


def describe_views(
    work: Path, embedder: Embedder, shards: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Vectors, descriptors, positions and photo numbers of the views of some shards."""
    vectors, rows, positions, photos = [], [], [], []
    for path in track(sorted((work / "shards").glob("[0-9]*.npy"))[:shards], "describing"):
        for record in np.load(path, mmap_mode="r"):
            image = Image.fromarray(record["view"]).resize((224, 224), Image.Resampling.BICUBIC)
            found = embedder.extract([normalised(np.asarray(image))])
            assert found.local is not None
            assert found.salience is not None
            row, position = salient(found.local, found.salience)
            vectors.append(found.vectors[0])
            rows.append(row[0])
            positions.append(position[0])
            photos.append(record["photo"])
    return np.array(vectors), np.array(rows), np.array(positions), np.array(photos)


def train(
    verifier: Verifier,
    vectors: NDArray[np.float32],
    rows: NDArray[np.float32],
    positions: NDArray[np.float32],
    photos: NDArray[np.int32],
    steps: int,
    rate: float,
    seed: int,
) -> None:
    """Each step compares views 2k and 2k + 1, and each with views of similar photos."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(verifier.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    all_rows, all_positions = torch.from_numpy(rows), torch.from_numpy(positions)
    near = _neighbours(vectors, photos)
    mean, started = 0.7, time.monotonic()
    for step in track(range(steps), "training"):
        pairs, sides = rng.integers(len(vectors) // 2, size=_BATCH), rng.integers(2, size=_BATCH)
        first_views = 2 * pairs + sides
        negatives = near[first_views[:, None], rng.integers(_HARD, size=(_BATCH, _NEGATIVES))]
        candidates = np.concatenate([(first_views ^ 1)[:, None], negatives], axis=1).ravel()
        query = np.repeat(first_views, 1 + _NEGATIVES)
        truth = torch.zeros(_BATCH, 1 + _NEGATIVES)
        truth[:, 0] = 1
        logits = verifier(
            all_rows[query], all_positions[query], all_rows[candidates], all_positions[candidates]
        ).view(_BATCH, -1)
        # a ranking loss over the candidates, and a binary loss for each pair
        loss = functional.cross_entropy(logits, torch.zeros(_BATCH, dtype=torch.long))
        loss = loss + functional.binary_cross_entropy_with_logits(logits, truth)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(verifier.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean = 0.99 * mean + 0.01 * float(loss.detach())
        if step % 500 == 499:
            rate_now = step / (time.monotonic() - started)
            print(f"step {step + 1}  loss {mean:.3f}  {rate_now:.1f} steps/s", flush=True)


def _neighbours(vectors: NDArray[np.float32], photos: NDArray[np.int32]) -> NDArray[np.intp]:
    """For each view, the _HARD nearest views of other photos: (N, _HARD)."""
    found = np.empty((len(vectors), _HARD), np.intp)
    for at in range(0, len(vectors), 1024):
        cosines = vectors[at : at + 1024] @ vectors.T
        cosines[photos[at : at + 1024, None] == photos] = -2
        best = np.argpartition(-cosines, _HARD, axis=1)[:, :_HARD]
        found[at : at + 1024] = best
    return found


def export(verifier: Verifier, path: Path, dim: int) -> None:
    example = tuple(torch.zeros(2, TOKENS, size) for size in (dim, 2, dim, 2))
    names = ["query", "query_at", "target", "target_at"]
    torch.onnx.export(
        verifier.eval(),
        example,
        str(path),
        input_names=names,
        output_names=["logit"],
        dynamic_axes={name: {0: "pairs"} for name in [*names, "logit"]},
        dynamo=False,
    )


def gains(
    session: ort.InferenceSession,
    task: Task,
    sets: dict[str, SetFeatures],
    calibration: Calibration,
) -> dict[float, Estimate]:
    """For each weight, the change of R@1 over `precise`, with its confidence interval."""
    query_set, rows = task.queries
    queries = sets[query_set]
    parts = [(sets[name], chosen) for name, chosen in task.gallery]
    vectors = np.concatenate([found.vectors[chosen] for found, chosen in parts])
    local = np.concatenate([_required(found.local)[chosen] for found, chosen in parts])
    salience = np.concatenate([_required(found.salience)[chosen] for found, chosen in parts])
    target_rows, target_at = salient(local, salience)
    stored = np.argsort(-salience, axis=1, kind="stable")[:, :KEPT]
    kept, kept_at = (
        np.take_along_axis(local, stored[..., None], axis=1),
        cell_positions(_SIDE)[stored],
    )
    query_rows, query_at = salient(
        _required(queries.local)[rows], _required(queries.salience)[rows]
    )
    cosines = queries.vectors[rows] @ vectors.T
    if task.ignored is not None:
        cosines = np.where(task.ignored, -1, cosines)
    correct: dict[float, list[bool]] = {weight: [] for weight in (0.0, *WEIGHTS)}
    for n, row in enumerate(track(rows, task.name, transient=True)):
        first = np.argsort(-cosines[n], kind="stable")[:DEPTH]
        share = calibration.refinement
        score = (1 - share) * cosines[n, first]
        score += share * refine(queries.vectors[row], vectors[first])
        found = verify(
            _required(queries.local)[row], cell_positions(_SIDE), kept[first], kept_at[first]
        )
        score += calibration.geometry * found.score
        repeated = np.repeat(query_rows[n : n + 1], len(first), axis=0)
        repeated_at = np.repeat(query_at[n : n + 1], len(first), axis=0)
        feed = {"query": repeated, "query_at": repeated_at, "target": target_rows[first]}
        [logit] = session.run(None, {**feed, "target_at": target_at[first]})
        for weight, hits in correct.items():
            best = first[(score + weight / (1 + np.exp(-logit))).argmax()]
            hits.append(bool(task.relevant[n, best]))
    before = np.array(correct[0.0], np.float64)
    return {
        weight: estimate(np.array(correct[weight], np.float64) - before, task.groups)
        for weight in WEIGHTS
    }


def _required(values: NDArray[np.float32] | None) -> NDArray[np.float32]:
    assert values is not None
    return values


def pair_ms(session: ort.InferenceSession, dim: int, pairs: int = 100) -> float:
    """Milliseconds per pair, the minimum of ten runs."""
    sizes = {"query": dim, "query_at": 2, "target": dim, "target_at": 2}
    feed = {name: np.ones((pairs, TOKENS, size), np.float32) for name, size in sizes.items()}
    times = []
    for _ in range(10):
        started = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - started)
    return min(times) * 1000 / pairs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with grocery/, copies/ and clothing/")
    parser.add_argument("work", type=Path, help="folder with shards/")
    parser.add_argument("run", help="folder under WORK for attention.onnx")
    parser.add_argument("bundle", type=Path, help="the model bundle whose descriptors it compares")
    parser.add_argument(
        "--shards", type=int, default=40, help="number of shards of views (default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=6000, help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate (default: 1e-3)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(os.cpu_count() or 1)
    embedder = Embedder(arguments.bundle)
    assert embedder.spec.local
    dim = embedder.spec.local.dim
    views = describe_views(arguments.work, embedder, arguments.shards)
    verifier = Verifier(dim)
    train(verifier, *views, arguments.steps, arguments.rate, arguments.seed)
    folder = arguments.work / arguments.run
    folder.mkdir(parents=True, exist_ok=True)
    export(verifier, folder / "attention.onnx", dim)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(folder / "attention.onnx"), options)
    weights = sum(p.numel() for p in verifier.parameters())
    print(f"{weights} weights, {pair_ms(session, dim):.2f} ms per pair on one core")
    calibration = load_calibration(arguments.bundle, embedder.fingerprint)
    assert calibration is not None
    sets = Vectors(arguments.data, folder / "vectors").of_bundle("ours", arguments.bundle)
    for task in tasks(arguments.data):
        print(task.name)
        for weight, gain in gains(session, task, sets, calibration).items():
            print(f"  weight {weight:<5} R@1 {gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")


if __name__ == "__main__":
    main()
