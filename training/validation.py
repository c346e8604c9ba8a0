"""What a run is judged by while it trains: retrieval among the validation photos of the listing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

import listing
from network import images_of
from pixels import SIDE, squashed
from views import make_view


class Validation:
    """R@1 of three tasks, none of which shares an instance with training.

    clothing: garments of unseen contributors, their own photos left out of the gallery. objects:
    Caltech-101 photos of unseen categories. views: one edited view of each photo → that photo.
    """

    def __init__(self, data: Path, work: Path) -> None:
        self._photos = listing.read(work, "validation")
        rng = np.random.default_rng(0)
        opened = [Image.open(data / photo.path).convert("RGB") for photo in self._photos]
        self._whole = [squashed(image) for image in opened]
        self._views = [
            squashed(make_view(image, lambda: opened[rng.integers(len(opened))], rng).image)
            for image in opened
        ]

    def __call__(self, network: Callable[[torch.Tensor], Any], device: str) -> dict[str, float]:
        whole, views = (
            self._embed(network, images, device) for images in (self._whole, self._views)
        )
        labels = np.array([photo.label for photo in self._photos])
        instances = np.array([photo.instance for photo in self._photos])
        sources = np.array([photo.source for photo in self._photos])
        found = {}
        for name, source in (("clothing", "clothing"), ("objects", "caltech101")):
            of = sources == source
            cosines = whole[of] @ whole[of].T
            cosines[instances[of][:, None] == instances[of]] = -2
            found[name] = _right(cosines, labels[of], labels[of])
        numbers = np.arange(len(whole))
        found["views"] = _right(views @ whole.T, numbers, numbers)
        return found

    @torch.no_grad()
    def _embed(
        self, network: Callable[[torch.Tensor], Any], images: list[NDArray[np.uint8]], device: str
    ) -> NDArray[np.float32]:
        rows = []
        for start in range(0, len(images), 64):
            batch = torch.from_numpy(np.stack(images[start : start + 64]))
            with torch.autocast(device, torch.bfloat16):
                features = network(images_of(batch, SIDE, device))
            rows.append(functional.normalize(features.embedding.float(), dim=1).cpu().numpy())
        vectors = np.concatenate(rows)
        centred = vectors - vectors.mean(axis=0)
        return np.asarray(centred / np.linalg.norm(centred, axis=1, keepdims=True), np.float32)


def _right(cosines: NDArray[np.float32], query: NDArray[Any], gallery: NDArray[Any]) -> float:
    return round(float((gallery[cosines.argmax(axis=1)] == query).mean()), 4)
