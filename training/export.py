"""Whitens a run's averaged weights and exports them to ONNX: WORK/RUN/image.f32.onnx.

The embedding is centred on the training photos' mean and partly whitened (eigenvalues to the power
of −strength/2; Jégou and Chum, ECCV 2012, is strength 1). The strength is chosen on the validation
photos. Both steps are linear, so they are folded into the last layer's weights. `patches` are the
projections of the same map on its 64 principal axes. The pixels' mean and standard deviation are in
model.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

import listing
from network import EMBEDDING_DIM, LOCAL_DIM, Features, Network
from pixels import SIDE, tensor
from validation import Validation

PHOTOS = 2000  # training photos for mean and covariance
PATCH_DIM = 64
OUTPUTS = ("embedding", "patches", "local", "salience")
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_OPSET = 18


class Exported(nn.Module):
    """Normalised images (N, 3, 224, 224) → embedding (N, 256), patches (N, 49, 64),
    local (N, 196, 64), all of unit length, and salience (N, 196) of 0…1.
    """

    def __init__(self, network: Network, whitening: Tensor, axes: Tensor, mean: Tensor) -> None:
        super().__init__()
        self._fine, self._deep = network.fine, network.deep
        self._local, self._salience = network.local, network.salience
        weight, bias = network.coarse.weight[:, :, 0, 0], network.coarse.bias
        assert bias is not None
        self._embedding = nn.Linear(weight.shape[1], EMBEDDING_DIM)
        self._patches = nn.Conv2d(weight.shape[1], PATCH_DIM, 1)
        with torch.no_grad():
            self._embedding.weight.copy_(whitening @ weight)
            self._embedding.bias.copy_(whitening @ (bias - mean))
            self._patches.weight.copy_((axes @ weight)[:, :, None, None])
            self._patches.bias.copy_(axes @ (bias - mean))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        fine = self._fine(images)
        deep = self._deep(fine)
        embedding = self._embedding(deep.mean(dim=(2, 3)))
        return (
            functional.normalize(embedding, dim=1),
            functional.normalize(self._patches(deep).flatten(2).transpose(1, 2), dim=2),
            functional.normalize(self._local(fine).flatten(2).transpose(1, 2), dim=2),
            torch.sigmoid(self._salience(fine)).flatten(1),
        )


@torch.no_grad()
def statistics(
    network: Network, photos: list[Path], maps: int = 20
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean (256,) and covariance of the embeddings, and covariance of the map's cells about it."""
    embeddings, cells = [], []
    rng = np.random.default_rng(0)
    for start in track(range(0, len(photos), 32), "statistics"):
        images = np.concatenate([tensor(path) for path in photos[start : start + 32]])
        features: Features = network(torch.from_numpy(images))
        embeddings.append(features.embedding.double().numpy())
        flat = features.coarse.flatten(2).double().numpy()
        cells.append(flat[:, :, rng.choice(49, maps, replace=False)].transpose(0, 2, 1))
    stacked = np.concatenate(embeddings)
    mean = stacked.mean(axis=0)
    centred = np.concatenate(cells).reshape(-1, EMBEDDING_DIM) - mean
    return mean, np.cov(stacked, rowvar=False), centred.T @ centred / len(centred)


def whitening(covariance: NDArray[np.float64], strength: float) -> NDArray[np.float64]:
    """Σ^(−strength/2), with a floor so that directions of pure noise are not amplified."""
    values, axes = np.linalg.eigh(covariance)
    values = np.maximum(values, 1e-3 * values.max())
    scaled = (values / values.max()) ** (-strength / 2)
    return np.asarray((axes * scaled) @ axes.T)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that the listing's paths start from")
    parser.add_argument("work", type=Path)
    parser.add_argument("run")
    parser.add_argument(
        "--strength", type=float, help="whitening strength, instead of choosing the best"
    )
    arguments = parser.parse_args()
    folder = arguments.work / arguments.run
    network = Network().eval()
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(state["averaged"])
    listed = listing.read(arguments.work, "train")
    chosen = np.random.default_rng(0).permutation(len(listed))[:PHOTOS]
    photos = [arguments.data / listed[index].path for index in chosen]
    mean, covariance, cells = statistics(network, photos)
    axes = np.linalg.eigh(cells)[1][:, ::-1][:, :PATCH_DIM].T
    exported = {
        strength: Exported(
            network,
            torch.from_numpy(whitening(covariance, strength)).float(),
            torch.from_numpy(axes.copy()).float(),
            torch.from_numpy(mean).float(),
        ).eval()
        for strength in ([arguments.strength] if arguments.strength is not None else STRENGTHS)
    }
    strength = _best(exported, Validation(arguments.data, arguments.work))
    torch.onnx.export(
        exported[strength],
        (torch.zeros(2, 3, SIDE, SIDE),),
        folder / "image.f32.onnx",
        input_names=["image"],
        output_names=list(OUTPUTS),
        dynamic_shapes=({0: torch.export.Dim("N")},),
        opset_version=_OPSET,
        external_data=False,
    )
    print(
        f"{folder / 'image.f32.onnx'}: whitening {strength}, "
        f"{LOCAL_DIM} values per local descriptor"
    )


def _best(exported: dict[float, Exported], validation: Validation) -> float:
    scores = {}
    for strength, model in exported.items():
        found = validation(lambda images, m=model: _Embedded(m(images)[0]), "cpu")  # type: ignore[misc]
        print(f"whitening {strength}: {found}")
        scores[strength] = sum(found.values())
    return max(scores, key=scores.__getitem__)


class _Embedded:
    def __init__(self, embedding: Tensor) -> None:
        self.embedding = embedding


if __name__ == "__main__":
    main()
