"""Static int8 quantisation of image.f32.onnx: per channel, QDQ, calibrated on training photos.

Weights have seven bits: processors with AVX2 or AVX-512 but without VNNI add pairs of products in
16 bits, where eight would overflow (onnxruntime's guide on quantisation, "Data type selection").
The first convolution stays in float32: it reads the pixels, and costs next to nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.progress import track

import listing
from pixels import tensor

METHODS = {"minmax": CalibrationMethod.MinMax, "percentile": CalibrationMethod.Percentile}


class Photos(CalibrationDataReader):  # type: ignore[misc]
    """Calibration photos, one by one."""

    def __init__(self, paths: list[Path]) -> None:
        self._tensors: Iterator[NDArray[np.float32]] = (
            tensor(path) for path in track(paths, "calibration")
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._tensors, None)
        return None if image is None else {"image": image}


def quantise(
    source: Path, target: Path, photos: list[Path], method: str = "percentile", **extra: Any
) -> None:
    """Write `target`. Convolutions and the last matrix product become int8; norms stay float32."""
    with tempfile.TemporaryDirectory() as folder:
        folded = Path(folder) / "folded.onnx"
        quant_pre_process(source, folded, skip_symbolic_shape=True)
        first = next(n.name for n in onnx.load(folded).graph.node if n.op_type == "Conv")
        quantize_static(
            folded,
            target,
            Photos(photos),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool", "Relu"],
            nodes_to_exclude=[first],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
            extra_options=extra,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that the listing's paths start from")
    parser.add_argument("work", type=Path)
    parser.add_argument("run")
    parser.add_argument(
        "--photos", type=int, default=256, help="number of calibration photos (default: 256)"
    )
    parser.add_argument("--method", choices=METHODS, default="percentile")
    arguments = parser.parse_args()
    folder = arguments.work / arguments.run
    listed = listing.read(arguments.work, "train")
    chosen = np.random.default_rng(0).choice(len(listed), arguments.photos, replace=False)
    paths = [arguments.data / listed[index].path for index in chosen]
    quantise(folder / "image.f32.onnx", folder / "image.onnx", paths, arguments.method)
    print(f"{folder / 'image.onnx'}: {(folder / 'image.onnx').stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
