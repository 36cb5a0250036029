"""Counts of (label, prediction) pairs and the scores made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["ConfusionMatrix", "Scores"]

_IGNORE = 255
_OTHER = 254
_EXACT = 1 << 24
"""Pixels up to which OpenCV's float32 histogram counts without error."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Scores over all pixels counted. A class without pixels has no value (NaN) and no part in a mean."""

    mIoU: float
    """Mean over classes of intersection over union, in percent, unrounded; NaN if nothing was counted."""
    mAcc: float
    """Mean over classes of the share of their pixels that were found, in percent."""
    aAcc: float
    """Share of all pixels that were classified correctly, in percent."""
    iou: Floats
    """Intersection over union per class, 0..1; NaN where neither label nor prediction has the class."""
    acc: Floats
    """Share of the class's pixels that were found, 0..1; NaN where no label has the class."""


class ConfusionMatrix:
    """Pixels per pair of label and predicted class, as exact integers.

    Label 255 is not counted. A label outside the classes belongs to none of them, but what was predicted there still
    counts as predicted, as in the reference.
    """

    def __init__(self, num_classes: int) -> None:
        if not 1 <= num_classes <= _OTHER:
            raise ValueError(f"num_classes must be a whole number from 1 to {_OTHER}, got {num_classes}")
        self.num_classes = num_classes
        # One row and one column more: labels and predictions that are no class.
        self._counts: Ints = np.zeros((num_classes + 1, num_classes + 1), np.int64)

    def update(self, pred: NDArray[Any] | Tensor, label: NDArray[Any] | Tensor) -> None:
        """Count one image, or a batch of equal size: class maps of the same shape, of any integer type."""
        predictions, labels = _as_bytes(pred), _as_bytes(label)
        if predictions.shape != labels.shape:
            raise ValueError(f"prediction and label differ in shape: {predictions.shape} and {labels.shape}")
        predictions, labels = predictions.reshape(-1, 1), labels.reshape(-1, 1)
        for start in range(0, len(labels), _EXACT):
            part = slice(start, start + _EXACT)
            self._add(_pairs(labels[part], predictions[part]))

    def _add(self, pairs: Ints) -> None:
        n = self.num_classes
        known = pairs[:_IGNORE]
        rows = np.concatenate([known[:n], known[n:].sum(axis=0, keepdims=True)])
        self._counts += np.concatenate([rows[:, :n], rows[:, n:].sum(axis=1, keepdims=True)], axis=1)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix of as many classes."""
        if other.num_classes != self.num_classes:
            raise ValueError(f"cannot merge counts of {other.num_classes} classes into {self.num_classes}")
        self._counts += other._counts

    def state(self) -> Tensor:
        """Return all counts as a new int64 tensor, which may be summed over workers and given to `load_state`."""
        return torch.from_numpy(self._counts.copy())

    def load_state(self, state: Tensor) -> None:
        """Replace the counts by those of a `state`."""
        counts = state.cpu().numpy()
        if counts.shape != self._counts.shape:
            raise ValueError(f"counts of shape {counts.shape} do not fit {self.num_classes} classes")
        self._counts = counts.astype(np.int64)

    def counts(self) -> Ints:
        """Return the (classes, classes) counts: rows are labels, columns predictions."""
        return self._counts[:-1, :-1].copy()

    def areas(self) -> tuple[Ints, Ints, Ints]:
        """Return pixels per class: in label and prediction, in the prediction, in the label."""
        return np.diagonal(self._counts)[:-1].copy(), self._counts[:, :-1].sum(axis=0), self._counts[:-1].sum(axis=1)

    def scores(self) -> Scores:
        """Return the scores over everything counted so far."""
        intersection, predicted, labelled = self.areas()
        iou = _ratio(intersection, predicted + labelled - intersection)
        acc = _ratio(intersection, labelled)
        overall = _ratio(intersection.sum(keepdims=True), labelled.sum(keepdims=True))
        return Scores(mIoU=_mean(iou), mAcc=_mean(acc), aAcc=_mean(overall), iou=iou, acc=acc)


def _as_bytes(values: NDArray[Any] | Tensor) -> NDArray[np.uint8]:
    array = values.cpu().numpy() if isinstance(values, Tensor) else values
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    return np.where((array >= 0) & (array <= _IGNORE), array, _OTHER).astype(np.uint8)


def _pairs(labels: NDArray[np.uint8], predictions: NDArray[np.uint8]) -> Ints:
    """Count all 256 x 256 pairs of bytes; OpenCV does this twice as fast as a bincount of joined indices."""
    counts = cv2.calcHist([labels, predictions], [0, 1], None, [256, 256], [0, 256, 0, 256])
    return counts.astype(np.int64)


def _ratio(part: Ints, whole: Ints) -> Floats:
    ratios: Floats = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratios, where=whole > 0)
    return ratios


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(100 * known.mean()) if known.size else float("nan")
