"""The network for inference: convolutions that normalise, add and rectify by themselves, and no concatenation.

The results equal the network's in evaluation mode within rounding. What training changes later is not followed: a
fused network is a copy of the weights as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hrnet.model.backbone import LAYOUTS, HRNet, resize
from hrnet.model.head import FCNHead
from hrnet.model.segmentor import HRNetSegmentor

__all__ = ["FusedSegmentor", "fused"]

_DILATION, _GROUPS = (1, 1), 1


def fused(model: nn.Module) -> nn.Module:
    """Return the fused copy of an HRNetSegmentor, on its device; any other network is returned as it is."""
    return FusedSegmentor(model) if isinstance(model, HRNetSegmentor) else model


class FusedSegmentor(nn.Module):
    """An HRNetSegmentor in evaluation mode, faster; it has buffers, no parameters, and cannot be trained."""

    def __init__(self, model: HRNetSegmentor) -> None:
        super().__init__()
        self.num_classes = model.num_classes
        with torch.no_grad():
            self.backbone = _Backbone(model.backbone)
            self.decode_head = _Head(model.decode_head, LAYOUTS[model.width].channels)
        self.eval()

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        """Map normalised RGB images (N,3,H,W) to logits (N,classes,ceil(H/4),ceil(W/4))."""
        x = x.contiguous(memory_format=torch.channels_last)
        return cast(Tensor, self.decode_head(self.backbone(x)))


def _onednn(x: Tensor) -> bool:
    """Whether torch's own fused convolutions, those that its compiler emits for CPUs, can take a tensor."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise_")
    )


class _Conv(nn.Module):
    """A convolution with offset, to which a tensor may be added and which may end in a ReLU."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, source: nn.Conv2d, *, relu: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.detach().clone())
        self.stride = cast(tuple[int, int], source.stride)
        self.padding = cast(tuple[int, int], source.padding)
        self.relu = relu
        self._made: tuple[tuple[torch.device, torch.dtype], Tensor, Tensor] | None = None

    def forward(self, x: Tensor, onto: Tensor | None = None, *, overwrite: bool = True) -> Tensor:
        """Convolve; the result is added onto a tensor, in place unless it is still needed as it was."""
        if torch.is_autocast_enabled(x.device.type):
            # Sums stay in the convolutions' own precision.
            x = x.to(torch.get_autocast_dtype(x.device.type))
        weight, bias = self._ready(x)
        if not _onednn(x):
            out = functional.conv2d(x, weight, bias, self.stride, self.padding)
            if onto is not None:
                out = onto.add_(out) if overwrite else out.add_(onto)
            return out.relu_() if self.relu else out
        ops, unary = torch.ops.mkldnn, "relu" if self.relu else None
        where = (weight, bias, self.padding, self.stride, _DILATION, _GROUPS)
        if onto is None:
            return cast(Tensor, ops._convolution_pointwise(x, *where, unary or "none", [], ""))
        rest: tuple[Any, ...] = (*where, "add", None, unary, [], "")
        if overwrite:
            return cast(Tensor, ops._convolution_pointwise_.binary(onto, x, *rest))
        return cast(Tensor, ops._convolution_pointwise.binary(x, onto, *rest))

    def _ready(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and offset in the precision of `x` and in the order that the kernel wants, made once."""
        want = (x.device, x.dtype)
        if self._made is None or self._made[0] != want:
            weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
            if _onednn(x):
                weight = torch.ops.mkldnn._reorder_convolution_weight(
                    weight, self.padding, self.stride, _DILATION, _GROUPS, list(x.shape)
                )
            self._made = (want, weight, bias)
        return self._made[1:]


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d, *, relu: bool) -> _Conv:
    """y = gamma (conv(x) - mean) / sqrt(var + eps) + beta is a convolution with other weights and an offset."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = norm.bias.double() - norm.running_mean.double() * scale
    return _Conv(weight.to(conv.weight.dtype), bias.to(conv.weight.dtype), conv, relu=relu)


def _of(layers: nn.Module) -> _Conv:
    """A sequence of convolution, batch norm and perhaps ReLU."""
    parts = list(layers.children())
    return _folded(cast(nn.Conv2d, parts[0]), cast(nn.BatchNorm2d, parts[1]), relu=len(parts) == 3)


class _Block(nn.Module):
    """Convolutions one after the other, the last added onto the shortcut; the input is overwritten."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        children = dict(block.named_children())
        numbers = range(1, 1 + sum(name.startswith("conv") for name in children))
        self.convs = nn.ModuleList(
            _folded(cast(nn.Conv2d, children[f"conv{n}"]), cast(nn.BatchNorm2d, children[f"bn{n}"]), relu=True)
            for n in numbers
        )
        shortcut = children.get("downsample")
        self.shortcut = None if shortcut is None else _of(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for conv in list(self.convs)[:-1]:
            out = conv(out)
        return cast(Tensor, self.convs[-1](out, x if self.shortcut is None else self.shortcut(x)))


class _Exchange(nn.Module):
    """Residual blocks on every branch, then every branch receives the sum of all, each resized to it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        branches = cast(nn.ModuleList, module.branches)
        self.branches = nn.ModuleList(nn.Sequential(*map(_Block, branch.children())) for branch in branches)
        rows = [list(row.children()) for row in cast(nn.ModuleList, module.fuse_layers)]
        # Rows of the sum: what comes from lower resolution is one 1x1 convolution, what comes from higher a chain.
        self.up = nn.ModuleList(
            nn.ModuleList(_of(layer) for layer in row[target + 1 :]) for target, row in enumerate(rows)
        )
        self.down = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(map(_of, chain.children())) for chain in row[:target])
            for target, row in enumerate(rows)
        )
        for chains in self.down[1:]:
            # The last sum of a branch ends in the ReLU of the whole.
            cast(_Conv, cast(nn.ModuleList, cast(nn.ModuleList, chains)[-1])[-1]).relu = True

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        maps = [branch(x) for branch, x in zip(self.branches, inputs, strict=True)]
        return [self._sum(maps, target) for target in range(len(maps))]

    def _sum(self, maps: Sequence[Tensor], target: int) -> Tensor:
        total, own = maps[target], True
        for source, layer in enumerate(cast(nn.ModuleList, self.up[target]), target + 1):
            term = layer(maps[source])
            factor = 2 ** (source - target)
            # Two resizes where a size is odd, as in training (hrnet.model.backbone).
            term = resize(resize(term, [factor * side for side in term.shape[-2:]]), total.shape[-2:])
            total, own = term.add_(total), False
        for chain, x in zip(cast(nn.ModuleList, self.down[target]), maps, strict=False):
            *first, last = cast(nn.ModuleList, chain)
            for conv in first:
                x = conv(x)
            # The branch's own map goes into other sums too.
            total, own = last(x, total, overwrite=not own), False
        return total if target else total.relu_()


class _Backbone(nn.Module):
    def __init__(self, source: HRNet) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _folded(source.conv1, source.bn1, relu=True),
            _folded(source.conv2, source.bn2, relu=True),
            *map(_Block, source.layer1.children()),
        )
        first, second = source.transition1
        self.transition1 = nn.ModuleList([_of(first), _of(cast(nn.Sequential, second)[0])])
        self.transition2 = _of(cast(nn.Sequential, source.transition2[-1])[0])
        self.transition3 = _of(cast(nn.Sequential, source.transition3[-1])[0])
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(*map(_Exchange, stage.children())) for stage in (source.stage2, source.stage3, source.stage4)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps: list[Tensor] = self.stage2([transition(x) for transition in self.transition1])
        maps = self.stage3([*maps, self.transition2(maps[-1])])
        return cast(list[Tensor], self.stage4([*maps, self.transition3(maps[-1])]))


class _Head(nn.Module):
    """The 1x1 convolution over all maps at the highest resolution, as one of each map before it is enlarged.

    Both are linear, the one over channels and the other over pixels, so they commute; the large concatenation is
    never made, and most of the arithmetic happens at low resolution.
    """

    def __init__(self, head: FCNHead, widths: Sequence[int]) -> None:
        super().__init__()
        mixing = _folded(head.convs[0].conv, head.convs[0].bn, relu=True)  # type: ignore[arg-type]
        source = cast(nn.Conv2d, head.convs[0].conv)
        nothing = torch.zeros_like(mixing.bias)
        self.parts = nn.ModuleList(
            _Conv(weight, nothing if number else mixing.bias, source, relu=number == 0)
            for number, weight in enumerate(torch.split(mixing.weight, list(widths), dim=1))
        )
        assert head.conv_seg.bias is not None
        self.classes = _Conv(head.conv_seg.weight, head.conv_seg.bias, head.conv_seg, relu=False)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size, total = maps[0].shape[-2:], None
        for part, x in zip(list(self.parts)[1:], maps[1:], strict=True):
            enlarged = resize(part(x), size)
            total = enlarged if total is None else total.add_(enlarged)
        return cast(Tensor, self.classes(self.parts[0](maps[0], total)))
