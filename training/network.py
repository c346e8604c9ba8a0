"""The student: a plain residual CNN, four heads, one forward pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pixels import MEAN, STD

# The embedding's halves: what an image shows (classes), and which image or thing it is (instances).
CLASS_DIM, INSTANCE_DIM, LOCAL_DIM = 128, 128, 64
EMBEDDING_DIM = CLASS_DIM + INSTANCE_DIM
COARSE, FINE = 7, 14  # cells of the two maps on a side, for images of 224 pixels
WIDTHS = (32, 64, 96, 192, 320)  # channels after each halving: strides 2, 4, 8, 16, 32
BLOCKS = (0, 0, 1, 2, 1)  # residual blocks after each halving
EXPANDED = 640  # pooled channels; many, since averaging loses information


def to_images(pixels: Tensor, side: int) -> Tensor:
    """uint8 (N, S, S, 3) → normalised (N, 3, side, side)."""
    images = pixels.permute(0, 3, 1, 2)
    if images.shape[-1] != side:
        images = functional.interpolate(
            images, size=(side, side), mode="bilinear", antialias=images.shape[-1] > side
        )
    return normalised(images.float() / 255)


def normalised(images: Tensor) -> Tensor:
    """Pixels of 0…1, (N, 3, S, S), as the network expects them."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


class Features(NamedTuple):
    """Raw outputs of the heads for N images of 32·g pixels, not yet of unit length.

    coarse (N, 128, g, g): its mean over the positions is the half that knows classes. instance
    (N, 128): the other half. local (N, 64, 2g, 2g). salience (N, 2g, 2g): logits of how well a
    position can be found again.
    """

    coarse: Tensor
    instance: Tensor
    local: Tensor
    salience: Tensor

    @property
    def classes(self) -> Tensor:
        return self.coarse.mean(dim=(2, 3))


class Network(nn.Module):
    """RGB images, normalised, (N, 3, 32·g, 32·g) → Features. 4.5 million weights.

    Basic residual blocks (He et al., CVPR 2016, figure 5 left) without bottlenecks or depthwise
    convolutions: a few wide layers learn most in an hour on a CPU, and quantise well.
    """

    def __init__(self) -> None:
        super().__init__()
        stages, channels = [], 3
        for width, blocks in zip(WIDTHS, BLOCKS, strict=True):
            stages.append(
                nn.Sequential(
                    *_convolution(channels, width, stride=2),
                    *(Residual(width) for _ in range(blocks)),
                )
            )
            channels = width
        self.fine = nn.Sequential(*stages[:4])
        self.deep = nn.Sequential(stages[4], *_convolution(channels, EXPANDED, kernel=1))
        self.coarse = nn.Conv2d(EXPANDED, CLASS_DIM, 1)
        self.pooled = nn.BatchNorm1d(EXPANDED + WIDTHS[3], affine=False)
        self.instance = nn.Linear(EXPANDED + WIDTHS[3], INSTANCE_DIM)
        self.local = nn.Conv2d(WIDTHS[3], LOCAL_DIM, 1)
        self.salience = nn.Conv2d(WIDTHS[3], 1, 1)

    def forward(self, images: Tensor) -> Features:
        fine = self.fine(images)
        deep = self.deep(fine)
        return Features(
            self.coarse(deep),
            self.instance(self.pooled(pool(deep, fine))),
            self.local(fine),
            self.salience(fine).squeeze(1),
        )


def pool(deep: Tensor, fine: Tensor) -> Tensor:
    """Generalised means, p = 3, of two maps after ReLU, side by side: (N, 832).

    They count what stands out in a few places, where a mean counts what is everywhere (Radenović et
    al., TPAMI 2019). The finer map has the texture and print that tell two things of a kind apart.
    """
    return torch.cat([_generalised_mean(deep), _generalised_mean(fine)], dim=1)


def _generalised_mean(maps: Tensor) -> Tensor:
    maps = maps.float()
    return (maps * maps * maps).mean(dim=(2, 3)).clamp(min=1e-6) ** (1 / 3)


class Residual(nn.Module):
    """ReLU(x + two 3 × 3 convolutions of x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_convolution(width, width), *_convolution(width, width)[:2])

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.branch(x))


def _convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
