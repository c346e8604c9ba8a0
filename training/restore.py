"""The weights of an earlier bundle as a network to go on from.

Its int8 weights are scaled back to float32. Batch normalisations are folded into the convolutions
there; here each is given the statistics of some photos, and a scale and shift that undo them, so
that the restored network computes what the bundle computes and can be trained further.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from network import CLASS_DIM, Network, pool


def restore(path: Path, images: Tensor) -> Network:
    """The network of `path`, an image.onnx that this folder's scripts exported.

    `images`: normalised, (N, 3, S, S), for the statistics. Of version 1, whose embedding had no
    halves, the one that knows classes starts as its principal components, the other at random.
    """
    weights = _weights(path)
    network = Network().eval()
    folded: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    for part in ("fine", "deep"):
        modules = dict(getattr(network, part).named_modules())
        for name, module in modules.items():
            if not isinstance(module, nn.Conv2d):
                continue
            prefix, _, number = name.rpartition(".")
            norm = modules[f"{prefix}.{int(number) + 1}".lstrip(".")]
            assert isinstance(norm, nn.BatchNorm2d)
            module.weight.data = weights[f"_{part}.{name}.weight"]
            norm.bias.data = weights[f"_{part}.{name}.weight_bias"].clone()
            norm.eps = 0.0
            folded.append((module, norm))
    for name in ("local", "salience"):
        head = getattr(network, name)
        head.weight.data, head.bias.data = weights[f"_{name}.weight"], weights[f"_{name}.bias"]
    _set_statistics(network, folded, images)
    with torch.no_grad():
        fine = network.fine(images)
        deep = network.deep(fine)
        if "_embedding.weight" in weights:
            embedding, bias = weights["_embedding.weight"], weights["_embedding.bias"]
            covariance = torch.cov((deep.mean(dim=(2, 3)) @ embedding.T).T)
            axes = torch.linalg.eigh(covariance)[1].flip(1)[:, :CLASS_DIM].T
            _set_classes(network, axes @ embedding, axes @ bias)
        else:
            _set_classes(network, weights["_classes.weight"], weights["_classes.bias"])
            pooled = pool(deep, fine)
            mean, variance = pooled.mean(dim=0), pooled.var(dim=0)
            network.pooled.running_mean, network.pooled.running_var = mean, variance
            weight = weights["_instance.weight"]
            network.instance.weight.data = weight * (variance + network.pooled.eps).sqrt()
            network.instance.bias.data = weights["_instance.bias"] + weight @ mean
    return network


def _set_classes(network: Network, weight: Tensor, bias: Tensor) -> None:
    network.coarse.weight.data = weight[:, :, None, None].contiguous()
    network.coarse.bias.data = bias.clone()


def _set_statistics(
    network: Network, folded: list[tuple[nn.Conv2d, nn.BatchNorm2d]], images: Tensor
) -> None:
    """Batch statistics that change nothing: scale and shift undo them."""
    seen: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}

    def record(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        seen[norm] = inputs[0].mean(dim=(0, 2, 3)), inputs[0].var(dim=(0, 2, 3))

    hooks = [norm.register_forward_pre_hook(record) for _, norm in folded]
    with torch.no_grad():
        network.deep(network.fine(images))
    for hook in hooks:
        hook.remove()
    for norm, (mean, variance) in seen.items():
        norm.eps = 1e-5
        norm.running_mean, norm.running_var = mean, variance
        norm.weight.data = (variance + norm.eps).sqrt()
        norm.bias.data += mean


def _weights(path: Path) -> dict[str, Tensor]:
    """Float32 weights by the names that they had before they were quantised."""
    graph = onnx.load(path).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found: dict[str, NDArray[np.generic]] = {
        name: array for name, array in arrays.items() if array.dtype == np.float32 and array.ndim
    }
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in arrays:
            continue
        values, scale = (arrays[name] for name in node.input[:2])
        # per channel: the first dimension
        scale = np.reshape(scale, (-1, *(1,) * (values.ndim - 1)))
        found[node.input[0].removesuffix("_quantized")] = values.astype(np.float32) * scale
    return {name: torch.from_numpy(np.array(array, np.float32)) for name, array in found.items()}
