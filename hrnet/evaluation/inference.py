"""From an image to its class map, as the published evaluation does it.

Logits are resized twice: to what the network saw, then to the original image. That is not the same as once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hrnet.catalogue import Recipe
from hrnet.data.transforms import keep_ratio_size, normalise
from hrnet.errors import DataError
from hrnet.evaluation.classmap import Votes, enlarged_class_map
from hrnet.model.backbone import resize

__all__ = ["network_input", "network_logits", "scaled_size", "segment", "view_sizes", "windows"]

Image = NDArray[np.uint8]


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
        model: a segmentor; it works in evaluation mode and is left in the mode it was in. For more than a few images
            `hrnet.fused(model)` is the same network, faster.
        image_bgr: (H,W,3) uint8, blue first as OpenCV reads it.
        recipe: says at what size and how (whole, by windows) the network sees the image.
        ms_flip: average class probabilities over `tta_ratios` and, with `tta_flip`, mirrored images.
        device: where to compute; by default where the model is.

    Raises:
        DataError: the image is not (H,W,3) uint8.
    """
    if image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or image_bgr.dtype != np.uint8:
        raise DataError(f"an image must be HxWx3 of uint8, got {image_bgr.shape} of {image_bgr.dtype}")
    where = next(itertools.chain(model.parameters(), model.buffers())).device if device is None else device
    if not model.training:
        return _segment(model, image_bgr, recipe, torch.device(where), ms_flip=ms_flip)
    model.eval()
    try:
        return _segment(model, image_bgr, recipe, torch.device(where), ms_flip=ms_flip)
    finally:
        model.train()


def _segment(model: nn.Module, image_bgr: Image, recipe: Recipe, where: torch.device, *, ms_flip: bool) -> Image:
    height, width = image_bgr.shape[:2]
    if not ms_flip:
        seen = scaled_size(height, width, recipe.test_scale)
        logits = _logits(model, network_input(image_bgr, seen, where), recipe)
        return enlarged_class_map(logits, seen, (height, width))
    votes = Votes((height, width))
    for seen in view_sizes(height, width, recipe):
        for mirrored in (False, True) if recipe.tta_flip else (False,):
            logits = _logits(model, network_input(image_bgr, seen, where, mirrored=mirrored), recipe)
            # A resize is symmetric, so the few logits before it are mirrored back, not the many after it.
            votes.add(logits.flip(-1) if mirrored else logits, seen)
            del logits  # before the next view needs the room
    return votes.class_map()


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
    return resize(_logits(model, x, recipe), x.shape[-2:])


def _logits(model: nn.Module, x: Tensor, recipe: Recipe) -> Tensor:
    """Float logits of normalised images: whole at a quarter of their size, by windows at their size."""
    if recipe.test_mode == "whole":
        return _forward(model, x, recipe)
    assert recipe.slide_crop is not None
    assert recipe.slide_stride is not None
    total: Tensor | None = None
    visits = torch.zeros(x.shape[-2:], device=x.device, dtype=x.dtype)
    for y1, x1, y2, x2 in windows(x.shape[-2], x.shape[-1], recipe.slide_crop, recipe.slide_stride):
        window = x[..., y1:y2, x1:x2]
        logits = resize(_forward(model, window, recipe), window.shape[-2:])
        if total is None:
            total = logits.new_zeros((*logits.shape[:2], *x.shape[-2:]))
        total[..., y1:y2, x1:x2] += logits
        visits[y1:y2, x1:x2] += 1
    assert total is not None
    return total.div_(visits)


def _forward(model: nn.Module, x: Tensor, recipe: Recipe) -> Tensor:
    with torch.autocast(x.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        logits: Tensor = model(x)
    return logits.float()
