"""Time and judgement of the pixel proof beside OpenCV's SIFT and RANSAC: pairs per second, and
how many edits and how many different pictures each tells right.

`python benchmarks/proof.py [DATA]`: with DATA the pairs are 300 edits and 300 pairs of different
photos of its folder copies/; without, of drawn pictures. One thread, pictures decoded before.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from console.evaluation.edits import EDITS
from likeness.proof.pixel_proof import ProofImage, prove_pixels
from likeness.proof.verdicts import Level
from tests.pictures import scene

PAIRS = 300
# Matches within 1 % of the picture that make OpenCV's answer “the same picture”: at fewer, more of
# the different pairs below are called so.
_MIN_INLIERS = 25
_RATIO = 0.75  # Lowe, IJCV 2004, section 7.1: nearest over second nearest distance


class Pair(NamedTuple):
    one: Image.Image
    other: Image.Image
    same: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", help="the folder that holds copies/")
    pairs = _photos(parser.parse_args().data) if parser.parse_args().data else _drawn()
    cv2.setNumThreads(1)
    rows = [
        ("pixel proof", *_measured(pairs, _ours)),
        ("SIFT and RANSAC (OpenCV)", *_measured(pairs, _sift)),
        ("floor: read both to 512 px", *_measured(pairs, _scaled)),
    ]
    ours = rows[0][1]
    print(f"{'':28} {'median ms':>9} {'p95 ms':>7} {'ratio':>6} {'edits right':>11} {'false':>6}")
    for name, median, p95, right, false in rows:
        print(f"{name:28} {median:9.1f} {p95:7.1f} {median / ours:6.2f} {right:11.3f} {false:6.3f}")


def _measured(
    pairs: Sequence[Pair], is_same: Callable[[Image.Image, Image.Image], bool]
) -> tuple[float, float, float, float]:
    """Median and 95th percentile of the time in ms, share of edits found, share of false ones."""
    times, answers = [], []
    for pair in pairs:
        start = time.perf_counter()
        answers.append(is_same(pair.one, pair.other))
        times.append(1000 * (time.perf_counter() - start))
    right = statistics.fmean(a for a, pair in zip(answers, pairs, strict=True) if pair.same)
    false = statistics.fmean(a for a, pair in zip(answers, pairs, strict=True) if not pair.same)
    return statistics.median(times), float(np.quantile(times, 0.95)), right, false


def _ours(one: Image.Image, other: Image.Image) -> bool:
    verdict = prove_pixels(ProofImage(one), ProofImage(other)).verdict
    return verdict is not None and verdict.level in (Level.COPY, Level.EDITED)


def _sift(one: Image.Image, other: Image.Image) -> bool:
    sift = cv2.SIFT_create(1000)
    greys = [np.asarray(ProofImage(image).image.convert("L")) for image in (one, other)]
    (at, found), (other_at, other_found) = (sift.detectAndCompute(grey, None) for grey in greys)
    if found is None or other_found is None or min(len(found), len(other_found)) < 2:
        return False
    matches = cv2.BFMatcher().knnMatch(found, other_found, k=2)
    good = [m for m, n in matches if m.distance < _RATIO * n.distance]
    if len(good) < 4:
        return False
    source = np.float32([at[m.queryIdx].pt for m in good])
    target = np.float32([other_at[m.trainIdx].pt for m in good])
    tolerance = 0.01 * max(greys[1].shape)
    _, inliers = cv2.findHomography(source, target, cv2.RANSAC, tolerance)
    return inliers is not None and int(inliers.sum()) >= _MIN_INLIERS


def _scaled(one: Image.Image, other: Image.Image) -> bool:
    return ProofImage(one).order == ProofImage(other).order


def _drawn() -> list[Pair]:
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(PAIRS):
        image, edit = scene(number, 640, 480), EDITS[number % len(EDITS)]
        edited = _decoded(edit.make(image.copy(), lambda: scene(int(rng.integers(10_000))), rng))
        pairs += [Pair(image, edited, True), Pair(image, scene(20_000 + number, 640, 480), False)]
    return pairs


def _decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _photos(data: Path) -> list[Pair]:
    folder, rng = data / "copies", np.random.default_rng(0)
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    originals = {row["instance"]: row["path"] for row in rows if row["split"] == "gallery"}
    edits = [row for row in rows if row["split"] == "query"]
    pairs = []
    for number in rng.permutation(len(edits))[:PAIRS]:
        mine = edits[number]["instance"]
        another = rng.choice([name for name in originals if name != mine])
        for name, same in ((mine, True), (another, False)):
            paths = folder / originals[name], folder / edits[number]["path"]
            pairs.append(Pair(*(Image.open(path).convert("RGB") for path in paths), same))
    return pairs


if __name__ == "__main__":
    main()
