"""A transformer's weights in int8: a quarter of the size, about half the time on a CPU.

Only weight matrices and embedding tables are quantised. Activations are scaled at run time, so no
calibration images are needed (onnxruntime's guide on quantisation, "Dynamic quantization").
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from likeness.embedding import Network, pool, unit_rows
from likeness.errors import ModelBundleError
from likeness.model import ModelSpec
from likeness.preprocessing import prepare
from likeness.records import Vector

from .bundle_folder import IMAGE_FILE

_MATRICES = ("MatMul", "Gemm", "Gather")
_INT8_ALREADY = ("Quantize", "QLinear", "Integer", "NBits")


def quantise(network: bytes) -> bytes:
    """The network with int8 weights. Raises ModelBundleError if dynamic quantisation won't help."""
    try:
        import onnx  # noqa: PLC0415 - takes a moment, and functions do not have it
    except ImportError as error:
        raise ModelBundleError("int8 needs the package `onnx`: install likeness[local]") from error
    model = onnx.load_from_string(network)
    weights = _weights_by_operator(model)
    if any(part in operator for operator in weights for part in _INT8_ALREADY):
        raise ModelBundleError("the network is int8 already: leave out --int8")
    if weights["Conv"] > sum(weights[operator] for operator in _MATRICES):
        raise ModelBundleError(
            "most weights are convolutions, which need static quantisation, calibrated with "
            "photos: training/quantise.py shows how. Then import its result without --int8"
        )
    small = _quantise_dynamically(network)
    if len(small) >= len(network):
        raise ModelBundleError("the network has no weight matrices to quantise: leave out --int8")
    return small


def lowest_cosine(spec: ModelSpec, one: bytes, other: bytes, images: Sequence[Any]) -> float:
    """The lowest cosine between two networks' vectors of the same upright RGB images."""
    vectors = [_vectors(spec, network, images) for network in (one, other)]
    return float((vectors[0] * vectors[1]).sum(axis=1).min())


def _vectors(spec: ModelSpec, data: bytes, images: Sequence[Any]) -> Vector:
    network = Network(data, IMAGE_FILE)
    runs = (network.run({spec.input.name: prepare(image, spec).tensor}) for image in images)
    raw = np.concatenate([run[spec.embedding.name] for run in runs])
    return unit_rows(pool(raw, spec.embedding))


def _weights_by_operator(model: Any) -> Counter[str]:
    """The number of weights of each kind of operator, 0 for those without any."""
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    counted: Counter[str] = Counter()
    for node in model.graph.node:
        counted[node.op_type] += sum(sizes.get(name, 0) for name in node.input)
    return counted


def _quantise_dynamically(network: bytes) -> bytes:
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
