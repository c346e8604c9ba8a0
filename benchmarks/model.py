"""Time of the bundled network alone, one image on one core, and of MobileNetV2 in int8 from MODELS.

`--avx2` runs it as on a processor without AVX-512, like many that Lambda uses (needs `cc`), and
compares the embeddings with those of this processor.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

REPOSITORY = Path(__file__).resolve().parent.parent
NETWORK = REPOSITORY / "layers" / "model" / "image.onnx"
RUNS = 100


def open_session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def milliseconds(session: ort.InferenceSession, feed: dict[str, Any]) -> float:
    """Median of RUNS runs."""
    times = []
    for _ in range(RUNS + 5):
        start = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - start)
    return statistics.median(times[5:]) * 1e3


def measure(models: Path | None) -> dict[str, Any]:
    """Times in this process, and the embeddings of random images."""
    ours = open_session(NETWORK)
    images = np.random.default_rng(0).normal(size=(4, 3, 224, 224)).astype(np.float32)
    figures: dict[str, Any] = {"ms": milliseconds(ours, {"image": images[:1]})}
    if models:
        peer = open_session(models / "mobilenetv2_int8.onnx")
        feed = {"input": np.zeros((1, 224, 224, 3), np.uint8)}
        figures["mobilenetv2_ms"] = milliseconds(peer, feed)
        figures["ratio"] = figures["ms"] / figures["mobilenetv2_ms"]
    figures["embedding"] = ours.run(["embedding"], {"image": images})[0].tolist()
    return figures


def measure_as_avx2(models: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "avx2_only.so"
        source = REPOSITORY / "benchmarks" / "avx2_only.c"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
        command = [sys.executable, __file__, "--raw", *(["--models", models] if models else [])]
        environment = os.environ | {"LD_PRELOAD": str(library)}
        ran = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, help="folder with mobilenetv2_int8.onnx")
    parser.add_argument("--avx2", action="store_true", help="measure again without AVX-512")
    parser.add_argument("--json", action="store_true", help="print the JSON on one line")
    parser.add_argument("--raw", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    figures = measure(arguments.models)
    if arguments.raw:
        print(json.dumps(figures))
        return
    native = np.array(figures.pop("embedding"))
    report = {"mb": NETWORK.stat().st_size / 1e6, "native": figures}
    if arguments.avx2:
        without_avx512 = measure_as_avx2(arguments.models)
        lowest = (native * np.array(without_avx512.pop("embedding"))).sum(axis=1).min()
        report |= {"avx2": without_avx512, "cosine_native_avx2": float(lowest)}
    print(json.dumps(report, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
