"""The bundled network alone, one image on one core; beside it MobileNetV2's int8 from MODELS.

`--avx2` runs it as on a processor that stops at AVX2, as many that Lambda uses do (needs `cc`), and
tells whether the embeddings are the same as with all that this processor has.
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
    """Median of RUNS."""
    taken = []
    for _ in range(RUNS + 5):
        start = time.perf_counter()
        session.run(None, feed)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[5:]) * 1e3


def measure(models: Path | None) -> dict[str, Any]:
    """What one process sees: times, and a hash of the embeddings of random images."""
    ours = open_session(NETWORK)
    images = np.random.default_rng(0).normal(size=(4, 3, 224, 224)).astype(np.float32)
    found: dict[str, Any] = {"ms": milliseconds(ours, {"image": images[:1]})}
    if models:
        peer = open_session(models / "mobilenetv2_int8.onnx")
        feed = {"input": np.zeros((1, 224, 224, 3), np.uint8)}
        found["mobilenetv2_ms"] = milliseconds(peer, feed)
        found["ratio"] = found["ms"] / found["mobilenetv2_ms"]
    found["embedding"] = ours.run(["embedding"], {"image": images})[0].tolist()
    return found


def measure_as_avx2(models: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "avx2_only.so"
        source = REPOSITORY / "benchmarks" / "avx2_only.c"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)
        command = [sys.executable, __file__, "--raw", *(["--models", models] if models else [])]
        environment = os.environ | {"LD_PRELOAD": str(library)}
        ran = subprocess.run(command, env=environment, check=True, capture_output=True)
    result: dict[str, Any] = json.loads(ran.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, help="folder with mobilenetv2_int8.onnx")
    parser.add_argument("--avx2", action="store_true", help="also as if AVX2 were all there is")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--raw", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    found = measure(arguments.models)
    if arguments.raw:
        print(json.dumps(found))
        return
    native = np.array(found.pop("embedding"))
    report = {"mb": NETWORK.stat().st_size / 1e6, "native": found}
    if arguments.avx2:
        masked = measure_as_avx2(arguments.models)
        least = (native * np.array(masked.pop("embedding"))).sum(axis=1).min()
        report |= {"avx2": masked, "cosine_native_avx2": float(least)}
    print(json.dumps(report, indent=None if arguments.json else 2))


if __name__ == "__main__":
    main()
