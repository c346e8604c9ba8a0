"""Decode, preprocess and embed, compared with a floor: bare decode, resize and ONNX run.

    ratio        our time over the floor's, 640 × 480 JPEG, one thread; lower is better
    decode_gain  12-megapixel JPEG → tensor: full decode and resize over ours; higher is better
    cosine       lowest cosine of the embeddings with and without the scaled decode

The floor decodes and resizes the same pixels with Pillow alone and runs the same network on the
result with onnxruntime alone. The preprocessing of torchvision and CLIP uses Pillow too.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import skimage
from PIL import Image

from likeness.embedding import Embedder
from likeness.model import ModelSpec
from likeness.settings import Limits

MODEL = Path(__file__).resolve().parent.parent / "layers" / "model"
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def jpegs(width: int, height: int) -> list[bytes]:
    """The photographs that scikit-image contains, scaled to width × height and encoded."""
    folder = Path(skimage.__file__).parent / "data"
    encoded = []
    for name in PHOTOS:
        out = io.BytesIO()
        image = Image.open(folder / name).convert("RGB").resize((width, height))
        image.save(out, "JPEG", quality=90)
        encoded.append(out.getvalue())
    return encoded


def bare_session(threads: int = 1) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(MODEL / "image.onnx", options, providers=["CPUExecutionProvider"])


def bare_tensor(data: bytes, spec: ModelSpec, draft: int | None = None) -> np.ndarray:
    """The obvious code: open, resize, to float32 NCHW. No limits, no checks, no EXIF."""
    image = Image.open(io.BytesIO(data))
    if draft:
        image.draft("RGB", (draft, draft))
    size, resample = (spec.input.width, spec.input.height), spec.resize.filter.upper()
    small = image.convert("RGB").resize(size, Image.Resampling[resample], reducing_gap=2.0)
    mean, std = (np.array(v, np.float32) for v in (spec.normalise.mean, spec.normalise.std))
    pixels = (np.asarray(small, np.float32) / 255 - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))[np.newaxis]


def interleaved_ms(
    functions: dict[str, Callable[[bytes], object]], inputs: list[bytes], rounds: int
) -> dict[str, float]:
    """Median milliseconds of each function; they take turns, so that noise affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for data in inputs:
            for name, function in functions.items():
                start = time.perf_counter()
                function(data)
                times[name].append((time.perf_counter() - start) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def measure() -> dict[str, float]:
    embedder = Embedder(MODEL)
    limits, spec = Limits(), embedder.spec
    session = bare_session()
    names = [spec.embedding.name], spec.input.name

    def ours(data: bytes) -> np.ndarray:
        image, _ = embedder.decode(data, limits)
        return embedder.embed([embedder.to_tensor(image)])[0]

    def floor(data: bytes) -> np.ndarray:
        return session.run(names[0], {names[1]: bare_tensor(data, spec)})[0][0]

    def our_tensor(data: bytes) -> np.ndarray:
        return embedder.to_tensor(embedder.decode(data, limits)[0])

    small, large = jpegs(640, 480), jpegs(4000, 3000)
    fast = interleaved_ms({"ours": ours, "floor": floor}, small, rounds=60)
    slow = interleaved_ms(
        {
            "ours": our_tensor,
            "full": lambda data: bare_tensor(data, spec),
            "draft": lambda data: bare_tensor(data, spec, draft=2 * embedder.decode_size),
        },
        large,
        rounds=6,
    )
    cosines = [float(ours(data) @ embedder.embed([bare_tensor(data, spec)])[0]) for data in large]
    return {
        "ratio": fast["ours"] / fast["floor"],
        "ours_ms": fast["ours"],
        "floor_ms": fast["floor"],
        "decode_gain": slow["full"] / slow["ours"],
        "decode_ms": slow["ours"],
        "full_decode_ms": slow["full"],
        "draft_floor_ms": slow["draft"],
        "cosine": min(cosines),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="a JSON object on the last line")
    arguments = parser.parse_args()
    figures = measure()
    print(
        f"640 × 480 JPEG → vector    ours {figures['ours_ms']:7.2f} ms   "
        f"floor {figures['floor_ms']:7.2f} ms   ratio {figures['ratio']:.2f}"
    )
    print(
        f"12-megapixel JPEG → tensor ours {figures['decode_ms']:7.2f} ms   "
        f"full  {figures['full_decode_ms']:7.2f} ms   gain  {figures['decode_gain']:.2f}   "
        f"(floor: bare scaled decode {figures['draft_floor_ms']:.2f} ms)"
    )
    print(f"same embedding: lowest cosine {figures['cosine']:.4f}")
    if arguments.json:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
