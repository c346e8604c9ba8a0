"""Trains the student, which goes on from an earlier bundle: WORK/RUN/checkpoint.pt and log.csv.

A run lasts a number of minutes, and its schedule follows the clock, so that it ends in time on any
machine. An interrupted run resumes from its last checkpoint. The losses are in losses.py.
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import math
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

import listing
import targets
from augmentation import make_views
from losses import WEIGHTS, Batch, centred, losses
from network import CLASS_DIM, Features, Network, normalised, to_images
from restore import restore
from teachers import POOLED
from validation import Validation

# Side of the images in pixels, and its share of the time. Most is learnt on small, cheap images.
# The last side is a little less than the 224 that the network is used with: crops enlarge what they
# show, whole pictures don't (Touvron et al., arXiv 1906.06423).
Sides = tuple[tuple[int, float], ...]
SIDES: Sides = ((128, 0.5), (160, 0.3), (192, 0.2))
AVERAGING_DECAY = 0.998  # of the moving average of the weights
BUNDLED = Path(__file__).resolve().parents[1] / "layers" / "model" / "image.onnx"


class Drawn(NamedTuple):
    """Normalised images (N, 3, S, S), the pairs' first ones before they were edited (N/2, 3, S, S),
    and what they show.
    """

    images: Tensor
    plain: Tensor
    batch: Batch


class Photos(Dataset[Drawn]):
    """The training photos in memory; the item of a step is its batch.

    A pair of views is of one photo, or of two photos of one thing where there are several.
    """

    def __init__(self, work: Path, pairs: int, seed: int) -> None:
        self._pairs, self._seed = pairs, seed
        self.side = multiprocessing.Value("i", 0)  # of the images, read by the workers
        listed = listing.read(work, "train")
        packed = targets.read(work)
        self.pixels = torch.from_numpy(packed.pixels)
        vectors = torch.from_numpy(packed.vectors)
        self._targets = centred(vectors, vectors.mean(dim=0))
        # A contributor's photos may show one garment twice, but mostly don't.
        things = [p.path if p.source == "clothing" else p.instance for p in listed]
        self._groups = np.unique(things, return_inverse=True)[1]
        self._kin = np.unique([p.instance for p in listed], return_inverse=True)[1]
        self._labels = np.unique([p.label for p in listed], return_inverse=True)[1]
        order = np.argsort(self._groups, kind="stable")
        bounds = np.searchsorted(self._groups[order], np.arange(self._groups.max() + 2))
        self._of_group = [order[a:b] for a, b in itertools.pairwise(bounds)]

    def __getitem__(self, step: int) -> Drawn:
        rng = np.random.default_rng((self._seed, step))
        groups = rng.choice(len(self._of_group), self._pairs, replace=False)
        chosen = np.array([self._pair(self._of_group[group], rng) for group in groups]).ravel()
        views = make_views(self.pixels[chosen], self.side.value, rng)
        batch = Batch(
            chosen,
            self._groups[chosen],
            self._kin[chosen],
            self._labels[chosen],
            views.second,
            views.share,
            self._targets[chosen],
            views.to_photo,
        )
        return Drawn(normalised(views.images), normalised(views.plain[::2]), batch)

    def steps(self, first: int) -> Iterator[Drawn]:
        """The batches from this step on, made by a process beside the training."""
        return iter(
            DataLoader(self, batch_size=None, sampler=itertools.count(first), num_workers=1)  # type: ignore[arg-type]
        )

    @staticmethod
    def _pair(photos: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
        if len(photos) > 1 and rng.random() < 0.7:
            return rng.choice(photos, 2, replace=False)
        return np.repeat(rng.choice(photos, 1), 2)


class Student(nn.Module):
    """The network, and a map from its classes' half to the teachers' vectors, not shipped."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.vector = nn.Linear(CLASS_DIM, sum(POOLED.values()))


def embed(features: Features, instance_weight: float = 0.5) -> Tensor:
    """The embedding (N, 256): both halves at unit length, then weighted."""
    halves = (
        functional.normalize(features.classes.float(), dim=1) * (1 - instance_weight) ** 0.5,
        functional.normalize(features.instance.float(), dim=1) * instance_weight**0.5,
    )
    return torch.cat(halves, dim=1)


def side_at(sides: Sides, progress: float) -> int:
    """Side of the images at this share of the time."""
    for side, share in sides:
        if progress < share:
            return side
        progress -= share
    return sides[-1][0]


class Plan(NamedTuple):
    """How a run trains: its length, the highest learning rate, the sides of the images."""

    minutes: float
    rate: float
    seed: int
    sides: Sides


class Run:
    """A student in training, and the state of its checkpoint."""

    def __init__(self, folder: Path, photos: Photos, bundle: Path, plan: Plan) -> None:
        torch.manual_seed(plan.seed)
        self._folder, self._photos, self._plan = folder, photos, plan
        sample = photos.pixels[np.random.default_rng(0).integers(len(photos.pixels), size=256)]
        self._earlier = restore(bundle, to_images(sample, 160))
        self._student = Student(copy.deepcopy(self._earlier))
        self._student.to(memory_format=torch.channels_last)
        self._earlier.to(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self._student.network).eval()
        decayed = [p for p in self._student.parameters() if p.ndim > 1]
        plain = [p for p in self._student.parameters() if p.ndim <= 1]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}],
            lr=plan.rate,
        )
        self.step, self.seconds = 0, 0.0
        self._steps: Iterator[Drawn] | None = None
        path = folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            self._student.load_state_dict(state["student"])
            self.averaged.load_state_dict(state["averaged"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]

    @property
    def progress(self) -> float:
        """Share of the time that has been used, at most 1."""
        return min(1.0, self.seconds / (60 * self._plan.minutes))

    def save(self) -> None:
        """Write the checkpoint atomically."""
        partial = self._folder / "partial.pt"
        torch.save(
            {
                "student": self._student.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
            },
            partial,
        )
        partial.rename(self._folder / "checkpoint.pt")

    def train_step(self) -> dict[str, float]:
        started = time.monotonic()
        rate = self._plan.rate * min(1, (self.step + 1) / 100)
        rate *= 0.5 * (1 + math.cos(math.pi * self.progress))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._photos.side.value = side_at(self._plan.sides, self.progress)
        if self._steps is None:
            self._steps = self._photos.steps(self.step)
        images, plain, batch = next(self._steps)
        self._student.train()
        with torch.autocast("cpu", torch.bfloat16):
            features = Features(*self._student.network(images))
            with torch.no_grad():
                earlier = Features(*self._earlier(plain))
        found = losses(
            self._student.vector,
            Features(*(head.float() for head in features)),
            Features(*(head.float() for head in earlier)),
            batch,
        )
        loss = sum((WEIGHTS[name] * value for name, value in found.items()), torch.zeros(()))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._student.parameters(), 5.0)
        self._optimizer.step()
        self.step += 1
        self._average()
        self.seconds += time.monotonic() - started
        return {name: float(value.detach()) for name, value in found.items()}

    @torch.no_grad()
    def _average(self) -> None:
        """Exponential moving average; fast at first, or it would keep the initial noise."""
        keep = min(AVERAGING_DECAY, (1 + self.step) / (10 + self.step))
        ours, theirs = self.averaged.state_dict(), self._student.network.state_dict()
        for name, value in ours.items():
            if value.dtype.is_floating_point:
                value.lerp_(theirs[name], 1 - keep)
            else:
                value.copy_(theirs[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that the listing's paths start from")
    parser.add_argument("work", type=Path, help="folder with photos.csv and train/")
    parser.add_argument("run", help="name of the run: its folder under WORK")
    parser.add_argument("--minutes", type=float, default=90, help="(default: %(default)s)")
    parser.add_argument(
        "--pairs", type=int, default=96, help="pairs of views a batch (default: 96)"
    )
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate (default: 5e-4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--weight", nargs=2, action="append", default=[], metavar=("LOSS", "WEIGHT")
    )
    parser.add_argument(
        "--bundle", type=Path, default=BUNDLED, help="image.onnx to go on from (default: bundled)"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="besides one that makes the views (default: 2)"
    )
    parser.add_argument("--side", type=int, help="side of all images, instead of growing sides")
    arguments = parser.parse_args()
    for name, weight in arguments.weight:
        if name not in WEIGHTS:
            parser.error(f"unknown loss: {name}; choose from {', '.join(WEIGHTS)}")
        WEIGHTS[name] = float(weight)
    sides = ((arguments.side, 1.0),) if arguments.side else SIDES
    torch.set_num_threads(arguments.threads)
    folder = arguments.work / arguments.run
    folder.mkdir(parents=True, exist_ok=True)
    validation = Validation(arguments.data, arguments.work)
    photos = Photos(arguments.work, arguments.pairs, arguments.seed)
    plan = Plan(arguments.minutes, arguments.rate, arguments.seed, sides)
    _train(Run(folder, photos, arguments.bundle, plan), validation, folder)


def _train(run: Run, validation: Validation, folder: Path, validations: int = 12) -> None:
    means: dict[str, float] = {}
    checked = math.floor(run.progress * validations)
    with Progress() as bar:
        task = bar.add_task("training", total=1.0, completed=run.progress)
        while run.progress < 1:
            for name, value in run.train_step().items():
                means[name] = 0.98 * means.get(name, value) + 0.02 * value
            bar.update(task, completed=run.progress)
            if run.step % 100 == 0:
                run.save()
                print({name: round(value, 3) for name, value in means.items()}, flush=True)
            if math.floor(run.progress * validations) > checked:
                checked = math.floor(run.progress * validations)
                _log(run, validation, means, folder)
    run.save()


def _log(run: Run, validation: Validation, means: dict[str, float], folder: Path) -> None:
    def vectors(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            features: Features = run.averaged(images)
        return embed(features)

    row = {"step": run.step, "minutes": round(run.seconds / 60, 1)}
    row |= validation(vectors) | {name: round(value, 4) for name, value in means.items()}
    path = folder / "log.csv"
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(row, flush=True)


if __name__ == "__main__":
    main()
