"""Cutting large pictures into the tiles that the aerial data sets are trained and evaluated on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from hrnet.data.prepare.found import Converted, count_values
from hrnet.data.prepare.labels import apply_table

__all__ = ["Window", "cut_tiles", "encode_png", "pad", "windows"]


class Window(NamedTuple):
    """A tile's place in its picture, in pixels; x1 and y1 lie outside."""

    x0: int
    y0: int
    x1: int
    y1: int

    def cut(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return this part of an HxW or HxWx3 picture."""
        return values[self.y0 : self.y1, self.x0 : self.x1]


def windows(height: int, width: int, size: int, stride: int) -> list[Window]:
    """Return the square windows of `size` pixels that cover a picture, row by row.

    They begin at the multiples of `stride`; one that would stick out is shifted back to the border, and none comes
    twice. The picture is at least as large as a window.
    """
    lefts, tops = (sorted({min(at, length - size) for at in range(0, length, stride)}) for length in (width, height))
    return [Window(x, y, x + size, y + size) for y in tops for x in lefts]


def pad(values: NDArray[np.uint8], size: int, fill: int) -> NDArray[np.uint8]:
    """Return an HxW or HxWx3 picture filled up at the right and at the bottom to at least `size` by `size`."""
    below, right = (max(0, size - length) for length in values.shape[:2])
    if not below and not right:
        return values
    return np.pad(values, ((0, below), (0, right), (0, 0))[: values.ndim], constant_values=fill)


def cut_tiles(
    tiles: Mapping[str, Window],
    picture: NDArray[np.uint8],
    classes: NDArray[np.uint8],
    table: NDArray[np.int16],
    num_classes: int,
    where: str,
) -> Iterator[Converted]:
    """Cut a picture (HxWx3, RGB) and its label map (HxW) into named tiles, sorted by name as the reference reads them.

    `table` gives the training id of each value of the label map. Raises DataError, which names `where`, for a value
    that is no class.
    """
    for name in sorted(tiles):
        raw = tiles[name].cut(classes)
        yield Converted(
            name=name,
            image=encode_png(tiles[name].cut(picture)),
            label=apply_table(raw, table, num_classes, where),
            raw=count_values(raw),
        )


def encode_png(rgb: NDArray[np.uint8]) -> bytes:
    """Return an HxWx3 picture as the bytes of a PNG file."""
    _, data = cv2.imencode(".png", cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR))
    return bytes(data)
