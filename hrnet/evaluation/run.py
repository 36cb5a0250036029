"""Evaluation of a model over a split, shared by all workers of a gang: scores, pictures, progress."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hrnet import draw
from hrnet.allocator import keep_blocks
from hrnet.catalogue import Recipe
from hrnet.data.cards import Card
from hrnet.data.decoded import Decoded
from hrnet.data.shards import PreparedDataset, Split
from hrnet.evaluation.confusion import ConfusionMatrix, Scores
from hrnet.evaluation.inference import segment
from hrnet.events import Event
from hrnet.model.fused import fused
from hrnet.training.gang import Gang

__all__ = ["drain", "evaluate", "evaluate_split", "score_artifacts", "score_metrics", "val_images"]

Image = NDArray[np.uint8]
Result = TypeVar("Result")

OVERLAYS = 4
"""Validation images, evenly spaced over the split, that are drawn at the end of a trial."""


def evaluate(model: nn.Module, data: PreparedDataset, recipe: Recipe, *, ms_flip: bool = False) -> Scores:
    """Scores of a model over the val split of a prepared data set, single scale or multi-scale with flip.

    In a gang every worker must call this, and gets the scores over all images.
    """
    gang = Gang.current()
    evaluation = evaluate_split(model.to(gang.device), data.split("val"), recipe, gang, ms_flip=ms_flip)
    return drain(evaluation).scores()


def drain(work: Generator[object, None, Result]) -> Result:
    """Run a generator to its end and return what it returns, where nobody wants its progress."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            result: Result = stop.value
            return result


def val_images(split: Split, recipe: Recipe) -> int:
    """Number of validation images that count: all, or the first `recipe.val_limit`."""
    return len(split) if recipe.val_limit is None else min(len(split), recipe.val_limit)


def evaluate_split(
    model: nn.Module, split: Split, recipe: Recipe, gang: Gang, *, ms_flip: bool = False
) -> Generator[Event, None, ConfusionMatrix]:
    """Evaluate the model on every validation image once, the images dealt out over the gang.

    Yields a progress event (metrics empty, step = images done) per round of images, the same number on every rank.

    Returns:
        The confusion matrix over all images, equal on every rank.
    """
    if gang.device.type == "cpu":
        keep_blocks()
    count = val_images(split, recipe)
    if count == len(split):
        split.fetch()
    matrix = ConfusionMatrix(recipe.num_classes)
    training = model.training
    network = fused(model.eval())
    samples = _prefetch(Decoded(split, keep=count == len(split)), range(gang.rank, count, gang.world))
    for first in range(0, count, gang.world):
        if first + gang.rank < count:
            image, label = next(samples)
            matrix.update(segment(network, image, recipe, ms_flip=ms_flip, device=gang.device), label)
        yield Event(kind="progress", step=min(first + gang.world, count), total=count)
    model.train(training)
    total = ConfusionMatrix(recipe.num_classes)
    total.load_state(gang.sum_(matrix.state().to(gang.device)).cpu())
    return total


def score_metrics(scores: Scores) -> dict[str, float]:
    """The scores of a single-scale evaluation under their metric names, in percent."""
    return {"val/mIoU": scores.mIoU, "val/mAcc": scores.mAcc, "val/aAcc": scores.aAcc}


def score_artifacts(
    model: nn.Module, split: Split, recipe: Recipe, card: Card, matrix: ConfusionMatrix, device: torch.device
) -> Mapping[str, bytes]:
    """Per-class scores (JSON), the confusion matrix (JSON, PNG) and overlays of a few fixed images (PNG), by path."""
    scores = matrix.scores()
    table = {
        "mIoU": scores.mIoU,
        "mAcc": scores.mAcc,
        "aAcc": scores.aAcc,
        "images": val_images(split, recipe),
        "classes": [
            {"name": name, "iou": _percent(iou), "acc": _percent(acc)}
            for name, iou, acc in zip(card.classes, scores.iou.tolist(), scores.acc.tolist(), strict=True)
        ],
    }
    counts = {"rows": "label", "columns": "prediction", "classes": card.classes, "pixels": matrix.counts().tolist()}
    artifacts = {
        "eval/confusion.json": json.dumps(counts, separators=(",", ":")).encode(),
        "eval/per_class_iou.json": json.dumps(table, indent=1).encode(),
        "eval/confusion.png": draw.confusion_picture(matrix.counts(), card.classes),
    }
    network = fused(model.eval())
    for index in _spread(val_images(split, recipe), OVERLAYS):
        sample = split[index]
        predicted = segment(network, sample.image, recipe, device=device)
        picture = draw.comparison(sample.image, sample.label, predicted, card.palette)
        artifacts[f"eval/overlays/{index:05d}_{sample.name.replace('/', '_')}.png"] = picture
    return artifacts


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else round(100 * value, 4)


def _spread(count: int, wanted: int) -> list[int]:
    shown = min(wanted, count)
    return [(2 * i + 1) * count // (2 * shown) for i in range(shown)]


def _prefetch(decoded: Decoded, indices: Iterable[int]) -> Iterator[tuple[Image, Image]]:
    """Decode the next image while the model works on this one (OpenCV and torch release the interpreter lock)."""
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for index in indices:
            following = pool.submit(decoded.__getitem__, index)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()
