"""The whole network, and its initialisation."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from hrnet.catalogue import WIDTHS, Width
from hrnet.errors import RecipeError, suggestion
from hrnet.model.backbone import LAYOUTS, HRNet
from hrnet.model.head import FCNHead

__all__ = ["HRNetSegmentor", "build_model"]


class HRNetSegmentor(nn.Module):
    """HRNet with a fully convolutional head. Its convolutions hold no values yet: `build_model` initialises it."""

    def __init__(self, width: Width, num_classes: int) -> None:
        super().__init__()
        self.width = width
        self.num_classes = num_classes
        layout = LAYOUTS[width]
        self.backbone = HRNet(layout)
        self.decode_head = FCNHead(layout.channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised RGB images (N,3,H,W) to logits (N,classes,ceil(H/4),ceil(W/4))."""
        return cast(Tensor, self.decode_head(self.backbone(x)))


def build_model(width: Width, num_classes: int, seed: int | None = None) -> HRNetSegmentor:
    """Return a freshly initialised network on the CPU, in training mode.

    With a seed the weights are a function of it alone and torch's global generator is left as it is; without one they
    are drawn from that generator. Raises `RecipeError` for an unknown width or a number of classes outside 1..254.
    """
    if width not in LAYOUTS:
        raise RecipeError(f"there is no width {width!r}{suggestion(width, WIDTHS)}")
    if not 1 <= num_classes <= 254:
        raise RecipeError(f"num_classes must be a whole number from 1 to 254, got {num_classes}")
    model = HRNetSegmentor(width, num_classes)
    _initialise(model, None if seed is None else torch.Generator().manual_seed(seed))
    return model


def _initialise(model: HRNetSegmentor, generator: torch.Generator | None) -> None:
    """Convolutions: Kaiming normal over the outputs; classifier: N(0, 0.01), no offset; normalisation is identity."""
    for module in model.modules():
        if module is model.decode_head.conv_seg:
            nn.init.normal_(model.decode_head.conv_seg.weight, std=0.01, generator=generator)
            nn.init.zeros_(cast(Tensor, model.decode_head.conv_seg.bias))
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
