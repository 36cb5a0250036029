"""The optimizer and the learning rate of the published recipes."""

from __future__ import annotations

import torch
from torch import nn

from hrnet.catalogue import Recipe

__all__ = ["build_optimizer", "poly_lr"]


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """Return SGD with momentum over all parameters; weight decay covers normalisation and bias too, as published.

    It is fused: the network has hundreds of small tensors, and one pass over each is faster than one per operation.
    """
    return torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
    )


def poly_lr(step: int, recipe: Recipe) -> float:
    """Return the learning rate of the 0-based iteration `step`.

    It falls from `lr` towards `lr_min` by (1 - k/T)^power with T = `max_iters`. The 1.x conventions divide by T-1, so
    that the last iteration runs at `lr_min` exactly.
    """
    end = recipe.max_iters if recipe.conventions == "0.x" else max(recipe.max_iters - 1, 1)
    left = max(1 - step / end, 0.0)
    return float((recipe.lr - recipe.lr_min) * left**recipe.lr_power + recipe.lr_min)
