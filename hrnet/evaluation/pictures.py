"""What people look at: predictions on fixed validation images, over a training and at its end, and the best and worst.

Only scores are kept while a split is evaluated, never pictures; the few that are shown are predicted again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hrnet import draw
from hrnet.catalogue import Recipe
from hrnet.data.cards import Card
from hrnet.data.shards import Sample, Split
from hrnet.evaluation.inference import segment
from hrnet.model.fused import fused

__all__ = ["extreme_pictures", "first_pictures", "is_pictured", "overlays", "progress_pictures", "spread"]

OVERLAYS = 4
"""Validation images, evenly spaced over the split, that are drawn at the end of a trial."""

WATCHED = 3
"""Validation images, evenly spaced over the split, that are drawn over the training."""

POINTS = 10
"""Validations, evenly spaced over the schedule, at which they are drawn; that is all of the published ones."""

EXTREMES = 2
"""Images with the highest own mIoU that are drawn at the end of a trial, and as many with the lowest."""


def is_pictured(step: int, recipe: Recipe) -> bool:
    """Whether the validation after `step` iterations is one of the POINTS of the schedule; the last one always is."""
    number, of = math.ceil(step / recipe.val_interval), math.ceil(recipe.max_iters / recipe.val_interval)
    return number * POINTS // of > (number - 1) * POINTS // of


def first_pictures(split: Split, count: int, card: Card) -> dict[str, bytes]:
    """What `progress_pictures` draws, before there is a prediction: where a viewer of all steps begins."""
    samples = ((index, split[index]) for index in spread(count, WATCHED))
    return {
        f"overlays/{_file_name(index, sample)}": draw.compact_comparison(
            sample.image, sample.label, None, card.palette
        )
        for index, sample in samples
    }


def progress_pictures(
    model: nn.Module, split: Split, count: int, recipe: Recipe, card: Card, device: torch.device
) -> dict[str, bytes]:
    """Small comparisons (PNG) of WATCHED fixed images among the first `count`, by name; the model's mode is kept."""
    training = model.training
    shown = _predicted(model, split, spread(count, WATCHED), recipe, device)
    pictures = {
        f"overlays/{_file_name(index, sample)}": draw.compact_comparison(
            sample.image, sample.label, predicted, card.palette
        )
        for index, sample, predicted in shown
    }
    model.train(training)
    return pictures


def overlays(
    model: nn.Module, split: Split, count: int, recipe: Recipe, card: Card, device: torch.device
) -> dict[str, bytes]:
    """Comparisons (PNG) of OVERLAYS fixed images among the first `count`, by path below `eval/overlays/`."""
    shown = _predicted(model, split, spread(count, OVERLAYS), recipe, device)
    return {
        f"eval/overlays/{_file_name(index, sample)}.png": draw.comparison(
            sample.image, sample.label, predicted, card.palette
        )
        for index, sample, predicted in shown
    }


def extreme_pictures(
    model: nn.Module, split: Split, per_image: Tensor, recipe: Recipe, card: Card, device: torch.device
) -> Mapping[str, bytes]:
    """The own mIoU of every image as `eval/images.json`, and comparisons below `eval/best/` and `eval/worst/`.

    `per_image`: (images,) percent, as `evaluate_split` fills it. An image without a labelled pixel has no score and is
    neither; of fewer images than both take, none is in both.
    """
    scores = per_image.tolist()
    names = split.names[: len(scores)]
    table = [
        {"name": name, "mIoU": None if math.isnan(score) else round(score, 4)}
        for name, score in zip(names, scores, strict=True)
    ]
    artifacts = {"eval/images.json": json.dumps(table, indent=0).encode()}
    ranked = sorted((i for i, score in enumerate(scores) if not math.isnan(score)), key=lambda i: (-scores[i], i))
    several = min(EXTREMES, len(ranked) // 2)
    for folder, indices in (("best", ranked[:several]), ("worst", ranked[len(ranked) - several :])):
        for index, sample, predicted in _predicted(model, split, indices, recipe, device):
            picture = draw.comparison(sample.image, sample.label, predicted, card.palette)
            artifacts[f"eval/{folder}/{_file_name(index, sample)}.png"] = picture
    return artifacts


def spread(count: int, wanted: int) -> list[int]:
    """Return `wanted` numbers, or all if there are fewer, evenly spaced over 0 to `count` - 1."""
    shown = min(wanted, count)
    return [(2 * i + 1) * count // (2 * shown) for i in range(shown)]


def _predicted(
    model: nn.Module, split: Split, indices: Sequence[int], recipe: Recipe, device: torch.device
) -> Iterator[tuple[int, Sample, NDArray[np.uint8]]]:
    network = fused(model.eval())
    for index in indices:
        sample = split[index]
        yield index, sample, segment(network, sample.image, recipe, device=device)


def _file_name(index: int, sample: Sample) -> str:
    return f"{index:05d}_{sample.name.replace('/', '_')}"
