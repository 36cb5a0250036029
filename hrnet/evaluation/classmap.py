"""The class of every pixel of an image from the network's logits at a quarter of the size, without enlarging them all.

On an accelerator all logits are enlarged at once. On a CPU that is most of the time and memory of many classes. What
a pixel gets is a weighted mean of the logits around it: between four places, or between nine where the logits are
resized twice. Where one class leads at all of these it leads in every mean of them, so only pixels near a border
between classes need any arithmetic. Where there are many of those, the image is enlarged in bands that fit a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hrnet.model.backbone import resize

__all__ = ["Votes", "class_map", "enlarged_class_map"]

Size = tuple[int, int]

_DENSE = 0.5
"""Share of pixels near borders, each made of four places, from which on all of them are computed."""

_BAND = 16
"""Rows of which the enlarged logits are in memory at once."""

_SOFTMAX = 64
"""Rows of which an accelerator has the probabilities in memory at once: all of them would be a third large array."""

_BAG = 8192
"""Single pixels of which they are."""


def class_map(scores: Tensor) -> NDArray[np.uint8]:
    """Return the class (H,W) uint8 of highest score, on the CPU; scores are (1,C,H,W)."""
    classes: NDArray[np.uint8] = scores[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
    return classes


def enlarged_class_map(logits: Tensor, seen: Size, size: Size) -> NDArray[np.uint8]:
    """Return the class (H,W) uint8, on the CPU, of highest logit after two resizes.

    Args:
        logits: (1,C,h,w) at a quarter of the size that the network saw.
        seen: height and width that the network saw; the logits are resized to it first.
        size: height and width of the result.
    """
    if logits.device.type != "cpu":
        return class_map(resize(resize(logits, seen), size))
    rows, columns = _Axis.of(logits.shape[2], seen[0], size[0]), _Axis.of(logits.shape[3], seen[1], size[1])
    # (h, w, C): all logits of a place side by side.
    places = logits[0].permute(1, 2, 0).contiguous()
    coarse = _leading(places)
    nearest = coarse[rows.first[:, None], columns.first]
    near = ~_uniform(coarse, rows.reach, columns.reach)[rows.first[:, None], columns.first]
    if np.count_nonzero(near) * rows.reach * columns.reach >= _DENSE * 4 * near.size:
        return _all(places, rows, seen[1], size)
    where = np.nonzero(near)
    nearest[where] = _some(places, rows, columns, *where)
    return nearest


class Votes:
    """The mean of class probabilities over several views of an image; no view is enlarged as a whole on a CPU."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._total: Tensor | None = None

    def add(self, logits: Tensor, seen: Size) -> None:
        """Add the soft-max, over classes, of logits (1,C,h,w) after the two resizes of `enlarged_class_map`."""
        height, width = self._size
        on_cpu = logits.device.type == "cpu"
        if self._total is None:
            classes = logits.shape[1]
            self._total = logits.new_zeros((height, width, classes) if on_cpu else (1, classes, height, width))
        if on_cpu:
            places = logits[0].permute(1, 2, 0).contiguous()
            rows = _Axis.of(logits.shape[2], seen[0], height)
            for band, enlarged in _bands(places, rows, seen[1], self._size):
                self._total[band] += enlarged.softmax(dim=-1)
            return
        enlarged = resize(resize(logits, seen), self._size)
        for top in range(0, height, _SOFTMAX):
            rows_of = slice(top, top + _SOFTMAX)
            self._total[:, :, rows_of] += enlarged[:, :, rows_of].softmax(dim=1)

    def class_map(self) -> NDArray[np.uint8]:
        """Return the class (H,W) uint8 of largest mean, on the CPU; raises ValueError if there was no view."""
        if self._total is None:
            raise ValueError("no view was added")
        if self._total.device.type == "cpu":
            return _leading(self._total)
        return class_map(self._total)


def _leading(scores: Tensor) -> NDArray[np.uint8]:
    """The first of the largest along the last axis; numpy's loop is several times faster than torch's on a CPU."""
    classes: NDArray[np.uint8] = scores.numpy().argmax(axis=-1).astype(np.uint8)
    return classes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Axis:
    """From which places, and with which weights, a line of pixels is made by two linear resizes."""

    first: NDArray[np.int64]
    """First place of each pixel."""

    weights: NDArray[np.float32]
    """(pixels, places): weight of the first place and of those after it."""

    @property
    def reach(self) -> int:
        """Number of places that a pixel is made of."""
        return int(self.weights.shape[1])

    @classmethod
    def of(cls, length: int, seen: int, size: int) -> _Axis:
        """`length` places, resized to `seen` places, resized to `size` pixels."""
        low, high, share = _linear(length, seen)
        if seen == size:
            return cls(first=low, weights=_spread(low, [(low, 1 - share), (high, share)]))
        lower, upper, part = _linear(seen, size)
        shares = [(lower, 1 - part), (upper, part)]
        terms = [
            (places, weight)
            for index, outer in shares
            for places, weight in ((low[index], outer * (1 - share[index])), (high[index], outer * share[index]))
        ]
        return cls(first=low[lower], weights=_spread(low[lower], terms))


def _linear(source: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Left place, right place and weight of the right one, with corners not aligned, in float32 as torch computes."""
    scale = np.float32(source) / np.float32(target)
    position = np.maximum((np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), 0)
    low = np.minimum(position.astype(np.int64), source - 1)
    return low, np.minimum(low + 1, source - 1), (position - low).astype(np.float32)


def _spread(
    first: NDArray[np.int64], terms: list[tuple[NDArray[np.int64], NDArray[np.float32]]]
) -> NDArray[np.float32]:
    reach = 1 + max(int((places - first)[weight > 0].max(initial=0)) for places, weight in terms)
    weights = np.zeros((len(first), reach), np.float32)
    for places, weight in terms:
        known = weight > 0
        weights[np.nonzero(known)[0], (places - first)[known]] += weight[known]
    return weights


def _uniform(coarse: NDArray[np.uint8], height: int, width: int) -> NDArray[np.bool_]:
    """Whether the places from each one on, `height` down and `width` to the right, all have its class."""
    kernel, anchor = np.ones((height, width), np.uint8), (0, 0)
    low = cv2.erode(coarse, kernel, anchor=anchor, borderType=cv2.BORDER_REPLICATE)
    high = cv2.dilate(coarse, kernel, anchor=anchor, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(low == high)


def _all(places: Tensor, rows: _Axis, seen_width: int, size: Size) -> NDArray[np.uint8]:
    """Classes of all pixels."""
    classes = np.empty(size, np.uint8)
    for band, enlarged in _bands(places, rows, seen_width, size):
        classes[band] = _leading(enlarged)
    return classes


def _bands(places: Tensor, rows: _Axis, seen_width: int, size: Size) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows of the enlarged logits, (rows, W, C), with the place of these rows in the image."""
    for top in range(0, size[0], _BAND):
        band = slice(top, min(top + _BAND, size[0]))
        lines = places.new_zeros((band.stop - top, *places.shape[1:]))
        for step in range(rows.reach):
            source = torch.from_numpy(np.minimum(rows.first[band] + step, len(places) - 1))
            lines.addcmul_(places[source], torch.from_numpy(rows.weights[band, step, None, None]))
        # Lines as a batch: along them alone, with all logits of a place side by side.
        wide = resize(lines.permute(0, 2, 1)[:, :, None], (1, seen_width))
        wide = resize(wide, (1, size[1]))
        yield band, wide[:, :, 0].permute(0, 2, 1)


def _some(
    places: Tensor, rows: _Axis, columns: _Axis, y: NDArray[np.int64], x: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Classes of the pixels at y, x."""
    height, width = places.shape[:2]
    table = places.reshape(height * width, -1)
    classes = np.empty(len(y), np.uint8)
    for start in range(0, len(y), _BAG):
        part = slice(start, start + _BAG)
        # Beyond the border a weight is 0.
        down = np.minimum(rows.first[y[part]][:, None] + np.arange(rows.reach), height - 1)
        across = np.minimum(columns.first[x[part]][:, None] + np.arange(columns.reach), width - 1)
        sources = (down[:, :, None] * width + across[:, None, :]).reshape(len(down), -1)
        weights = (rows.weights[y[part]][:, :, None] * columns.weights[x[part]][:, None, :]).reshape(len(down), -1)
        mixed = functional.embedding_bag(
            torch.from_numpy(sources), table, mode="sum", per_sample_weights=torch.from_numpy(weights)
        )
        classes[part] = _leading(mixed)
    return classes
