"""The pretrained networks that the student learns from, through onnxruntime, one core each.

Three ImageNet classifiers describe the content of an image: their concatenated pooled features, and
the last feature map of the first one. A middle feature map of the first one describes local
appearance, and XFeat (arXiv 2404.19174) how well a position can be found again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from pixels import normalised, squashed

COARSE, FINE = 7, 14  # cells of the two grids, on a side
POOLED = {"mobilenetv2_fp32": 1280, "mobilenetv1_int8": 1024, "squeezenet1.1_fp32": 512}
# Inner tensors of mobilenetv2_fp32.onnx: the last map, and the last one of stride 16.
_COARSE_MAP, _FINE_MAP = "t203", "t157"


class TeacherOutputs(NamedTuple):
    """The teachers' outputs for a view, raw float32.

    pooled (sum of POOLED,): each teacher's vector, unit length. coarse (49, 1280) and
    fine (196, 576): maps of MobileNetV2. salience (196,): XFeat's best keypoint in the cell times
    its reliability.
    """

    pooled: NDArray[np.float32]
    coarse: NDArray[np.float32]
    fine: NDArray[np.float32]
    salience: NDArray[np.float32]


class Teachers:
    """The four networks, ready to run."""

    def __init__(self, models: Path) -> None:
        inner = {"mobilenetv2_fp32": [_COARSE_MAP, _FINE_MAP]}
        self._sessions = {
            name: _open(models / f"{name}.onnx", inner.get(name, [])) for name in (*POOLED, "xfeat")
        }

    def __call__(self, view: Image.Image) -> TeacherOutputs:
        """Outputs for one RGB view; batches are no faster on a CPU."""
        pixels = squashed(view)
        normal = normalised(pixels)
        first, coarse, fine = self._run(
            "mobilenetv2_fp32", ["embedding", _COARSE_MAP, _FINE_MAP], normal
        )
        [second] = self._run("mobilenetv1_int8", ["embedding"], pixels[None])
        [third] = self._run("squeezenet1.1_fp32", ["embedding"], normal)
        logits, reliability = self._run(
            "xfeat",
            ["keypoint_logits", "reliability"],
            pixels[None].transpose(0, 3, 1, 2) / np.float32(255),
        )
        return TeacherOutputs(
            np.concatenate([unit(first), unit(second), unit(third)], axis=1)[0],
            _cells(coarse),
            _cells(fine),
            _cells(_halved(_keypoints(logits) * reliability))[:, 0],
        )

    def _run(self, name: str, outputs: list[str], tensor: NDArray[Any]) -> list[NDArray[Any]]:
        session = self._sessions[name]
        return list(session.run(outputs, {session.get_inputs()[0].name: tensor}))


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scaled to length 1 along the last axis."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _keypoints(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 65, h, w) → (N, 1, h, w): the best of 64 positions; the 65th stands for none."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    best: NDArray[np.float32] = powers[:, :64].max(axis=1, keepdims=True)
    return best / powers.sum(axis=1, keepdims=True)


def _halved(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, C, 2h, 2w) → (N, C, h, w), the maximum of each 2 × 2 block."""
    n, channels, height, width = maps.shape
    blocks = maps.reshape(n, channels, height // 2, 2, width // 2, 2)
    return np.asarray(blocks.max(axis=(3, 5)), np.float32)


def _cells(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """(1, C, h, w) → (h·w, C), row by row."""
    return maps.reshape(maps.shape[1], -1).T


def _open(path: Path, inner: list[str]) -> ort.InferenceSession:
    model = onnx.load(path)
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=ort.get_available_providers()
    )
