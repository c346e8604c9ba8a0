"""Whitens a run's averaged weights and exports them to ONNX: WORK/RUN/image.f32.onnx.

Each half of the embedding is centred on the training photos' mean, partly whitened (eigenvalues to
the power of −strength/2; Jégou and Chum, ECCV 2012, is strength 1) and scaled to its share of the
cosine. Strengths and share are chosen on the validation pictures. What is linear is folded into the
last layers' weights. `patches` are the projections of the classes' map on its 64 principal axes.
The pixels' mean and standard deviation are in model.json.
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

import listing
from network import CLASS_DIM, Features, Network, pool
from pixels import SIDE, tensor
from validation import Validation

PHOTOS = 2000  # training photos for mean and covariance
PATCH_DIM = 64
OUTPUTS = ("embedding", "patches", "local", "salience")
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7)  # of the cosine that comes from the half that knows instances
_OPSET = 18


class Half(NamedTuple):
    """Statistics of one half of the embedding: mean (128,) and covariance."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    def whitening(self, strength: float) -> NDArray[np.float64]:
        """Σ^(−strength/2), with a floor so that directions of pure noise are not amplified."""
        values, axes = np.linalg.eigh(self.covariance)
        values = np.maximum(values, 1e-3 * values.max())
        scaled = (values / values.max()) ** (-strength / 2)
        return np.asarray((axes * scaled) @ axes.T)


class Exported(nn.Module):
    """Normalised images (N, 3, 224, 224) → embedding (N, 256), patches (N, 49, 64),
    local (N, 196, 64), all of unit length, and salience (N, 196) of 0…1.
    """

    def __init__(
        self,
        network: Network,
        classes: tuple[Half, float],
        instance: tuple[Half, float],
        share: float,
        axes: NDArray[np.float64],
    ) -> None:
        super().__init__()
        self._fine, self._deep = network.fine, network.deep
        self._local, self._salience = network.local, network.salience
        coarse = network.coarse
        assert coarse.bias is not None
        weight, bias = coarse.weight[:, :, 0, 0].double(), coarse.bias.double()
        self._classes = _whitened(weight, bias, *classes)
        self._instance = _whitened(*_unnormalised(network), *instance)
        self._weights = (1 - share) ** 0.5, share**0.5
        mean, rotation = torch.from_numpy(classes[0].mean), torch.from_numpy(axes.copy())
        self._patches = nn.Conv2d(weight.shape[1], PATCH_DIM, 1)
        with torch.no_grad():
            self._patches.weight.copy_((rotation @ weight)[:, :, None, None])
            self._patches.bias.copy_(rotation @ (bias - mean))  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        fine = self._fine(images)
        deep = self._deep(fine)
        halves = (self._classes(deep.mean(dim=(2, 3))), self._instance(pool(deep, fine)))
        weighted = [
            functional.normalize(half, dim=1) * weight
            for half, weight in zip(halves, self._weights, strict=True)
        ]
        return (
            torch.cat(weighted, dim=1),
            functional.normalize(self._patches(deep).flatten(2).transpose(1, 2), dim=2),
            functional.normalize(self._local(fine).flatten(2).transpose(1, 2), dim=2),
            torch.sigmoid(self._salience(fine)).flatten(1),
        )


def _unnormalised(network: Network) -> tuple[Tensor, Tensor]:
    """The instances' layer with the normalisation before it folded in."""
    norm, weight = network.pooled, network.instance.weight.double()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scaled = weight / (norm.running_var.double() + norm.eps).sqrt()
    return scaled, network.instance.bias.double() - scaled @ norm.running_mean.double()


def _whitened(weight: Tensor, bias: Tensor, half: Half, strength: float) -> nn.Linear:
    whitening, mean = torch.from_numpy(half.whitening(strength)), torch.from_numpy(half.mean)
    layer = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        layer.weight.copy_(whitening @ weight)
        layer.bias.copy_(whitening @ (bias - mean))
    return layer


@torch.no_grad()
def statistics(
    network: Network, photos: list[Path], maps: int = 20
) -> tuple[Half, Half, NDArray[np.float64]]:
    """Both halves' mean and covariance, and the principal axes (64, 128) of the map's cells."""
    classes, instances, cells = [], [], []
    rng = np.random.default_rng(0)
    for start in track(range(0, len(photos), 32), "statistics"):
        images = np.concatenate([tensor(path) for path in photos[start : start + 32]])
        features: Features = network(torch.from_numpy(images))
        classes.append(features.classes.double().numpy())
        instances.append(features.instance.double().numpy())
        flat = features.coarse.flatten(2).double().numpy()
        cells.append(flat[:, :, rng.choice(49, maps, replace=False)].transpose(0, 2, 1))
    halves = [
        Half(rows.mean(axis=0), np.cov(rows, rowvar=False))
        for rows in (np.concatenate(classes), np.concatenate(instances))
    ]
    centred = np.concatenate(cells).reshape(-1, len(halves[0].mean)) - halves[0].mean
    axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :PATCH_DIM].T
    return halves[0], halves[1], axes


class Choice(NamedTuple):
    """The whitening strengths of both halves, and the instances' share of the cosine."""

    classes: float
    instance: float
    share: float


def choose(network: Network, halves: tuple[Half, Half], validation: Validation) -> Choice:
    """The best sum of the validation's figures over STRENGTHS and SHARES."""

    @torch.no_grad()
    def raw(images: Tensor) -> Tensor:
        features: Features = network(images)
        return torch.cat([features.classes, features.instance], dim=1)

    sets = [
        validation.vectors(raw, images)
        for images in (validation.whole, validation.copies, validation.views)
    ]
    whitened = {
        (half, strength): [
            _unit((rows[:, columns] - halves[half].mean) @ halves[half].whitening(strength))
            for rows in sets
        ]
        for half, columns in enumerate((slice(CLASS_DIM), slice(CLASS_DIM, None)))
        for strength in STRENGTHS
    }
    found = {}
    for choice in (Choice(*c) for c in product(STRENGTHS, STRENGTHS, SHARES)):
        combined = [
            np.concatenate([one * (1 - choice.share) ** 0.5, other * choice.share**0.5], axis=1)
            for one, other in zip(
                whitened[0, choice.classes], whitened[1, choice.instance], strict=True
            )
        ]
        scores = {task.name: task.recall_at_1() for task in validation.tasks(*combined)}
        found[choice] = scores
    ranked = sorted(found, key=lambda choice: -sum(found[choice].values()))
    for choice in ranked[:5]:
        print(*choice, found[choice])
    return ranked[0]


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that the listing's paths start from")
    parser.add_argument("work", type=Path)
    parser.add_argument("run")
    parser.add_argument(
        "--choice",
        nargs=3,
        type=float,
        metavar=("CLASSES", "INSTANCE", "SHARE"),
        help="whitening strengths of both halves and share, instead of choosing the best",
    )
    arguments = parser.parse_args()
    folder = arguments.work / arguments.run
    network = Network().eval()
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(state["averaged"])
    listed = listing.read(arguments.work, "train")
    chosen = np.random.default_rng(0).permutation(len(listed))[:PHOTOS]
    classes, instance, axes = statistics(
        network, [arguments.data / listed[index].path for index in chosen]
    )
    choice = (
        Choice(*arguments.choice)
        if arguments.choice
        else choose(network, (classes, instance), Validation(arguments.data, arguments.work))
    )
    exported = Exported(
        network, (classes, choice.classes), (instance, choice.instance), choice.share, axes
    ).eval()
    torch.onnx.export(
        exported,
        (torch.zeros(2, 3, SIDE, SIDE),),
        folder / "image.f32.onnx",
        input_names=["image"],
        output_names=list(OUTPUTS),
        dynamic_shapes=({0: torch.export.Dim("N")},),
        opset_version=_OPSET,
        external_data=False,
    )
    print(f"{folder / 'image.f32.onnx'}: {choice}")


if __name__ == "__main__":
    main()
