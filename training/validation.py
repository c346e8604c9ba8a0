"""Validation during training: retrieval among the validation pictures of the listing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import listing
from augmentation import make_views
from console.evaluation.edits import EDITS
from likeness.images import decode
from likeness.settings import Limits
from network import to_images
from pixels import SIDE, squashed
from targets import SIDE as PACKED_SIDE

# (N, 3, SIDE, SIDE) → the embeddings (N, 256) of unit length.
Embed = Callable[[Tensor], Tensor]


class Task(NamedTuple):
    """Picture numbers (Q,), their cosines with all pictures of the gallery, and which pairs are
    right, both (Q, G). Pairs with a cosine of −2 are left out.
    """

    name: str
    rows: NDArray[np.intp]
    cosines: NDArray[np.float32]
    right: NDArray[np.bool_]

    def recall_at_1(self) -> float:
        first = self.right[np.arange(len(self.rows)), self.cosines.argmax(axis=1)]
        return round(float(first.mean()), 4)


class Validation:
    """R@1 of five tasks that share no instance and no source with training.

    clothing: garments of unseen contributors, without their own photos in the gallery. objects:
    Caltech-101 photos of unseen categories. copies: an edited copy of each picture → the picture.
    views: a view as in training → the picture. instances: several pictures of one thing.
    """

    def __init__(self, data: Path, work: Path) -> None:
        self._photos = listing.read(work, "validation")
        rng = np.random.default_rng(0)
        opened = [Image.open(data / photo.path).convert("RGB") for photo in self._photos]
        self.whole = [squashed(image) for image in opened]
        self.copies = [
            squashed(
                decode(
                    EDITS[rng.integers(len(EDITS))].make(
                        image, lambda: opened[rng.integers(len(opened))], rng
                    ),
                    Limits(),
                    SIDE,
                )[0]
            )
            for image in opened
        ]
        size = (PACKED_SIDE, PACKED_SIDE)
        packed = torch.from_numpy(
            np.stack([np.asarray(i.resize(size, Image.Resampling.BICUBIC)) for i in opened])
        )
        views = torch.cat([make_views(part, SIDE, rng).images for part in packed.split(256)])
        self.views = list((views.permute(0, 2, 3, 1) * 255).round().byte().numpy())

    def __call__(self, embed: Embed) -> dict[str, float]:
        sets = [self.vectors(embed, images) for images in (self.whole, self.copies, self.views)]
        return {task.name: task.recall_at_1() for task in self.tasks(*sets)}

    def tasks(
        self,
        whole: NDArray[np.float32],
        copies: NDArray[np.float32],
        views: NDArray[np.float32],
    ) -> list[Task]:
        """The tasks for unit rows (N, D) of the whole pictures, of their copies, of their views."""
        labels = np.array([photo.label for photo in self._photos])
        instances = np.array([photo.instance for photo in self._photos])
        sources = np.array([photo.source for photo in self._photos])
        found = []
        for name, source in (("clothing", "clothing"), ("objects", "caltech101")):
            rows = np.flatnonzero(sources == source)
            cosines = whole[rows] @ whole.T
            cosines[instances[rows][:, None] == instances] = -2
            found.append(Task(name, rows, cosines, labels[rows][:, None] == labels))
        every = np.arange(len(whole))
        for name, queries in (("copies", copies), ("views", views)):
            found.append(Task(name, every, queries @ whole.T, every[:, None] == every))
        sizes = Counter(instances[sources != "clothing"])
        rows = np.array([n for n in every if sizes[instances[n]] > 1], np.intp)
        cosines = whole[rows] @ whole.T
        cosines[np.arange(len(rows)), rows] = -2
        return [*found, Task("instances", rows, cosines, instances[rows][:, None] == instances)]

    @torch.no_grad()
    def vectors(self, embed: Embed, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embeddings of pictures (SIDE, SIDE, 3): unit rows (N, D)."""
        rows = [
            embed(to_images(torch.from_numpy(np.stack(images[start : start + 64])), SIDE))
            for start in range(0, len(images), 64)
        ]
        return np.asarray(torch.cat(rows).float().numpy(), np.float32)
