"""The student: a plain residual CNN, three heads, one forward pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pixels import MEAN, STD

EMBEDDING_DIM, LOCAL_DIM = 256, 64
WIDTHS = (32, 64, 96, 192, 320)  # channels after each halving: strides 2, 4, 8, 16, 32
BLOCKS = (0, 0, 1, 2, 1)  # residual blocks after each halving
EXPANDED = 640  # pooled channels; many, since averaging loses information


def to_images(views: Tensor, side: int, device: str) -> Tensor:
    """uint8 (N, S, S, 3) → normalised (N, 3, side, side)."""
    images = views.to(device).permute(0, 3, 1, 2)
    if images.shape[-1] != side:
        images = functional.interpolate(
            images, size=(side, side), mode="bilinear", antialias=images.shape[-1] > side
        )
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))
    return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)


class Features(NamedTuple):
    """Raw outputs of the heads for N images of 32·g pixels, not yet of unit length.

    coarse (N, 256, g, g): its mean over the positions is the embedding. local (N, 64, 2g, 2g).
    salience (N, 2g, 2g): logits of how well a position can be found again.
    """

    coarse: Tensor
    local: Tensor
    salience: Tensor

    @property
    def embedding(self) -> Tensor:
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
        self.coarse = nn.Conv2d(EXPANDED, EMBEDDING_DIM, 1)
        self.local = nn.Conv2d(WIDTHS[3], LOCAL_DIM, 1)
        self.salience = nn.Conv2d(WIDTHS[3], 1, 1)

    def forward(self, images: Tensor) -> Features:
        fine = self.fine(images)
        return Features(
            self.coarse(self.deep(fine)), self.local(fine), self.salience(fine).squeeze(1)
        )


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
