"""A transformer's weights in int8: a quarter of the size, about half the time on a CPU.

Only matrices that are multiplied or looked up in; their inputs are scaled as they come, so no
pictures are needed (onnxruntime's guide on quantisation, "Dynamic quantization").
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from likeness.errors import ModelBundleError

_MATRICES = ("MatMul", "Gemm", "Gather")
_INT8_ALREADY = ("Quantize", "QLinear", "Integer", "NBits")


def quantised(network: bytes) -> bytes:
    """The network with int8 weights. Raises ModelBundleError where that is not the way."""
    try:
        import onnx  # noqa: PLC0415 - takes a moment, and functions do not have it
    except ImportError as error:
        raise ModelBundleError("int8 needs the package `onnx`: install likeness[local]") from error
    model = onnx.load_from_string(network)
    weights = _weights(model)
    if any(part in operator for operator in weights for part in _INT8_ALREADY):
        raise ModelBundleError("the network is int8 already: leave --int8 out")
    if weights["Conv"] > sum(weights[operator] for operator in _MATRICES):
        raise ModelBundleError(
            "most weights are convolutions: those need static quantisation, calibrated on photos; "
            "training/quantise.py shows how. Then import its result without --int8"
        )
    small = _dynamic(network)
    if len(small) >= len(network):
        raise ModelBundleError(
            "the network has no matrices of its own to make int8: leave --int8 out"
        )
    return small


def _weights(model: Any) -> Counter[str]:
    """How many weights each operator has; those without any count as 0."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    counted: Counter[str] = Counter()
    for node in model.graph.node:
        counted[node.op_type] += sum(sizes.get(name, 0) for name in node.input)
    return counted


def _dynamic(network: bytes) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        given, ready, small = (Path(folder) / name for name in ("given", "ready", "small"))
        given.write_bytes(network)
        quant_pre_process(given, ready, skip_symbolic_shape=True)
        quantize_dynamic(
            ready,
            small,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            # seven bits: without VNNI, a processor adds pairs of products in 16 bits
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        return small.read_bytes()
