"""Compares the exported networks with the trained one; exits with 1 if a limit is exceeded.

torch → float32 ONNX: cosine ≥ .9999. float32 → int8: median cosine of the embeddings ≥ .99.
An image in a batch and alone: ≥ .999. Also checked: unit length, and size ≤ 5 MB. Prints the time
for one image on one core, compared with MobileNetV2 in int8 where MODELS is given.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

import listing
from export import OUTPUTS
from network import Network
from pixels import tensor

PHOTOS, MAX_MB = 200, 5.0


def open_session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def embed(
    session: ort.InferenceSession, images: list[NDArray[np.float32]], batch: int = 1
) -> list[NDArray[np.float32]]:
    """The four outputs of all images."""
    runs = [
        session.run(list(OUTPUTS), {"image": np.concatenate(images[i : i + batch])})
        for i in range(0, len(images), batch)
    ]
    return [np.concatenate(output) for output in zip(*runs, strict=True)]


def trained_local(checkpoint: Path, images: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The trained network's own local descriptors, which export does not whiten."""
    network = Network().eval()
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    network.load_state_dict(state["averaged"])
    with torch.no_grad():
        local = [network(torch.from_numpy(i)).local.flatten(2).transpose(1, 2) for i in images]
    return np.asarray(torch.nn.functional.normalize(torch.cat(local), dim=2).numpy())


def cosines(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((one * other).sum(axis=-1))


def milliseconds(session: ort.InferenceSession, feed: dict[str, Any], runs: int = 60) -> float:
    session.run(None, feed)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder that the listing's paths start from")
    parser.add_argument("work", type=Path)
    parser.add_argument("run")
    parser.add_argument("--models", type=Path, help="folder with mobilenetv2_int8.onnx")
    arguments = parser.parse_args()
    folder = arguments.work / arguments.run
    listed = listing.read(arguments.work, "validation")
    images = [tensor(arguments.data / photo.path) for photo in listed[:: -(-len(listed) // PHOTOS)]]
    full, small = open_session(folder / "image.f32.onnx"), open_session(folder / "image.onnx")
    exact, rounded = embed(full, images), embed(small, images)
    local = cosines(trained_local(folder / "checkpoint.pt", images), exact[2])
    quantised = cosines(exact[0], rounded[0])
    alone = cosines(embed(small, images, batch=8)[0], rounded[0])
    lengths = np.abs(np.linalg.norm(rounded[0], axis=1) - 1).max()
    megabytes = (folder / "image.onnx").stat().st_size / 1e6
    print(f"float32 ONNX and torch   cosine of local descriptors, lowest {local.min():.6f}")
    print(
        f"int8 and float32         cosine, median {np.median(quantised):.4f}, "
        f"lowest {quantised.min():.4f}"
    )
    for name, one, other in zip(OUTPUTS[1:3], exact[1:3], rounded[1:3], strict=True):
        print(f"{'':25}{name}: median {np.median(cosines(one, other)):.4f}")
    print(f"batch of 8 and alone     cosine, lowest {alone.min():.6f}")
    print(f"size                     {megabytes:.2f} MB")
    print(
        f"one image, one core      float32 {milliseconds(full, {'image': images[0]}):.1f} ms, "
        f"int8 {milliseconds(small, {'image': images[0]}):.1f} ms"
    )
    if arguments.models:
        peer = open_session(arguments.models / "mobilenetv2_int8.onnx")
        feed = {"input": np.zeros((1, 224, 224, 3), np.uint8)}
        print(f"{'':25}MobileNetV2 int8 {milliseconds(peer, feed):.1f} ms")
    checks = {
        "float32 ONNX is not the trained network": local.min() >= 0.9999,
        "int8 is too far from float32": np.median(quantised) >= 0.99,
        "a batch changes an image's embedding": alone.min() >= 0.999,
        "embeddings are not of unit length": lengths < 1e-3,
        "the network is too large": megabytes <= MAX_MB,
    }
    if missed := [text for text, passed in checks.items() if not passed]:
        sys.exit("; ".join(missed))


if __name__ == "__main__":
    main()
