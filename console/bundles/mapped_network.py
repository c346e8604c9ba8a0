"""A network with a linear map behind its embedding, as one ONNX graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from likeness.errors import ModelBundleError
from likeness.model import Output

from .adapter import LinearMap

_SMALLEST = 1e-12  # as in likeness.embedding.unit_rows


def with_map(network: bytes, output: Output, mapped: LinearMap) -> tuple[bytes, Output]:
    """The network whose embedding is pooled, scaled to length 1 and mapped, and its new output.

    The embedding that it had is no output any more; all others stay as they are. An image without
    features (a vector of zeros) stays one. The last scaling to length 1 is the embedder's, as for
    every bundle. Raises ModelBundleError if the network has no such output.
    """
    import onnx  # noqa: PLC0415 - takes a moment, and functions do not have it
    from onnx import helper, numpy_helper  # noqa: PLC0415

    model = onnx.load_from_string(network)
    graph = model.graph
    found = [each for each in graph.output if each.name == output.name]
    if not found:
        raise ModelBundleError(f"the network has no output {output.name!r}")
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {each.name for each in (*graph.input, *graph.output, *graph.initializer)}
    prefix = next(p for p in _prefixes() if not any(name.startswith(p) for name in taken))
    batch, *shape = found[0].type.tensor_type.shape.dim
    chain = _Chain(prefix, output.name, helper.make_node, numpy_helper.from_array)
    chain.pool(output, len(shape) + 1)
    chain.map(mapped)
    dim = mapped.matrix.shape[1]
    name = f"{prefix}embedding"
    chain.then("Identity")
    chain.nodes[-1].output[0] = name
    graph.node.extend(chain.nodes)
    graph.initializer.extend(chain.constants)
    graph.output.remove(found[0])
    axis = batch.dim_param or batch.dim_value or "N"
    graph.output.insert(0, helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [axis, dim]))
    return model.SerializeToString(), Output(name, dim)


def _prefixes() -> Iterator[str]:
    """One for each time that a bundle is adapted."""
    yield "adapted_"
    number = 2
    while True:
        yield f"adapted{number}_"
        number += 1


class _Chain:
    """ONNX nodes, each on the result of the one before. Only operators that have the same inputs
    and attributes in every version of ONNX's operators since 9.
    """

    def __init__(self, prefix: str, start: str, make_node: Any, from_array: Any) -> None:
        self._prefix, self._make_node, self._from_array = prefix, make_node, from_array
        self.value = start
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: NDArray[Any]) -> str:
        name = f"{self._prefix}constant{len(self.constants)}"
        self.constants.append(self._from_array(values, name))
        return name

    def then(self, operator: str, *others: str, **attributes: Any) -> str:
        return self.node(operator, [self.value, *others], **attributes)

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        self.value = f"{self._prefix}value{len(self.nodes)}"
        self.nodes.append(self._make_node(operator, list(inputs), [self.value], **attributes))
        return self.value

    def pool(self, output: Output, axes: int) -> None:
        """The raw output of so many axes → (N, dim), by the rules of `likeness.embedding.pool`."""
        if output.pooling != "none" and axes == 4:  # a map → tokens
            self.then("Reshape", self.constant(np.array([0, output.dim, -1])))
            self.then("Transpose", perm=[0, 2, 1])
        if output.pooling == "cls":
            self.then("Gather", self.constant(np.array(0)), axis=1)
        elif output.pooling != "none":
            ends = (output.skip_tokens, np.iinfo(np.int64).max, 1)
            start, end, axis = (self.constant(np.array([each])) for each in ends)
            self.then("Slice", start, end, axis)
            if output.pooling == "gem":
                self.then("Max", self.constant(np.array([1e-6], np.float32)))
                self.then("Pow", self.constant(np.array([output.gem_p], np.float32)))
            # a mean over tokens: ReduceMean takes its axes otherwise from version 18 on
            self.then("Transpose", perm=[0, 2, 1])
            self.then("GlobalAveragePool")
            if output.pooling == "gem":
                self.then("Pow", self.constant(np.array([1 / output.gem_p], np.float32)))
        self.then("Reshape", self.constant(np.array([-1, output.dim])))

    def map(self, mapped: LinearMap) -> None:
        """(N, D) → (unit rows − mean) · matrix; rows of zeros stay zeros."""
        raw = self.value
        ones = self.constant(np.ones((len(mapped.mean), 1), np.float32))
        self.node("Mul", [raw, raw])
        squares = self.then("MatMul", ones)  # (N, 1)
        self.then("Sqrt")
        length = self.then("Max", self.constant(np.array([_SMALLEST], np.float32)))
        unit = self.node("Div", [raw, length])
        present = self.node("Sign", [squares])
        mean = self.node("MatMul", [present, self.constant(mapped.mean[None])])
        self.node("Sub", [unit, mean])
        self.then("MatMul", self.constant(mapped.matrix))
