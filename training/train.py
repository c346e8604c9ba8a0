"""Trains the student on the shards: writes WORK/RUN/checkpoint.pt and log.csv.

An interrupted run resumes from its last checkpoint. The losses, which are added with weights:

vector    cosine to the teachers' pooled vectors, through a learned map (FitNets, arXiv 1412.6550)
relation  the batch's similarity matrix compared with the teachers' (Tung and Mori, ICCV 2019)
coarse    cosine to MobileNetV2's last map, at each position
fine      cosine to its middle map, at each position
salience  how well XFeat would find the position again
instance  two views of one photo attract each other (InfoNCE, arXiv 1807.03748)
spot      so do corresponding positions of two views, matched by their homographies
label     classes of the training sets, by supervised contrastive learning (arXiv 2004.11362)
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

import listing
from network import EMBEDDING_DIM, LOCAL_DIM, Features, Network, to_images
from targets import COARSE_DIM, FINE_DIM
from teachers import COARSE, FINE, POOLED
from validation import Validation

WEIGHTS = {
    "vector": 2.0,
    "relation": 20.0,
    "coarse": 1.0,
    "fine": 1.0,
    "salience": 0.3,
    "instance": 0.1,
    "spot": 0.1,
    "label": 0.05,
}
# Side of the images in pixels, and its share of the steps. Most is learnt on small, cheap images;
# the last steps adapt the network to the size that it is used with (arXiv 1906.06423).
Sides = tuple[tuple[int, float], ...]
SIDES: Sides = ((128, 0.7), (160, 0.22), (224, 0.08))
AVERAGING_DECAY = 0.9995  # of the moving average of the weights
SPOTS = 512  # pairs of positions compared in a batch
_TEMPERATURE = 0.1


class Shards:
    """All records of WORK/shards, memory-mapped; a batch consists of whole pairs of views."""

    def __init__(self, work: Path) -> None:
        paths = sorted((work / "shards").glob("[0-9]*.npy"))
        self._shards = [np.load(path, mmap_mode="r") for path in paths]
        self._size = len(self._shards[0])
        labels = [photo.label for photo in listing.read(work, "train")]
        self._labels = np.unique(labels, return_inverse=True)[1]
        # from the first shards, so that it stays the same while others are still being written
        first = np.concatenate([shard["pooled"][::8] for shard in self._shards[:8]])
        self.pooled_mean = torch.from_numpy(first.astype(np.float32).mean(axis=0))

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self._shards) * self._size // 2

    def batch(self, pairs: NDArray[np.intp]) -> dict[str, Tensor]:
        views = np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel()
        records = [self._shards[v // self._size][v % self._size] for v in views]
        fields = ("view", "to_photo", "pooled", "coarse", "fine", "salience", "photo")
        batch = {name: torch.from_numpy(np.stack([r[name] for r in records])) for name in fields}
        batch["label"] = torch.from_numpy(self._labels[batch["photo"].numpy()])
        return batch


class Student(nn.Module):
    """The network, and maps from its heads into the teachers' spaces, which are not shipped."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()
        self.vector = nn.Linear(EMBEDDING_DIM, sum(POOLED.values()))
        self.coarse = nn.Conv2d(EMBEDDING_DIM, COARSE_DIM, 1)
        self.fine = nn.Conv2d(LOCAL_DIM, FINE_DIM, 1)


def losses(
    student: Student,
    features: Features,
    batch: dict[str, Tensor],
    pooled_mean: Tensor,
    mirrored: bool,
) -> dict[str, Tensor]:
    """The losses, unweighted scalars. `mirrored`: the images are mirrored, the targets not yet."""
    side = features.coarse.shape[-1]
    target_vectors = _centred(batch["pooled"].float(), pooled_mean)
    raw = features.embedding
    embedding = functional.normalize(raw, dim=1)
    local = functional.normalize(features.local, dim=1)
    salience = _resized(batch["salience"].float(), FINE, 2 * side, mirrored).squeeze(1)
    coarse = _resized(batch["coarse"].float(), COARSE, side, mirrored)
    found = {
        "vector": 1 - functional.cosine_similarity(student.vector(raw), target_vectors).mean(),
        "relation": _relation(embedding, functional.normalize(target_vectors, dim=1)),
        "coarse": 1 - functional.cosine_similarity(student.coarse(features.coarse), coarse).mean(),
        "salience": functional.binary_cross_entropy_with_logits(features.salience, salience),
        "instance": _contrast(embedding, batch["photo"]),
        "spot": _spots(local, batch["to_photo"].double(), mirrored),
        "label": _contrast(embedding, batch["label"]),
    }
    # Mirroring changes local descriptors: the teachers' fine map is no target for a mirrored view.
    if not mirrored:
        fine = _resized(batch["fine"].float(), FINE, 2 * side, mirrored)
        found["fine"] = 1 - functional.cosine_similarity(student.fine(features.local), fine).mean()
    return found


def _centred(pooled: Tensor, mean: Tensor) -> Tensor:
    """Each teacher's part minus its mean, at unit length, so that all three count the same."""
    parts = (pooled - mean).split(list(POOLED.values()), dim=1)
    return torch.cat([functional.normalize(part, dim=1) for part in parts], dim=1)


def _resized(cells: Tensor, cells_a_side: int, side: int, mirrored: bool) -> Tensor:
    """(N, cells²[, C]) → (N, C or 1, side, side)."""
    maps = cells.reshape(len(cells), cells_a_side, cells_a_side, -1).permute(0, 3, 1, 2)
    maps = functional.adaptive_avg_pool2d(maps, side) if side != cells_a_side else maps
    return maps.flip(3) if mirrored else maps


def _relation(embedding: Tensor, target_vectors: Tensor) -> Tensor:
    """Mean squared difference of the two similarity matrices, off the diagonal."""
    size = len(embedding)
    difference = embedding @ embedding.T - target_vectors @ target_vectors.T
    return (difference**2).sum() / (size * (size - 1))


def _contrast(embedding: Tensor, group: Tensor) -> Tensor:
    """Supervised contrastive loss, eq. 2 of Khosla et al.: rows of one group attract."""
    logits = embedding @ embedding.T / _TEMPERATURE
    diagonal = torch.eye(len(embedding), dtype=torch.bool, device=embedding.device)
    logits = logits.masked_fill(diagonal, -1e9)
    positive = (group[:, None] == group[None]) & ~diagonal
    log_probability = functional.log_softmax(logits, dim=1)
    return -((log_probability * positive).sum(dim=1) / positive.sum(dim=1).clamp(min=1)).mean()


def _spots(local: Tensor, to_photo: Tensor, mirrored: bool) -> Tensor:
    """InfoNCE between corresponding positions of the two views of each pair.

    A cell's centre is mapped through the photo into the other view. If it lands within half a cell
    of a centre there, the two cells correspond. All other sampled positions are negatives.
    """
    side = local.shape[-1]
    if mirrored:
        to_photo = to_photo @ torch.tensor(
            [[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]], dtype=to_photo.dtype, device=to_photo.device
        )
    across = torch.linalg.solve(to_photo[1::2], to_photo[0::2])
    centres = (torch.arange(side, dtype=to_photo.dtype, device=local.device) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([x.ravel(), y.ravel(), torch.ones_like(x).ravel()])
    moved = across @ points
    cells = (moved[:, :2] / moved[:, 2:]) * side - 0.5
    nearest = cells.round()
    inside = ((nearest >= 0) & (nearest < side)).all(dim=1) & (moved[:, 2] > 0)
    inside &= ((cells - nearest).norm(dim=1) < 0.5) & (torch.linalg.det(across) > 0)[:, None]
    pair, cell = inside.nonzero(as_tuple=True)
    if not len(pair):
        return local.sum() * 0
    sampled = torch.randperm(len(pair), device=local.device)[:SPOTS]
    pair, cell = pair[sampled], cell[sampled]
    target = (nearest[:, 1] * side + nearest[:, 0]).long()[pair, cell]
    flat = local.flatten(2)
    one, other = flat[2 * pair, :, cell], flat[2 * pair + 1, :, target]
    logits = one @ other.T / _TEMPERATURE
    truth = torch.arange(len(sampled), device=local.device)
    return (functional.cross_entropy(logits, truth) + functional.cross_entropy(logits.T, truth)) / 2


def _recoloured(images: Tensor) -> Tensor:
    """A random gain and offset per channel, not seen by the teachers, so that no view repeats."""
    shape = (len(images), 3, 1, 1)
    gain = 1 + 0.1 * torch.randn(shape, device=images.device)
    return images * gain + 0.1 * torch.randn(shape, device=images.device)


def side_at(sides: Sides, progress: float) -> int:
    """Side of the images at this share of the steps."""
    for side, share in sides:
        if progress < share:
            return side
        progress -= share
    return sides[-1][0]


class Run:
    """A student in training, and the state of its checkpoint."""

    def __init__(self, folder: Path, steps: int, rate: float, seed: int, sides: Sides) -> None:
        torch.manual_seed(seed)
        self._sides = sides
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._folder, self._steps, self._rate, self._seed = folder, steps, rate, seed
        self.student = Student().to(self.device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.student.network).eval()
        decayed = [p for p in self.student.parameters() if p.ndim > 1]
        plain = [p for p in self.student.parameters() if p.ndim <= 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
            lr=rate,
        )
        self.step = 0
        path = folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, map_location=self.device, weights_only=True)
            self.student.load_state_dict(state["student"])
            self.averaged.load_state_dict(state["averaged"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    def start_from(self, folder: Path) -> None:
        """Load another run's averaged weights, and its maps into the teachers' spaces."""
        state = torch.load(folder / "checkpoint.pt", map_location=self.device, weights_only=True)
        self.student.load_state_dict(state["student"])
        self.student.network.load_state_dict(state["averaged"])
        self.averaged.load_state_dict(state["averaged"])

    def save(self) -> None:
        """Write the checkpoint atomically."""
        partial = self._folder / "partial.pt"
        torch.save(
            {
                "student": self.student.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "step": self.step,
            },
            partial,
        )
        partial.rename(self._folder / "checkpoint.pt")

    def train_step(self, shards: Shards, pairs: int) -> dict[str, float]:
        # Seeded by the step, so that a resumed run continues as if it had not been interrupted.
        rng = np.random.default_rng((self._seed, self.step))
        torch.manual_seed(self._seed * 1_000_003 + self.step)
        progress = self.step / self._steps
        rate = self._rate * min(1, (self.step + 1) / 300) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        batch = shards.batch(rng.choice(len(shards), pairs, replace=False))
        batch = {name: values.to(self.device) for name, values in batch.items()}
        mirrored = bool(rng.integers(2))
        images = _recoloured(to_images(batch["view"], side_at(self._sides, progress), self.device))
        if mirrored:
            images = images.flip(3).contiguous(memory_format=torch.channels_last)
        self.student.train()
        with torch.autocast(self.device, torch.bfloat16):
            features = Features(*self.student.network(images))
        features = Features(*(head.float() for head in features))
        found = losses(self.student, features, batch, shards.pooled_mean.to(self.device), mirrored)
        loss = sum((WEIGHTS[name] * value for name, value in found.items()), torch.zeros(()))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), 5.0)
        self._optimizer.step()
        self.step += 1
        self._average()
        return {name: float(value.detach()) for name, value in found.items()}

    @torch.no_grad()
    def _average(self) -> None:
        """Exponential moving average; fast at first, or it would keep the initial noise."""
        keep = min(AVERAGING_DECAY, (1 + self.step) / (10 + self.step))
        ours, theirs = self.averaged.state_dict(), self.student.network.state_dict()
        for name, value in ours.items():
            if value.dtype.is_floating_point:
                value.lerp_(theirs[name], 1 - keep)
            else:
                value.copy_(theirs[name])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder that the listing's paths start from")
    parser.add_argument("work", type=Path, help="folder with photos.csv and shards/")
    parser.add_argument("run", help="name of the run: its folder under WORK")
    parser.add_argument("--steps", type=int, default=10000, help="(default: %(default)s)")
    parser.add_argument(
        "--pairs", type=int, default=64, help="pairs of views per batch (default: 64)"
    )
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate (default: 2e-3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--weight", nargs=2, action="append", default=[], metavar=("LOSS", "WEIGHT")
    )
    parser.add_argument("--start", metavar="RUN", help="start with the weights of another run")
    parser.add_argument("--side", type=int, help="side of all images, instead of growing sides")
    parser.add_argument("--stop", type=int, help="stop after this step; the run can be resumed")
    arguments = parser.parse_args()
    for name, weight in arguments.weight:
        if name not in WEIGHTS:
            parser.error(f"unknown loss: {name}; choose from {', '.join(WEIGHTS)}")
        WEIGHTS[name] = float(weight)
    sides = ((arguments.side, 1.0),) if arguments.side else SIDES
    torch.set_num_threads(os.cpu_count() or 1)
    folder = arguments.work / arguments.run
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder, arguments.steps, arguments.rate, arguments.seed, sides)
    if arguments.start and not run.step:
        run.start_from(arguments.work / arguments.start)
    validation = Validation(arguments.data, arguments.work)
    _train(run, Shards(arguments.work), validation, folder, arguments)


def _train(
    run: Run, shards: Shards, validation: Validation, folder: Path, arguments: argparse.Namespace
) -> None:
    means: dict[str, float] = {}
    last = min(arguments.steps, arguments.stop or arguments.steps)
    started, first = time.monotonic(), run.step
    with Progress() as progress:
        task = progress.add_task("training", total=last, completed=run.step)
        while run.step < last:
            for name, value in run.train_step(shards, arguments.pairs).items():
                means[name] = 0.98 * means.get(name, value) + 0.02 * value
            progress.advance(task)
            if run.step % 100 == 0 or run.step == last:
                run.save()
            if run.step % 500 == 0 or run.step == last:
                row: dict[str, Any] = {
                    "step": run.step,
                    **{n: round(means[n], 4) for n in WEIGHTS if n in means},
                }
                row |= validation(run.averaged, run.device)
                row["steps_per_s"] = round((run.step - first) / (time.monotonic() - started), 2)
                progress.console.print(row)
                _log(folder / "log.csv", row)
                shards = Shards(arguments.work)  # targets.py may have written more


def _log(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
