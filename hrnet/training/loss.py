"""The training loss, without the logits, probabilities and gradients of all classes at the size of the labels.

At that size one of them takes 157 MB for an image of ADE20K (512x512, 150 classes), and autograd keeps several. The
loss works through bands of rows instead and brings each band's gradient back to the logits' own size at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["segmentation_loss"]

_IGNORE = 255

_BAND = {"cpu": 1 << 20, "cuda": 1 << 26}
"""Type of device to the numbers (rows x columns x classes x images) of a band: on a CPU they should stay in its cache,
a GPU wants few launches."""

_ROWS = 8
"""A band has at least as many rows of the logits, since one more on either side is resized with them."""


def segmentation_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, the number of correctly classified pixels and the number of pixels that count.

    The logits are resized to the labels. The cross-entropy is summed over pixels whose label is not 255 and divided by
    ALL pixels, as the reference does, so an image with much padding weighs less and one without any label gives 0; the
    mean over equal shares of a batch is then the loss of the batch.

    Args:
        logits: (N,C,h,w).
        labels: (N,H,W), uint8 or int64, classes 0..C-1 or 255.

    Returns:
        A scalar in the logits' precision and two scalars of int64 (accuracy is over pixels that count).
    """
    loss, correct = _BandedLoss.apply(logits, labels)  # type: ignore[no-untyped-call]
    return loss, correct, (labels != _IGNORE).sum()


class _BandedLoss(torch.autograd.Function):
    """The gradient is known up to a factor as soon as the loss is: the forward pass leaves it to the backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        # In this layout a pixel's classes are neighbours, which resizing, soft-max and arg-max are fastest on.
        logits = logits.contiguous(memory_format=torch.channels_last)
        gradient = torch.zeros_like(logits) if ctx.needs_input_grad[0] else None
        loss, correct = logits.new_zeros(()), torch.zeros((), dtype=torch.int64, device=logits.device)
        for band in _bands(logits, labels):
            source, targets = logits[:, :, band.source], labels[:, band.pixels].long()
            # `interpolate` makes a new tensor, also where the size stays: it is overwritten below.
            resized = functional.interpolate(source, size=(band.height, labels.shape[2]), mode="bilinear")
            inner = resized[:, :, band.inner].permute(0, 2, 3, 1)
            correct += (inner.argmax(dim=-1) == targets).sum()
            logs = functional.log_softmax(inner, dim=-1)
            loss += functional.nll_loss(logs.flatten(0, 2), targets.flatten(), ignore_index=_IGNORE, reduction="sum")
            if gradient is not None:
                resized[:, :, : band.inner.start].zero_()
                resized[:, :, band.inner.stop :].zero_()
                _gradient(logs, targets, inner)
                gradient[:, :, band.source] += torch.ops.aten.upsample_bilinear2d_backward(
                    resized, resized.shape[-2:], source.shape, False, None, None
                )
        if gradient is not None:
            ctx.save_for_backward(gradient.div_(labels.numel()))
        ctx.mark_non_differentiable(correct)
        return loss / labels.numel(), correct

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None


def _gradient(logs: Tensor, targets: Tensor, out: Tensor) -> None:
    """Write the gradient of the summed loss: probabilities, less 1 at the label, and 0 where the label is ignored.

    All but the targets (N,H,W) are (N,H,W,C); the logarithms of the probabilities are overwritten.
    """
    counts = targets != _IGNORE
    classes = targets.where(counts, 0).unsqueeze(-1)
    probabilities = logs.exp_().scatter_add_(-1, classes, logs.new_tensor(-1).expand(classes.shape))
    torch.mul(probabilities, counts.unsqueeze(-1), out=out)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Band:
    source: slice
    """Rows of the logits that are resized: the band's and, within the image, one more on either side."""
    height: int
    """Rows that they are resized to."""
    inner: slice
    """Those of them that are the band's."""
    pixels: slice
    """The same as rows of the labels."""


def _bands(logits: Tensor, labels: Tensor) -> Iterator[_Band]:
    """Divide the rows; where the labels' height is no multiple of the logits', bands would be resized otherwise."""
    rows, (height, width) = logits.shape[2], labels.shape[1:]
    factor, rest = divmod(height, rows)
    if rest:
        yield _Band(source=slice(0, rows), height=height, inner=slice(0, height), pixels=slice(0, height))
        return
    numbers = logits.shape[0] * logits.shape[1] * factor * width
    step = max(_ROWS, _BAND[logits.device.type] // numbers)
    for top in range(0, rows, step):
        bottom = min(top + step, rows)
        first, last = max(top - 1, 0), min(bottom + 1, rows)
        yield _Band(
            source=slice(first, last),
            height=(last - first) * factor,
            inner=slice((top - first) * factor, (bottom - first) * factor),
            pixels=slice(top * factor, bottom * factor),
        )
