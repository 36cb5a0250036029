"""The fully convolutional head: all branches at the highest resolution, mixed by one layer, classified by another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrnet.model.backbone import resize
from hrnet.model.convolution import Conv2d

__all__ = ["FCNHead"]


class _Mixing(nn.Module):
    """A 1x1 convolution of all branches, resized to the first and concatenated; computed without either.

    Such a convolution may change places with resizing, and it is the sum of those of the parts of its input. So each
    branch is convolved at its own resolution, which is 1/8 of the arithmetic, and the concatenation, which backward
    would need, is never made.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, branches: Sequence[Tensor]) -> Tensor:
        weights = torch.split(self.conv.weight, [branch.shape[1] for branch in branches], dim=1)
        total: Tensor | None = None
        for branch, weight in zip(branches, weights, strict=True):
            part = functional.conv2d(branch, weight)
            # Backward needs no convolution's output, so the sum may overwrite the first.
            total = part if total is None else total.add_(resize(part, total.shape[-2:]))
        return cast(Tensor, self.relu(self.bn(total)))


class FCNHead(nn.Module):
    """Four maps to (N,classes,H/4,W/4) logits."""

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        # The classifier comes first because published state dicts, and with them optimizer states, have it first.
        self.conv_seg = Conv2d(sum(channels), num_classes, 1)
        self.convs = nn.ModuleList([_Mixing(sum(channels))])

    def forward(self, branches: Sequence[Tensor]) -> Tensor:
        """Return the logits at the size of the first map."""
        return cast(Tensor, self.conv_seg(self.convs[0](branches)))
