"""What the student is trained to: losses of a batch of pairs of views, added with WEIGHTS.

instance  two views of one photo, or views of two photos of one thing, attract each other; all
          other images of the batch repel (InfoNCE, arXiv 1807.03748). A mixed image belongs to both
          of its photos.
spread    each image keeps away from its nearest neighbour, so that the vectors fill the sphere: the
          entropy term of SSCD (Pizzi et al., CVPR 2022, equation 4)
vector    cosine to the teachers' vectors of the photo, through a learned map (arXiv 1412.6550)
relation  the batch's similarity matrix compared with the teachers' (Tung and Mori, ICCV 2019)
label     classes of the training sets, by supervised contrastive learning (arXiv 2004.11362)
kept      the half that knows classes stays near the earlier bundle's vector of the view before its
          pixels were edited
local     so do the local descriptors: then light, blur and noise change them less
salience  so does the salience
spot      corresponding positions of two views attract each other, matched by their homographies
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from network import Features
from teachers import POOLED

WEIGHTS = {
    "instance": 1.0,
    "spread": 0.15,
    "vector": 2.0,
    "relation": 20.0,
    "label": 0.15,
    "kept": 3.0,
    "local": 3.0,
    "salience": 0.3,
    "spot": 0.15,
}
SPOTS = 512  # pairs of positions compared in a batch
_INSTANCE_TEMPERATURE, _LABEL_TEMPERATURE, _SPOT_TEMPERATURE = 0.07, 0.1, 0.1


class Batch:
    """Rows 2k and 2k + 1 are views of one photo or thing.

    `photos`, `groups`, `kin` and `labels`: int (N,), which photo, thing and class an image shows;
    images of one kin may show the same thing, and neither attract nor repel each other. `second`
    and `share`: what an image is mixed with, see `augmentation.Views`. `targets`: the teachers'
    vectors, centred.
    """

    def __init__(
        self,
        photos: NDArray[np.intp],
        groups: NDArray[np.intp],
        kin: NDArray[np.intp],
        labels: NDArray[np.intp],
        second: NDArray[np.intp],
        share: NDArray[np.float64],
        targets: Tensor,
        to_photo: Tensor,
    ) -> None:
        self.kin, self.labels = torch.from_numpy(kin), torch.from_numpy(labels)
        weight = torch.from_numpy(share).float()
        self.whole = weight == 1
        # pairs of views whose positions can correspond
        self.aligned = self.whole[0::2] & self.whole[1::2]
        self.aligned &= torch.from_numpy(photos[0::2] == photos[1::2])
        columns = torch.unique(torch.from_numpy(groups), return_inverse=True)[1]
        self.members = torch.zeros(len(groups), int(columns.max()) + 1)
        self.members[torch.arange(len(groups)), columns] = weight
        rows = torch.from_numpy(second)
        self.members[torch.arange(len(groups)), columns[rows]] += 1 - weight
        self.targets = functional.normalize(
            targets * weight[:, None] + targets[rows] * (1 - weight[:, None]), dim=1
        )
        self.to_photo = to_photo


def centred(vectors: Tensor, mean: Tensor) -> Tensor:
    """Each teacher's part minus its mean, at unit length, so that all three count the same."""
    parts = (vectors - mean).split(list(POOLED.values()), dim=1)
    return torch.cat([functional.normalize(part, dim=1) for part in parts], dim=1)


def losses(
    vector_map: nn.Module,
    features: Features,
    earlier: Features,
    batch: Batch,
) -> dict[str, Tensor]:
    """The losses, unweighted scalars. `earlier`: what the earlier bundle finds in the first views
    of the pairs before their pixels were edited.
    """
    instance = functional.normalize(features.instance, dim=1)
    classes = functional.normalize(features.classes, dim=1)
    local = functional.normalize(features.local, dim=1)
    found = {
        "instance": _instance(instance, batch),
        "spread": _spread(instance, batch.kin),
        "vector": 1
        - functional.cosine_similarity(vector_map(features.classes), batch.targets).mean(),
        "relation": _relation(classes, batch.targets),
        "label": _contrast(classes[batch.whole], batch.labels[batch.whole]),
        "spot": _spots(local, batch.to_photo, batch.aligned),
    }
    rows = batch.whole[::2]
    target = functional.normalize(earlier.local, dim=1)
    kept = functional.cosine_similarity(features.classes[::2], earlier.classes)
    found["kept"] = 1 - kept[rows].mean()
    found["local"] = 1 - (local[::2] * target).sum(dim=1)[rows].mean()
    found["salience"] = functional.binary_cross_entropy_with_logits(
        features.salience[::2][rows], torch.sigmoid(earlier.salience)[rows]
    )
    return found


def _instance(vectors: Tensor, batch: Batch) -> Tensor:
    positive = (batch.members @ batch.members.T).fill_diagonal_(0)
    ignored = (batch.kin[:, None] == batch.kin[None]) & (positive == 0)
    logits = (vectors @ vectors.T / _INSTANCE_TEMPERATURE).masked_fill(ignored, -1e9)
    log_probability = functional.log_softmax(logits, dim=1)
    weight = positive / positive.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return -(weight * log_probability).sum(dim=1).mean()


def _spread(vectors: Tensor, kin: Tensor) -> Tensor:
    cosines = (vectors @ vectors.T).masked_fill(kin[:, None] == kin[None], -1)
    nearest = cosines.max(dim=1).values
    return -0.5 * torch.log((2 - 2 * nearest).clamp(min=1e-4)).mean()


def _relation(vectors: Tensor, targets: Tensor) -> Tensor:
    """Mean squared difference of the two similarity matrices, off the diagonal."""
    size = len(vectors)
    difference = vectors @ vectors.T - targets @ targets.T
    return (difference**2).sum() / (size * (size - 1))


def _contrast(embedding: Tensor, group: Tensor) -> Tensor:
    """Supervised contrastive loss, eq. 2 of Khosla et al.: rows of one group attract."""
    logits = embedding @ embedding.T / _LABEL_TEMPERATURE
    diagonal = torch.eye(len(embedding), dtype=torch.bool)
    logits = logits.masked_fill(diagonal, -1e9)
    positive = (group[:, None] == group[None]) & ~diagonal
    log_probability = functional.log_softmax(logits, dim=1)
    return -((log_probability * positive).sum(dim=1) / positive.sum(dim=1).clamp(min=1)).mean()


def _spots(local: Tensor, to_photo: Tensor, aligned: Tensor) -> Tensor:
    """InfoNCE between corresponding positions of the two views of each pair.

    A cell's centre is mapped through the photo into the other view. If it lands within half a cell
    of a centre there, the two cells correspond. All other sampled positions are negatives.
    """
    side = local.shape[-1]
    across = torch.linalg.solve(to_photo[1::2], to_photo[0::2])
    centres = (torch.arange(side, dtype=to_photo.dtype) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([x.ravel(), y.ravel(), torch.ones_like(x).ravel()])
    moved = across @ points
    cells = (moved[:, :2] / moved[:, 2:]) * side - 0.5
    nearest = cells.round()
    inside = ((nearest >= 0) & (nearest < side)).all(dim=1) & (moved[:, 2] > 0)
    inside &= ((cells - nearest).norm(dim=1) < 0.5) & (torch.linalg.det(across) > 0)[:, None]
    inside &= aligned[:, None]
    pair, cell = inside.nonzero(as_tuple=True)
    if not len(pair):
        return local.sum() * 0
    sampled = torch.randperm(len(pair))[:SPOTS]
    pair, cell = pair[sampled], cell[sampled]
    target = (nearest[:, 1] * side + nearest[:, 0]).long()[pair, cell]
    flat = local.flatten(2)
    one, other = flat[2 * pair, :, cell], flat[2 * pair + 1, :, target]
    logits = one @ other.T / _SPOT_TEMPERATURE
    right = torch.arange(len(pair))
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2
