"""Whether labels lie where their images' edges are, or some pixels beside.

Edges of an image gather under the boundaries of its label. The mean strength of the edges under the boundaries is
computed for every displacement of up to 20 pixels each way, on each image by itself; over a few dozen images the
displacement at which it is largest is the labels' offset. On CamVid (480x360) and Dubai (aerial) the offset of the
labels as they are is (0, 1) and (0, 0), and labels moved by 4 to 16 pixels are seen as such in every single image.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from hrnet.data.finding import Finding, many
from hrnet.data.transforms import IGNORE

__all__ = ["SAMPLED", "edge_map", "offset_finding"]

SAMPLED = 24
"""Images looked at in each split, evenly spaced."""

_REACH = 20
"""Largest displacement that is tried, in pixels."""

_SIDE = 1024
"""Of a larger image only the middle is looked at."""

_LEAST = 4
"""Offsets below this (in pixels) are how people draw."""

_STRIP = 13
"""Ignored strips narrower than this (in pixels) are eroded or void borders between classes (Potsdam 6, VOC 5)."""

_ENOUGH, _FEW = 8, 4
"""Images for a verdict, and for a note."""

_AGREEING, _CLEAR = 0.9, 1.0
"""A verdict needs this share of images in which the offset beats 0 as well as its own mirror image, and on average by
this many standard deviations of the image's own map. Right labels do not come near: their maximum is within a pixel of
0, and where borders were drawn too wide, opposite offsets are equally good."""

Map = NDArray[np.float32]


def edge_map(image: NDArray[np.uint8], label: NDArray[np.uint8]) -> Map | None:
    """Return the strength of the image's edges under the label's boundaries for each displacement.

    Args:
        image: HxWx3 uint8, BGR.
        label: HxW uint8.

    Returns:
        A map of 2r+1 by 2r+1 displacements (y, x), r = 20, with mean 0 and standard deviation 1; at [r + dy, r + dx]
        are the edges (dx, dy) pixels right of and below the boundaries. None where the image is too small, or has
        no edges or boundaries.
    """
    image, label = _middle(image), _middle(label)
    if min(label.shape) < 4 * _REACH:
        return None
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32), (0, 0), 1.0)
    # The root keeps one strong edge, such as a bright lamp, from outvoting the rest of the image.
    edges = np.sqrt(cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)))
    inner = _boundaries(_without_strips(label))[_REACH:-_REACH, _REACH:-_REACH]
    if inner.sum() < 4 * _REACH:
        return None
    strength = cv2.matchTemplate(edges.astype(np.float32), inner, cv2.TM_CCORR)
    spread = float(strength.std())
    if spread <= 1e-6 * max(1.0, float(np.abs(strength).max())):
        return None
    return np.asarray((strength - strength.mean()) / spread, dtype=np.float32)


def offset_finding(split: str, maps: Sequence[Map]) -> Finding | None:
    """Return a finding if the labels of a split lie beside their images; None if they do not, or too few were seen."""
    if len(maps) < _FEW:
        return None
    stacked = np.stack(maps)
    mean = stacked.mean(axis=0)
    row, column = np.unravel_index(int(mean.argmax()), mean.shape)
    down, right = int(row) - _REACH, int(column) - _REACH
    rivals = np.maximum(stacked[:, _REACH, _REACH], stacked[:, _REACH - down, _REACH - right])
    gains = stacked[:, row, column] - rivals
    agreeing = float((gains > 0).mean())
    if max(abs(down), abs(right)) < _LEAST or agreeing < _AGREEING or float(gains.mean()) < _CLEAR:
        return None
    # The edges lie (right, down) of the boundaries, so the labels have moved the other way.
    moved = [f"{abs(n)} pixels {way}" for n, way in _ways(-right, -down) if n]
    least = "at least " if max(abs(down), abs(right)) == _REACH else ""
    message = (
        f"the labels lie {least}{' and '.join(moved)} of their images (the images' edges fit their boundaries best "
        f"there, in {int((gains > 0).sum())} of {many(len(maps), 'image')} looked at): were images or labels cropped, "
        f"padded or resized differently?"
    )
    return Finding(kind="shift", where=split, message=message, fatal=len(maps) >= _ENOUGH)


def _ways(right: int, down: int) -> tuple[tuple[int, str], tuple[int, str]]:
    return (right, "right" if right > 0 else "left"), (down, "below" if down > 0 else "above")


def _middle(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    top, left = (max(0, (length - _SIDE) // 2) for length in pixels.shape[:2])
    return pixels[top : top + _SIDE, left : left + _SIDE]


def _without_strips(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give narrow ignored strips to the nearest class, so that classes meet where the strip's middle is."""
    ignored = np.asarray(label == IGNORE, dtype=np.uint8)
    if not ignored.any() or ignored.all():
        return label
    wide = cv2.morphologyEx(ignored, cv2.MORPH_OPEN, np.ones((_STRIP, _STRIP), dtype=np.uint8))
    _, nearest = cv2.distanceTransformWithLabels(ignored, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    value_of = np.zeros(int(nearest.max()) + 1, dtype=np.uint8)
    value_of[nearest[ignored == 0]] = label[ignored == 0]
    return np.where(ignored > wide, value_of[nearest], label).astype(np.uint8)


def _boundaries(label: NDArray[np.uint8]) -> NDArray[np.float32]:
    found = np.zeros(label.shape, dtype=np.float32)
    across, along = label[:, 1:] != label[:, :-1], label[1:] != label[:-1]
    for part, differs in ((found[:, 1:], across), (found[:, :-1], across), (found[1:], along), (found[:-1], along)):
        part[differs] = 1.0
    return found
