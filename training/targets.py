"""Packs the training photos and the teachers' vectors for them: WORK/train/NNNNN.npz.

Every training view of a photo has the vector of the photo itself as its target, so that the student
learns to see through the edit. Each file holds PACK photos and is written atomically: an
interrupted run resumes.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

import listing
from pixels import squashed
from teachers import Teachers

PACK = 512
SIDE = 192  # pixels of a packed photo, squashed to a square; the photos are hardly larger


class Packed(NamedTuple):
    """`pixels`: uint8 (N, SIDE, SIDE, 3). `vectors`: the teachers', float32 (N, 2816)."""

    pixels: NDArray[np.uint8]
    vectors: NDArray[np.float32]


def read(work: Path) -> Packed:
    """All photos of the training part, in the listing's order."""
    paths = sorted((work / "train").glob("[0-9]*.npz"))
    packs = [np.load(path) for path in paths]
    return Packed(
        np.concatenate([pack["pixels"] for pack in packs]),
        np.concatenate([pack["vectors"] for pack in packs]).astype(np.float32),
    )


def write_pack(number: int, data: Path, models: Path, work: Path) -> None:
    """One file of at most PACK photos."""
    pixels, vectors = [], []
    for photo in listing.read(work, "train")[number * PACK : (number + 1) * PACK]:
        image = Image.open(data / photo.path).convert("RGB")
        pixels.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
        vectors.append(_teachers(models)(squashed(image)))
    path = work / "train" / f"{number:05}.npz"
    partial = path.with_name(f"partial-{path.name}")
    np.savez(partial, pixels=np.stack(pixels), vectors=np.stack(vectors).astype(np.float16))
    partial.rename(path)


_teachers = cache(Teachers)  # loaded once per process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that the listing's paths start from")
    parser.add_argument("models", type=Path, help="folder with the teachers' .onnx files")
    parser.add_argument("work", type=Path, help="folder with photos.csv, see listing.py")
    arguments = parser.parse_args()
    work = arguments.work
    (work / "train").mkdir(parents=True, exist_ok=True)
    packs = -(-len(listing.read(work, "train")) // PACK)
    missing = [n for n in range(packs) if not (work / "train" / f"{n:05}.npz").exists()]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(write_pack, number, arguments.data, arguments.models, work)
            for number in missing
        ]
        for job in track(as_completed(jobs), "photos and targets", total=len(jobs)):
            job.result()
    print(f"{packs} files of at most {PACK} photos in {work / 'train'}")


if __name__ == "__main__":
    main()
