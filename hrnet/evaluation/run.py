"""Evaluation of a model over a split, shared by all workers of a gang: scores, pictures, progress."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hrnet import draw
from hrnet.allocator import keep_blocks
from hrnet.catalogue import Recipe
from hrnet.data.cards import Card
from hrnet.data.decoded import Decoded
from hrnet.data.shards import PreparedDataset, Split
from hrnet.evaluation.confusion import ConfusionMatrix, Scores
from hrnet.evaluation.inference import segment
from hrnet.evaluation.pictures import extreme_pictures, overlays
from hrnet.events import Event
from hrnet.model.fused import fused
from hrnet.training.gang import Gang

__all__ = ["drain", "evaluate", "evaluate_split", "score_artifacts", "score_metrics", "val_images"]

Image = NDArray[np.uint8]
Result = TypeVar("Result")


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
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    gang: Gang,
    *,
    ms_flip: bool = False,
    per_image: Tensor | None = None,
) -> Generator[Event, None, ConfusionMatrix]:
    """Evaluate the model on every validation image once, the images dealt out over the gang.

    Yields a progress event (metrics empty, step = images done) per round of images, the same number on every rank.
    `per_image`, float64 of shape (images,) if given, is filled with every image's own mIoU in percent, on every rank:
    the mean over the classes that it or its prediction shows; NaN where no pixel has a label.

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
    if per_image is not None:
        per_image.zero_()  # each rank adds those of its own images
    samples = _prefetch(Decoded(split, keep=count == len(split)), range(gang.rank, count, gang.world))
    for first in range(0, count, gang.world):
        if first + gang.rank < count:
            image, label = next(samples)
            own = ConfusionMatrix(recipe.num_classes)
            own.update(segment(network, image, recipe, ms_flip=ms_flip, device=gang.device), label)
            matrix.merge(own)
            if per_image is not None:
                per_image[first + gang.rank] = own.scores().mIoU
        yield Event(kind="progress", step=min(first + gang.world, count), total=count)
    model.train(training)
    total = ConfusionMatrix(recipe.num_classes)
    total.load_state(gang.sum_(matrix.state().to(gang.device)).cpu())
    if per_image is not None:
        per_image.copy_(gang.sum_(per_image.to(gang.device)))
    return total


def score_metrics(scores: Scores) -> dict[str, float]:
    """The scores of a single-scale evaluation under their metric names, in percent."""
    return {"val/mIoU": scores.mIoU, "val/mAcc": scores.mAcc, "val/aAcc": scores.aAcc}


def score_artifacts(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    card: Card,
    matrix: ConfusionMatrix,
    device: torch.device,
    per_image: Tensor | None = None,
) -> Mapping[str, bytes]:
    """Per-class scores (JSON, and as a table), the confusion matrix (JSON, PNG) and comparisons of images, by path.

    `per_image` is what `evaluate_split` has filled; without it the best and worst images are not known.
    """
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
        "eval/per_class.table.json": json.dumps(_per_class(card.classes, matrix)).encode(),
        "eval/confusion.png": draw.confusion_picture(matrix.counts(), card.classes),
    }
    artifacts |= overlays(model, split, val_images(split, recipe), recipe, card, device)
    if per_image is not None:
        artifacts |= extreme_pictures(model, split, per_image, recipe, card, device)
    return artifacts


def _per_class(classes: Sequence[str], matrix: ConfusionMatrix) -> dict[str, list[object]]:
    """Scores and pixels of every class as a table of rows."""
    scores, (_, _, labelled) = matrix.scores(), matrix.areas()
    pixels = max(1, int(labelled.sum()))
    rows = zip(classes, scores.iou.tolist(), scores.acc.tolist(), labelled.tolist(), strict=True)
    return {
        "columns": ["class", "IoU", "accuracy", "share of pixels"],
        "data": [[name, _percent(iou), _percent(acc), _percent(count / pixels)] for name, iou, acc, count in rows],
    }


def _percent(value: float) -> float | None:
    return None if math.isnan(value) else round(100 * value, 4)


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
