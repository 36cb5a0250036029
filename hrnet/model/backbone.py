"""HRNet: four branches of falling resolution that run in parallel and exchange what they see.

Parameter names and shapes equal those of the official HRNet and of OpenMMLab, so that their weights load unchanged.
N, C, H, W: images, channels, height and width of the input of a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from hrnet.catalogue import Width
from hrnet.model.convolution import Conv2d

__all__ = ["LAYOUTS", "HRNet", "Layout", "resize"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """The numbers in which the widths differ."""

    channels: tuple[int, int, int, int]
    """Channels of the branches, from high to low resolution."""
    blocks: int
    """Residual blocks of the first layer, and of a branch within a module."""
    modules: tuple[int, int, int]
    """Modules of stages 2, 3 and 4."""


LAYOUTS: Mapping[Width, Layout] = MappingProxyType(
    {
        "w18-small": Layout(channels=(18, 36, 72, 144), blocks=2, modules=(1, 3, 2)),
        "w18": Layout(channels=(18, 36, 72, 144), blocks=4, modules=(1, 4, 3)),
        "w48": Layout(channels=(48, 96, 192, 384), blocks=4, modules=(1, 4, 3)),
    }
)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (N,C,H,W) bilinearly to `size` (height, width), corners not aligned; returns `x` if it has that size."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> Conv2d:
    return Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return cast(Tensor, self.relu(out.add_(x)))


class _Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 that quarter and restore the channels, and a shortcut."""

    def __init__(self, inputs: int, planes: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, planes, 1)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv(planes, planes, 3)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = _conv(planes, 4 * planes, 1)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None if inputs == 4 * planes else _conv_norm(inputs, 4 * planes, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return cast(Tensor, self.relu(out.add_(x if self.downsample is None else self.downsample(x))))


class _Module(nn.Module):
    """Residual blocks on every branch, then every branch receives the sum of all, each resized to it."""

    def __init__(self, channels: Sequence[int], blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(_BasicBlock(c) for _ in range(blocks))) for c in channels)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fuse(channels, source, target) for source in range(len(channels)))
            for target in range(len(channels))
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        branches = [branch(x) for branch, x in zip(self.branches, inputs, strict=True)]
        return [self._fused(branches, target) for target in range(len(branches))]

    def _fused(self, branches: Sequence[Tensor], target: int) -> Tensor:
        layers = cast(nn.ModuleList, self.fuse_layers[target])
        size = branches[target].shape[-2:]
        total: Tensor | None = None
        for source, (layer, x) in enumerate(zip(layers, branches, strict=True)):
            term = layer(x)
            if source > target:
                # Two resizes where a size is odd: first by the exact factor, then to the branch. This is what the
                # published weights were trained with; one resize moves the logits by 4 % of their deviation.
                factor = 2 ** (source - target)
                term = resize(resize(term, [factor * side for side in term.shape[-2:]]), size)
            # The first sum makes a tensor of its own, so that later terms may be added in place.
            total = term if total is None else total + term if source == 1 else total.add_(term)
        return cast(Tensor, self.relu(total))


def _fuse(channels: Sequence[int], source: int, target: int) -> nn.Module:
    if source == target:
        return nn.Identity()
    if source > target:
        return _conv_norm(channels[source], channels[target], 1, relu=False)
    halvings = target - source
    steps = [_conv_norm(channels[source], channels[source], 3, 2) for _ in range(halvings - 1)]
    return nn.Sequential(*steps, _conv_norm(channels[source], channels[target], 3, 2, relu=False))


class HRNet(nn.Module):
    """The backbone: (N,3,H,W) to four maps at 1/4, 1/8, 1/16 and 1/32 of the size (rounded up)."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        channels = layout.channels
        self.conv1 = _conv(3, 64, 3, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = _conv(64, 64, 3, 2)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(*(_Bottleneck(64 if i == 0 else 256, 64) for i in range(layout.blocks)))
        self.transition1 = nn.ModuleList(
            [_conv_norm(256, channels[0], 3), nn.Sequential(_conv_norm(256, channels[1], 3, 2))]
        )
        self.stage2 = _stage(channels[:2], layout.blocks, layout.modules[0])
        self.transition2 = _new_branch(channels[:3])
        self.stage3 = _stage(channels[:3], layout.blocks, layout.modules[1])
        self.transition3 = _new_branch(channels)
        self.stage4 = _stage(channels, layout.blocks, layout.modules[2])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the four maps, from high to low resolution."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.layer1(x)
        branches: list[Tensor] = self.stage2([transition(x) for transition in self.transition1])
        branches = self.stage3([*branches, self.transition2[-1](branches[-1])])
        return cast(list[Tensor], self.stage4([*branches, self.transition3[-1](branches[-1])]))


def _stage(channels: Sequence[int], blocks: int, modules: int) -> nn.Sequential:
    return nn.Sequential(*(_Module(channels, blocks) for _ in range(modules)))


def _new_branch(channels: Sequence[int]) -> nn.ModuleList:
    """Branches that exist go on as they are; the new one is made from the one of lowest resolution."""
    kept = (nn.Identity() for _ in channels[:-1])
    return nn.ModuleList([*kept, nn.Sequential(_conv_norm(channels[-2], channels[-1], 3, 2))])
