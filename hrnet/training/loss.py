"""The training loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hrnet.model.backbone import resize

__all__ = ["segmentation_loss"]

_IGNORE = 255


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
    targets = labels.long()
    full = resize(logits, targets.shape[-2:])
    loss = functional.cross_entropy(full, targets, ignore_index=_IGNORE, reduction="sum") / targets.numel()
    with torch.no_grad():
        correct = (full.argmax(dim=1) == targets).sum()
        valid = (targets != _IGNORE).sum()
    return loss, correct, valid
