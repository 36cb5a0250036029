"""Run lengths of the COCO annotation format (cocoapi, common/maskApi.c), in which PASCAL in Detail stores masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hrnet.errors import DataError

__all__ = ["decode", "run_lengths"]


def run_lengths(text: str) -> NDArray[np.int64]:
    """Return the run lengths that a compressed string holds.

    Each character carries five bits, the lowest first, above 48; bit 32 says that the number goes on, and bit 16 of
    its last character is its sign. From the fourth number on, the number two places before is to be added.
    Raises DataError for a string that ends inside a number or holds a character that is none.
    """
    if not text:
        return np.zeros(0, dtype=np.int64)
    codes = np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) - 48
    last = codes & 32 == 0
    if codes.min() < 0 or codes.max() > 63 or not last[-1]:
        raise DataError("the run lengths are no compressed COCO string")
    starts = np.flatnonzero(np.concatenate(([True], last[:-1])))
    ends = np.flatnonzero(last)
    places = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 11:
        raise DataError("the run lengths are no compressed COCO string")
    numbers = np.add.reduceat((codes & 31) << 5 * places, starts)
    numbers -= np.where(codes[ends] & 16, 1 << 5 * (ends - starts + 1), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def decode(counts: str | Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """Return the HxW mask of run lengths: pixels outside, inside, outside, ... down one column after the other.

    Raises DataError if they are no run lengths or do not fill the mask exactly.
    """
    runs = run_lengths(counts) if isinstance(counts, str) else np.asarray(counts, dtype=np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise DataError(f"the run lengths cover {runs.sum()} pixels of a {width}x{height} mask")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T
