"""The 3x3 convolution of training on a CPU, with a weight gradient that keeps the processor busy.

oneDNN computes that gradient, a third of the arithmetic of a training step, at about half of the rate of the other two
thirds. It is the product of two matrices, one of them a map unfolded to its nine neighbours, and products are fast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Conv2d"]

_UNFOLDED = 1 << 20
"""Numbers of an unfolded map that are in memory at once: few enough to stay in a processor's cache."""

_CHANNELS = 32
"""Inputs with fewer channels make matrices too narrow to be faster."""


class Conv2d(nn.Conv2d):
    """A convolution that is made without values: torch's would be drawn from the global generator, for nothing."""

    def reset_parameters(self) -> None:
        """Leave the storage as it is; `build_model` initialises the whole network."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (N,C,H,W) as `nn.Conv2d` does."""
        if self._own_gradient(input):
            out: Tensor = _Convolution.apply(input, self.weight, self.stride[0])  # type: ignore[no-untyped-call]
            return out
        return super().forward(input)

    def _own_gradient(self, x: Tensor) -> bool:
        return (
            self.kernel_size == (3, 3)
            and self.in_channels >= _CHANNELS
            and self.weight.requires_grad
            and torch.is_grad_enabled()
            and x.device.type == "cpu"
            and x.is_contiguous(memory_format=torch.channels_last)
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )


class _Convolution(torch.autograd.Function):
    """A convolution with padding 1 and without bias, of maps in channels-last layout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return functional.conv2d(x, weight, stride=stride, padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x, _, _ = torch.ops.aten.convolution_backward(
            grad, x, weight, None, [ctx.stride] * 2, [1, 1], [1, 1], False, [0, 0], 1,
            [ctx.needs_input_grad[0], False, False],
        )  # fmt: skip
        return grad_x, weight_gradient(x, grad, ctx.stride), None


def weight_gradient(x: Tensor, grad: Tensor, stride: int) -> Tensor:
    """Return the gradient (O,I,3,3) from the input (N,I,H,W) and the gradient of the output (N,O,h,w).

    With stride 1 the output's gradient is unfolded, which has no more channels than the input anywhere in the network;
    otherwise the input is.
    """
    if stride == 1:
        # Entry (i, j) pairs a pixel of the input with the output's pixel (1 - i, 1 - j) away: the order is reversed.
        return _products(x, grad, 1).flip(1, 2).permute(3, 0, 1, 2)
    return _products(grad, x, stride).permute(0, 3, 1, 2)


def _products(plain: Tensor, unfolded: Tensor, stride: int) -> Tensor:
    """Sums (P,3,3,U) over n, y, x of plain (n,:,y,x) times unfolded (n,:,stride y + i - 1,stride x + j - 1)."""
    count, rows, columns, depth = plain.permute(0, 2, 3, 1).shape
    padded = functional.pad(unfolded.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    wide = padded.shape[-1]
    image, row, column, _ = padded.stride()
    total = plain.new_zeros((depth, 9 * wide))
    step = max(1, _UNFOLDED // (count * columns * 9 * wide))
    for top in range(0, rows, step):
        height = min(step, rows - top)
        # Three neighbours in a row lie side by side: windows are a view, and one copy lines them up.
        windows = padded.as_strided(
            (count, height, columns, 3, 3 * wide), (image, stride * row, stride * column, row, 1), top * stride * row
        )
        band = plain[:, :, top : top + height].permute(0, 2, 3, 1).reshape(-1, depth)
        total.addmm_(band.t(), windows.reshape(-1, 9 * wide))
    return total.view(depth, 3, 3, wide)
