"""The fully convolutional head: all branches at the highest resolution, mixed by one layer, classified by another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from hrnet.model.backbone import Conv2d, resize

__all__ = ["FCNHead"]


class _ConvNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.relu(self.bn(self.conv(x))))


class FCNHead(nn.Module):
    """Four maps to (N,classes,H/4,W/4) logits."""

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        # The classifier comes first because published state dicts, and with them optimizer states, have it first.
        self.conv_seg = Conv2d(sum(channels), num_classes, 1)
        self.convs = nn.ModuleList([_ConvNorm(sum(channels))])

    def forward(self, branches: Sequence[Tensor]) -> Tensor:
        """Return the logits at the size of the first map."""
        size = branches[0].shape[-2:]
        x = torch.cat([resize(branch, size) for branch in branches], dim=1)
        for conv in self.convs:
            x = conv(x)
        return cast(Tensor, self.conv_seg(x))
