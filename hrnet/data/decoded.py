"""The pixels of a split, each image decoded once on this machine and read from then on where they lie.

Decoding is most of what a training sample costs. The decoded images and labels of a split are one file in the cache
(`hrnet.data.cache`), as bytes, mapped into memory when they are read, so that all processes and trials of the machine
share one copy in the page cache, and a crop of an image touches the pages of its rows only:

    index       (samples, 4) int64: place, height, width, 1 if the pixels are there
    pixels      per sample, from the place on, the image (H, W, 3) and the label (H, W); a hole until it is decoded

Whoever decodes a sample first writes it, then its 1. Two that do so at once write the same bytes. What a killed
process left half-written has no 1; what a power cut left is of another boot, and is not used. The version of OpenCV is
in the file's name, because another one may decode a JPEG differently.
"""

from __future__ import annotations

import logging
import mmap
import os
import weakref
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from hrnet.data.cache import Copies, gigabytes, shown
from hrnet.data.shards import Split
from hrnet.errors import DataError

__all__ = ["LIMIT", "Decoded"]

LIMIT: Final = "HRGRID_DECODED_GB"
"""Environment variable: what all decoded images together may take, in 1e9 bytes; with 0 none are kept."""

_MEMORY_SHARE: Final = 0.5
"""Of the machine's memory, what they may take where nobody says: read from most disks they cost more than decoding."""

_CACHE_SHARE: Final = 0.5
"""Of what the cache may hold, what copies and they may take where nobody says: data sets need the rest."""

_ENTRY: Final = 32
"""Bytes of the index per sample."""

_PAGE: Final = mmap.ALLOCATIONGRANULARITY
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_log = logging.getLogger(__name__)

Image = NDArray[np.uint8]


class Decoded:
    """Images and labels of a split by index, as the split itself decodes them. Picklable.

    Without `keep` all are decoded; to keep them, every shard must be here.
    """

    def __init__(self, split: Split, keep: bool = True) -> None:
        self._split = split
        self._store = _open(split) if keep else None

    def __reduce__(self) -> tuple[type[Decoded], tuple[Split, bool]]:
        return Decoded, (self._split, self._store is not None)

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> tuple[Image, Image]:
        """Return an image (H,W,3), BGR, and its label (H,W); raises DataError if the sample is broken."""
        kept = self._store.read(index) if self._store else None
        if kept is not None:
            return kept
        sample = self._split[index]
        if self._store:
            self._store.write(index, sample.image, sample.label)
        return sample.image, sample.label


class _Store:
    """The file of a split."""

    def __init__(self, copies: Copies, number: int, samples: int) -> None:
        self._copies = copies  # which keep the folder
        self._number = number
        weakref.finalize(self, os.close, number)
        index = mmap.mmap(number, _ENTRY * samples, access=mmap.ACCESS_READ)
        self._index: NDArray[np.int64] = np.frombuffer(index, np.int64).reshape(-1, 4)
        self._full = False

    def read(self, index: int) -> tuple[Image, Image] | None:
        place, height, width, here = self._index[index].tolist()
        if not here:
            return None
        # Private pages: whoever writes into his sample changes nobody else's.
        pixels = mmap.mmap(self._number, 4 * height * width, access=mmap.ACCESS_COPY, offset=place)
        values = np.frombuffer(pixels, np.uint8)
        return values[: 3 * height * width].reshape(height, width, 3), values[3 * height * width :].reshape(
            height, width
        )

    def write(self, index: int, image: Image, label: Image) -> None:
        place, height, width, _ = self._index[index].tolist()
        if self._full or label.shape != (height, width):
            return
        try:
            for pixels in (image, label):
                self._put(np.ascontiguousarray(pixels).reshape(-1), place)
                place += pixels.nbytes
            # Not through the map: on a full disk that is a signal, not an error.
            self._put(np.ones(1, np.int64), _ENTRY * (index + 1) - 8)
        except OSError as error:
            _log.warning("no more decoded images are kept in %s: %s", self._copies.folder, error.strerror)
            self._full = True

    def _put(self, values: NDArray[Any], place: int) -> None:
        while values.size:
            done = os.pwrite(self._number, values.data, place)
            values, place = values[done // values.itemsize :], place + done


def _open(split: Split) -> _Store | None:
    """Return the file of a split, or None if none is wanted or there is no room."""
    limit = gigabytes(LIMIT, least=0.0)
    if limit == 0 or not _BOOT.exists():
        return None
    share = 1.0
    if limit is None:
        limit, share = _MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), _CACHE_SHARE
    name, boot = f"{split.name}-{cv2.__version__}", _BOOT.read_text().strip()
    try:
        copies = Copies(split.uri, split.fingerprint)
        number = copies.scratch(name, boot, lambda: _layout(split.sizes()), limit=limit, share=share)
    except DataError as error:
        _log.info("%s of %s is decoded in every epoch anew: %s", split.name, split.uri, error)
        return None
    size = shown(os.fstat(number).st_size)
    _log.info("decoded %s images of %s are kept in %s (%s in all)", split.name, split.uri, copies.folder, size)
    return _Store(copies, number, len(split))


def _layout(sizes: NDArray[np.int64]) -> tuple[bytes, int]:
    """Return an index without pixels, and the size of the file in bytes."""
    needed = np.concatenate([[_ENTRY * len(sizes)], 4 * sizes.prod(axis=1)])
    ends = np.cumsum(-(-needed // _PAGE) * _PAGE)
    return np.column_stack([ends[:-1], sizes, np.zeros(len(sizes), np.int64)]).tobytes(), int(ends[-1])
