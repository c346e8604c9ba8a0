"""Writes the baseline model: an image embedding with fixed, not learned, filters.

Three blocks, each scaled to length 1, weighted and joined: where the colours are (layout), the
directions of edges (gradients), and how much there is of each colour (histogram).
Every run writes the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 128
# Old enough for every onnxruntime of recent years; nothing newer is needed.
OPSET = 18
IR_VERSION = 9

# Rows: luminance (ITU-R BT.601, 2.5.1), red against green, yellow against blue: the opponent axes
# of van de Sande, Gevers and Snoek, "Evaluating color descriptors", PAMI 2010, eq. 2, rescaled.
OPPONENT = [[0.299, 0.587, 0.114], [0.5, -0.5, 0.0], [0.25, 0.25, -0.5]]

LAYOUT_GRID, LAYOUT_CELL, LAYOUT_STRIDE = 4, 44, 28
CHROMA_GAIN = 2.0  # colours vary less than light does

DIRECTIONS = 8
# At half size: 64 pixels, 62 after a 3 × 3 convolution without padding.
GRADIENT_GRID, GRADIENT_CELL, GRADIENT_STRIDE = 6, 12, 10
GRADIENT_WINDOW = 0.9

# Bin centres on the opponent axes. Chroma is small in most photos, so its bins crowd around grey.
LUMINANCE_BINS = [0.15, 0.5, 0.85]
CHROMA_BINS = [-0.3, -0.12, -0.04, 0.0, 0.04, 0.12, 0.3]
HISTOGRAM_SIDE = 32
HISTOGRAM_WINDOW = 0.4

# Chosen on half of the edited copies and on a validation split: see README.md.
LAYOUT_WEIGHT, GRADIENT_WEIGHT, HISTOGRAM_WEIGHT = 0.5, 1.0, 0.8
LAYOUT_DIM = 3 * LAYOUT_GRID**2
GRADIENT_DIM = DIRECTIONS * GRADIENT_GRID**2
HISTOGRAM_DIM = len(LUMINANCE_BINS) * len(CHROMA_BINS) ** 2
DIM = LAYOUT_DIM + GRADIENT_DIM + HISTOGRAM_DIM

_REPOSITORY = Path(__file__).resolve().parents[1]


class Graph:
    """Nodes and constants of an ONNX graph, named by a counter so that every run gives the same."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def const(self, values: ArrayLike) -> str:
        """A float32 constant."""
        return self._constant(np.asarray(values, np.float32))

    def ints(self, *values: int) -> str:
        """An int64 constant: axes, shapes, indices."""
        return self._constant(np.array(values, np.int64))

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add one node; returns the name of its output."""
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def reshape(self, value: str, *shape: int) -> str:
        """A 0 keeps an axis, such as the batch axis."""
        return self.add("Reshape", value, self.ints(*shape))

    def pool(self, value: str, cell: int, stride: int) -> str:
        """Means of square cells, which overlap where the stride is smaller."""
        return self.add("AveragePool", value, kernel_shape=[cell] * 2, strides=[stride] * 2)

    def mean(self, value: str, *axes: int) -> str:
        return self.add("ReduceMean", value, self.ints(*axes))

    def length(self, value: str, floor: float) -> str:
        """√(sum of squares + floor²) over axis 1. The floor keeps a division by it finite."""
        squares = self.add("ReduceSumSquare", value, self.ints(1))
        return self.add("Sqrt", self.add("Add", squares, self.const(floor**2)))

    def unit(self, value: str, floor: float) -> str:
        """(N, D) rows scaled to length 1; rows far below `floor`, which are noise, stay shorter."""
        return self.add("Div", value, self.length(value, floor))

    def _constant(self, values: NDArray[Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name


def window(side: int, width: float) -> NDArray[np.float64]:
    """A Gaussian over a side × side grid that spans −1…1, rounded so that all machines agree.

    The subject of a photo is usually in the middle; borders and crops change the edges.
    """
    positions = (np.arange(side) + 0.5) / side * 2 - 1
    bell = np.exp(-(positions**2) / (2 * width**2))
    return np.round(np.outer(bell, bell), 6)


def colour_layout(graph: Graph, opponent: str) -> str:
    """Mean opponent colours on a grid. Luminance less its mean, so that brightness cancels."""
    gain = graph.const(np.reshape([1, CHROMA_GAIN, CHROMA_GAIN], (1, 3, 1, 1)))
    cells = graph.add("Mul", graph.pool(opponent, LAYOUT_CELL, LAYOUT_STRIDE), gain)
    only_luminance = graph.const(np.reshape([1, 0, 0], (1, 3, 1, 1)))
    brightness = graph.add("Mul", graph.mean(cells, 2, 3), only_luminance)
    cells = graph.add("Sub", cells, brightness)
    return graph.unit(graph.reshape(cells, 0, LAYOUT_DIM), 0.07)


def direction_kernels(directions: int) -> NDArray[np.float64]:
    """Sobel's derivative, turned to that many directions of the full circle: (D, 1, 3, 3)."""
    across = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    angles = [2 * math.pi * k / directions for k in range(directions)]
    kernels = [[math.cos(angle) * across + math.sin(angle) * across.T] for angle in angles]
    return np.round(kernels, 6)


def direction_votes(graph: Graph, luminance: str) -> str:
    """Each pixel's slope, distributed to the directions less than one step from its own.

    A projection on a direction is slope × cos(angle between). The part above slope × cos(one step)
    is a bump that ends where the neighbours' bumps are highest.
    """
    projections = graph.add("Conv", luminance, graph.const(direction_kernels(DIRECTIONS)))
    across_and_down = graph.add("Conv", luminance, graph.const(direction_kernels(4)[:2]))
    slope = graph.length(across_and_down, 1e-3)
    threshold = graph.add("Mul", slope, graph.const(math.cos(2 * math.pi / DIRECTIONS)))
    return graph.add("Relu", graph.add("Sub", projections, threshold))


def gradients(graph: Graph, opponent: str) -> str:
    """Histograms of oriented gradients: Dalal and Triggs, CVPR 2005.

    Overlapping cells replace their interpolated votes. Square roots keep one strong edge from
    dominating. Each cell is divided by the energy of its 3 × 3 neighbours.
    """
    luminance = graph.add("Slice", opponent, graph.ints(0), graph.ints(1), graph.ints(1))
    votes = direction_votes(graph, graph.pool(luminance, 2, 2))
    cells = graph.add("Sqrt", graph.pool(votes, GRADIENT_CELL, GRADIENT_STRIDE))
    cells = graph.add("Sub", cells, graph.mean(cells, 1))
    energy = graph.add("ReduceSumSquare", cells, graph.ints(1))
    around = graph.add("AveragePool", energy, kernel_shape=[3, 3], pads=[1] * 4)
    contrast = graph.add("Sqrt", graph.add("Add", around, graph.const(1e-4)))
    weights = graph.const(window(GRADIENT_GRID, GRADIENT_WINDOW))
    cells = graph.add("Mul", graph.add("Div", cells, contrast), weights)
    return graph.unit(graph.reshape(cells, 0, GRADIENT_DIM), 0.1)


def soft_bins(graph: Graph, opponent: str, channel: int, centres: list[float]) -> str:
    """One channel of (N, 3, S, S) → (N, bins, S²) shares that fall off to the next centre.

    Values beyond the ends count for the outermost bin; the shares of a pixel add up to 1.
    """
    value = graph.add(
        "Slice", opponent, graph.ints(channel), graph.ints(channel + 1), graph.ints(1)
    )
    value = graph.add("Clip", value, graph.const(centres[0]), graph.const(centres[-1]))
    column = np.reshape(centres, (1, -1, 1))
    offsets = graph.add("Sub", graph.reshape(value, 0, 1, -1), graph.const(column))
    gaps = np.diff(column, axis=1)
    before = np.concatenate([gaps[:, :1], gaps], axis=1)
    after = np.concatenate([gaps, gaps[:, -1:]], axis=1)
    rise = graph.add("Add", graph.const(1), graph.add("Div", offsets, graph.const(before)))
    fall = graph.add("Sub", graph.const(1), graph.add("Div", offsets, graph.const(after)))
    return graph.add("Relu", graph.add("Min", rise, fall))


def colour_histogram(graph: Graph, opponent: str) -> str:
    """How much there is of each colour, with more weight on the centre.

    Unchanged by a flip or a quarter turn. Square roots before the cosine: Arandjelović and
    Zisserman, CVPR 2012, section 2.
    """
    step = SIDE // HISTOGRAM_SIDE
    small = graph.pool(opponent, step, step)
    light = soft_bins(graph, small, 0, LUMINANCE_BINS)
    red = soft_bins(graph, small, 1, CHROMA_BINS)
    yellow = soft_bins(graph, small, 2, CHROMA_BINS)
    weights = window(HISTOGRAM_SIDE, HISTOGRAM_WINDOW)
    light = graph.add("Mul", light, graph.const(np.reshape(weights / weights.sum(), (1, 1, -1))))
    light_red = graph.add(
        "Mul",
        graph.add("Unsqueeze", light, graph.ints(2)),
        graph.add("Unsqueeze", red, graph.ints(1)),
    )
    light_red = graph.reshape(light_red, 0, -1, HISTOGRAM_SIDE**2)
    shares = graph.add("MatMul", light_red, graph.add("Transpose", yellow, perm=[0, 2, 1]))
    roots = graph.add("Sqrt", graph.reshape(shares, 0, HISTOGRAM_DIM))
    return graph.unit(graph.add("Sub", roots, graph.mean(roots, 1)), 1e-6)


def build() -> onnx.ModelProto:
    """The whole network: image (N, 3, SIDE, SIDE) of 0…1 → embedding (N, DIM) of length 1."""
    graph = Graph()
    opponent = graph.add("Conv", "image", graph.const(np.reshape(OPPONENT, (3, 3, 1, 1))))
    blocks = [
        (colour_layout(graph, opponent), LAYOUT_WEIGHT),
        (gradients(graph, opponent), GRADIENT_WEIGHT),
        (colour_histogram(graph, opponent), HISTOGRAM_WEIGHT),
    ]
    weighted = [graph.add("Mul", block, graph.const(weight)) for block, weight in blocks]
    joined = graph.unit(graph.add("Concat", *weighted, axis=1), 1e-6)
    graph.nodes.append(helper.make_node("Identity", [joined], ["embedding"], name="embedding"))
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "fixed-filters",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", DIM])],
            graph.constants,
        ),
        producer_name="fixed-filters",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def manifest(weights: bytes) -> dict[str, Any]:
    """model.json, as likeness.model.ModelSpec reads it."""
    return {
        "name": "fixed-filters",
        "version": "1",
        "licence": "Apache-2.0",
        "source": "Written by training/fixed_filters.py: fixed filters, nothing learned.",
        "files": {"image.onnx": hashlib.sha256(weights).hexdigest()},
        "input": {
            "name": "image",
            "height": SIDE,
            "width": SIDE,
            "layout": "NCHW",
            "dtype": "float32",
            "channels": "RGB",
        },
        "resize": {"rule": "squash", "filter": "bilinear"},
        "normalise": {"scale": 1 / 255, "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]},
        "embedding": {"name": "embedding", "dim": DIM, "pooling": "none"},
    }


def write(folder: Path) -> None:
    """Write image.onnx and model.json into `folder`."""
    weights = build().SerializeToString(deterministic=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "image.onnx").write_bytes(weights)
    text = json.dumps(manifest(weights), indent=2, sort_keys=True) + "\n"
    (folder / "model.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=_REPOSITORY / "tests" / "models" / "fixed-filters",
        metavar="DIR",
        help="folder for image.onnx and model.json (default: tests/models/fixed-filters)",
    )
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
