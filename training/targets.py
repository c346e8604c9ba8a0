"""Writes shards of views with the teachers' outputs for them: WORK/shards/NNNNN.npy.

Each shard is a structured array (see `RECORD`) and is written atomically, so an interrupted run can
be resumed. Views 2k and 2k + 1 of a shard show the same photo. The first step fits the linear maps
that reduce the dimensions of the teachers' descriptors: WORK/basis.npz.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

import listing
from teachers import COARSE, FINE, POOLED, Teachers, unit
from views import SIDE, make_view

COARSE_DIM, FINE_DIM = 256, 64
SHARD = 512
# One view: 155 kB. Fine descriptors are unit vectors times 127.
RECORD = np.dtype(
    [
        ("view", np.uint8, (SIDE, SIDE, 3)),
        ("to_photo", np.float32, (3, 3)),
        ("photo", np.int32),
        ("pooled", np.float16, (sum(POOLED.values()),)),
        ("coarse", np.float16, (COARSE**2, COARSE_DIM)),
        ("fine", np.int8, (FINE**2, FINE_DIM)),
        ("salience", np.float16, (FINE**2,)),
    ]
)


def fit_basis(data: Path, models: Path, work: Path, seed: int, photos: int = 600) -> None:
    """Principal axes and means of the teachers' two maps over some photos."""
    rng = np.random.default_rng(seed)
    listed = listing.read(work, "train")
    teachers = Teachers(models)
    chosen = rng.choice(len(listed), min(photos, len(listed)), replace=False)
    coarse, fine = [], []
    for index in track(chosen, "principal axes"):
        outputs = teachers(_open(data, listed[index].path))
        coarse.append(outputs.coarse)
        fine.append(outputs.fine[rng.choice(FINE**2, 64, replace=False)])
    basis = {}
    for name, rows, dim in (("coarse", coarse, COARSE_DIM), ("fine", fine, FINE_DIM)):
        stacked = np.concatenate(rows).astype(np.float64)
        mean = stacked.mean(axis=0)
        _, axes = np.linalg.eigh(np.cov(stacked - mean, rowvar=False))
        basis[f"{name}_mean"] = mean.astype(np.float32)
        basis[f"{name}_axes"] = np.ascontiguousarray(axes[:, ::-1][:, :dim], np.float32)
    np.savez(_partial(work / "basis.npz"), **basis)
    _partial(work / "basis.npz").rename(work / "basis.npz")


def write_shard(number: int, data: Path, models: Path, work: Path, seed: int) -> None:
    """One file of SHARD records, determined by seed and number."""
    path = work / "shards" / f"{number:05}.npy"
    teachers, basis, photos = _resources(models, work)
    rng = np.random.default_rng((seed, number))
    chosen = np.repeat(rng.integers(len(photos), size=SHARD // 2), 2)
    records = np.zeros(SHARD, RECORD)

    def another() -> Image.Image:
        return _open(data, photos[int(rng.integers(len(photos)))].path)

    for record, index in zip(records, chosen, strict=True):
        view = make_view(_open(data, photos[index].path), another, rng)
        outputs = teachers(view.image)
        record["view"], record["to_photo"], record["photo"] = view.image, view.to_photo, index
        record["pooled"] = outputs.pooled
        record["coarse"] = (outputs.coarse - basis["coarse_mean"]) @ basis["coarse_axes"]
        fine = unit((outputs.fine - basis["fine_mean"]) @ basis["fine_axes"])
        record["fine"] = np.rint(fine * 127)
        record["salience"] = outputs.salience
    np.save(_partial(path), records)
    _partial(path).rename(path)


@cache
def _resources(
    models: Path, work: Path
) -> tuple[Teachers, dict[str, NDArray[Any]], list[listing.Photo]]:
    """Loaded once per process and used for every shard."""
    return Teachers(models), dict(np.load(work / "basis.npz")), listing.read(work, "train")


def _open(data: Path, path: str) -> Image.Image:
    return Image.open(data / path).convert("RGB")


def _partial(path: Path) -> Path:
    return path.with_name(f"partial-{path.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that the listing's paths start from")
    parser.add_argument("models", type=Path, help="folder with the teachers' .onnx files")
    parser.add_argument("work", type=Path, help="folder with photos.csv, see listing.py")
    parser.add_argument("--views", type=int, default=61440, help="9.5 GB (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    data, models, work = arguments.data, arguments.models, arguments.work
    (work / "shards").mkdir(parents=True, exist_ok=True)
    if not (work / "basis.npz").exists():
        fit_basis(data, models, work, arguments.seed)
    missing = [
        number
        for number in range(-(-arguments.views // SHARD))
        if not (work / "shards" / f"{number:05}.npy").exists()
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        shards = [
            pool.submit(write_shard, number, data, models, work, arguments.seed)
            for number in missing
        ]
        for shard in track(as_completed(shards), "views and targets", total=len(shards)):
            shard.result()
    print(f"{len(list((work / 'shards').glob('[0-9]*.npy')))} shards of {SHARD} views in {work}")


if __name__ == "__main__":
    main()
