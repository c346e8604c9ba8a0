"""Validation during training: retrieval among the validation photos of the listing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

import listing
from network import to_images
from pixels import SIDE, squashed
from views import make_view


class Task(NamedTuple):
    """Photo numbers (Q,), the cosines of all pairs, and which pairs are correct (Q, Q)."""

    name: str
    rows: NDArray[np.intp]
    cosines: NDArray[np.float32]
    right: NDArray[np.bool_]

    def recall_at_1(self) -> float:
        first = self.right[np.arange(len(self.rows)), self.cosines.argmax(axis=1)]
        return round(float(first.mean()), 4)


class Validation:
    """R@1 of three tasks that share no instance with training.

    clothing: garments of unseen contributors, without their own photos in the gallery. objects:
    Caltech-101 photos of unseen categories. views: an edited view of each photo → that photo.
    """

    def __init__(self, data: Path, work: Path) -> None:
        self._photos = listing.read(work, "validation")
        rng = np.random.default_rng(0)
        opened = [Image.open(data / photo.path).convert("RGB") for photo in self._photos]
        self.whole = [squashed(image) for image in opened]
        self.views = [
            squashed(make_view(image, lambda: opened[rng.integers(len(opened))], rng).image)
            for image in opened
        ]

    def __call__(self, network: Callable[[torch.Tensor], Any], device: str) -> dict[str, float]:
        whole, views = (self._embed(network, images, device) for images in (self.whole, self.views))
        return {task.name: task.recall_at_1() for task in self.tasks(whole, views)}

    def tasks(self, whole: NDArray[np.float32], views: NDArray[np.float32]) -> list[Task]:
        """The three tasks for unit rows (N, D) of the whole photos and of their views."""
        labels = np.array([photo.label for photo in self._photos])
        instances = np.array([photo.instance for photo in self._photos])
        sources = np.array([photo.source for photo in self._photos])
        found = []
        for name, source in (("clothing", "clothing"), ("objects", "caltech101")):
            rows = np.flatnonzero(sources == source)
            cosines = whole[rows] @ whole[rows].T
            cosines[instances[rows][:, None] == instances[rows]] = -2
            found.append(Task(name, rows, cosines, labels[rows][:, None] == labels[rows]))
        every = np.arange(len(whole))
        return [*found, Task("views", every, views @ whole.T, every[:, None] == every)]

    @torch.no_grad()
    def _embed(
        self, network: Callable[[torch.Tensor], Any], images: list[NDArray[np.uint8]], device: str
    ) -> NDArray[np.float32]:
        rows = []
        for start in range(0, len(images), 64):
            batch = torch.from_numpy(np.stack(images[start : start + 64]))
            with torch.autocast(device, torch.bfloat16):
                features = network(to_images(batch, SIDE, device))
            rows.append(functional.normalize(features.embedding.float(), dim=1).cpu().numpy())
        vectors = np.concatenate(rows)
        centred = vectors - vectors.mean(axis=0)
        return np.asarray(centred / np.linalg.norm(centred, axis=1, keepdims=True), np.float32)
