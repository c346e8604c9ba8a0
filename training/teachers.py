"""The pretrained networks that the student learns classes from, through onnxruntime.

Three ImageNet classifiers describe the content of an image by their pooled features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from pixels import normalised

POOLED = {"mobilenetv2_fp32": 1280, "mobilenetv1_int8": 1024, "squeezenet1.1_fp32": 512}


class Teachers:
    """The three networks, ready to run, one core each."""

    def __init__(self, models: Path) -> None:
        self._sessions = {name: _open(models / f"{name}.onnx") for name in POOLED}

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB pixels (224, 224, 3) → the vectors side by side (2816,), each of unit length.

        Batches are no faster on a CPU.
        """
        normal = normalised(pixels)
        inputs: dict[str, NDArray[Any]] = dict.fromkeys(POOLED, normal)
        inputs["mobilenetv1_int8"] = pixels[None]
        found = [self._embed(name, tensor) for name, tensor in inputs.items()]
        return np.concatenate(found)

    def _embed(self, name: str, tensor: NDArray[Any]) -> NDArray[np.float32]:
        session = self._sessions[name]
        vector = session.run(["embedding"], {session.get_inputs()[0].name: tensor})[0][0]
        return np.asarray(vector / max(np.linalg.norm(vector), 1e-9), np.float32)


def _open(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=ort.get_available_providers())
