"""From an image to its class map, as the published evaluation does it.

Logits are resized twice: to what the network saw, then to the original image. That is not the same as once.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hrnet.catalogue import Recipe
from hrnet.data.transforms import keep_ratio_size, normalise
from hrnet.errors import DataError
from hrnet.model.backbone import resize

__all__ = ["class_map", "network_input", "network_logits", "scaled_size", "segment", "view_sizes", "windows"]

Image = NDArray[np.uint8]

_BAND = 64
"""Rows of which the class probabilities are in memory at once."""


def scaled_size(height: int, width: int, scale: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of an image resized, with its ratio kept, to fit a scale (its order does not matter)."""
    return keep_ratio_size(height, width, scale)


def view_sizes(height: int, width: int, recipe: Recipe) -> list[tuple[int, int]]:
    """Return (height, width) of every view of the multi-scale evaluation of an image of that size.

    By the conventions 0.x, which made the table, a ratio multiplies the test scale; by 1.x it multiplies the image.
    """
    if recipe.conventions == "0.x":
        first, second = recipe.test_scale
        scales = [(int(first * ratio), int(second * ratio)) for ratio in recipe.tta_ratios]
    else:
        scales = [(int(width * ratio + 0.5), int(height * ratio + 0.5)) for ratio in recipe.tta_ratios]
    return [scaled_size(height, width, scale) for scale in scales]


def windows(
    height: int, width: int, crop: tuple[int, int], stride: tuple[int, int]
) -> Iterator[tuple[int, int, int, int]]:
    """Yield the test windows (y1, x1, y2, x2) row by row; the last of a row or column is moved back into the image."""
    for bottom in _ends(height, crop[0], stride[0]):
        for right in _ends(width, crop[1], stride[1]):
            yield max(bottom - crop[0], 0), max(right - crop[1], 0), bottom, right


def _ends(side: int, crop: int, stride: int) -> list[int]:
    count = max(side - crop + stride - 1, 0) // stride + 1
    return [min(i * stride + crop, side) for i in range(count)]


@torch.inference_mode()
def segment(
    model: nn.Module,
    image_bgr: Image,
    recipe: Recipe,
    *,
    ms_flip: bool = False,
    device: torch.device | str | None = None,
) -> Image:
    """Return the class map (H,W) uint8 of an image.

    Args:
        model: a segmentor; it works in evaluation mode and is left in the mode it was in.
        image_bgr: (H,W,3) uint8, blue first as OpenCV reads it.
        recipe: says at what size and how (whole, by windows) the network sees the image.
        ms_flip: average class probabilities over `tta_ratios` and, with `tta_flip`, mirrored images.
        device: where to compute; by default where the model is.

    Raises:
        DataError: the image is not (H,W,3) uint8.
    """
    if image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or image_bgr.dtype != np.uint8:
        raise DataError(f"an image must be HxWx3 of uint8, got {image_bgr.shape} of {image_bgr.dtype}")
    where = next(model.parameters()).device if device is None else torch.device(device)
    if not model.training:
        return _segment(model, image_bgr, recipe, where, ms_flip=ms_flip)
    model.eval()
    try:
        return _segment(model, image_bgr, recipe, where, ms_flip=ms_flip)
    finally:
        model.train()


def _segment(model: nn.Module, image_bgr: Image, recipe: Recipe, where: torch.device, *, ms_flip: bool) -> Image:
    height, width = image_bgr.shape[:2]
    if not ms_flip:
        size = scaled_size(height, width, recipe.test_scale)
        return class_map(_view(model, image_bgr, size, recipe, where, mirrored=False))
    total: Tensor | None = None
    for size in view_sizes(height, width, recipe):
        for mirrored in (False, True) if recipe.tta_flip else (False,):
            logits = _view(model, image_bgr, size, recipe, where, mirrored=mirrored)
            total = torch.zeros_like(logits) if total is None else total
            _add_probabilities(total, logits)
            del logits  # before the next view needs the room
    assert total is not None
    return class_map(total)


def _add_probabilities(total: Tensor, logits: Tensor) -> None:
    """Add the class probabilities of one view, a band of rows at a time: a whole soft-max would be a third array."""
    for top in range(0, total.shape[2], _BAND):
        rows = slice(top, top + _BAND)
        total[:, :, rows] += logits[:, :, rows].softmax(dim=1)


def class_map(scores: Tensor) -> Image:
    """Return the class (H,W) uint8 of highest score, on the CPU; scores are (1,C,H,W)."""
    classes: Image = scores[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
    return classes


def _view(
    model: nn.Module,
    image: Image,
    size: tuple[int, int],
    recipe: Recipe,
    device: torch.device,
    *,
    mirrored: bool,
) -> Tensor:
    """Logits (1,C,H,W) at the image's size, from the image resized to `size`."""
    logits = network_logits(model, network_input(image, size, device, mirrored=mirrored), recipe)
    if mirrored:
        # Class by class: a mirrored copy of all would double the largest array of an evaluation.
        for each in logits.unbind(dim=1):
            each.copy_(each.flip(-1))
    return resize(logits, image.shape[:2])


def network_input(image: Image, size: tuple[int, int], device: torch.device, *, mirrored: bool = False) -> Tensor:
    """Return an image (H,W,3), blue first, as the network takes it: (1,3,*size), resized, normalised, red first."""
    if size != image.shape[:2]:
        image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    if mirrored:
        image = cv2.flip(image, 1).astype(np.uint8, copy=False)
    pixels = torch.from_numpy(np.ascontiguousarray(image))[None].to(device)
    return normalise(pixels, torch.tensor([size], device=device))


def network_logits(model: nn.Module, x: Tensor, recipe: Recipe) -> Tensor:
    """Return float logits (N,C,H,W) of normalised images (N,3,H,W) at their own size, whole or by windows."""
    if recipe.test_mode == "whole":
        return _at_size(model, x, recipe)
    assert recipe.slide_crop is not None
    assert recipe.slide_stride is not None
    total: Tensor | None = None
    visits = torch.zeros(x.shape[-2:], device=x.device, dtype=x.dtype)
    for y1, x1, y2, x2 in windows(x.shape[-2], x.shape[-1], recipe.slide_crop, recipe.slide_stride):
        logits = _at_size(model, x[..., y1:y2, x1:x2], recipe)
        if total is None:
            total = logits.new_zeros((*logits.shape[:2], *x.shape[-2:]))
        total[..., y1:y2, x1:x2] += logits
        visits[y1:y2, x1:x2] += 1
    assert total is not None
    return total.div_(visits)


def _at_size(model: nn.Module, x: Tensor, recipe: Recipe) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        logits: Tensor = model(x)
    if logits.dtype == torch.bfloat16:
        logits = logits.float()
    return resize(logits, x.shape[-2:])
