"""What a layout is made of: the order of a drawing, and files in the formats of the published data sets, in memory.

All bytes are a function of what is drawn: no format here stores the time or the machine.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hrnet.data.synthetic.scene import Scene
from hrnet.errors import DataError

__all__ = ["Files", "Order", "Pixels", "lines", "matlab", "painted", "palette_png", "pixels"]

Pixels = NDArray[np.uint8]
Files = Mapping[Path, bytes]
"""Path below the data set's folder to content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """How much is drawn."""

    train: int
    """Number of training images."""
    val: int
    """Number of validation images."""
    size: tuple[int, int]
    """Height and width of an image in pixels."""
    seed: int
    """Everything drawn is a function of it."""

    def scenes(self) -> Iterator[tuple[str, int, Scene]]:
        """Yield split, number within the split, and an empty scene with its own random numbers."""
        for number, (split, count) in enumerate((("train", self.train), ("val", self.val))):
            for index in range(count):
                yield split, index, Scene(*self.size, np.random.default_rng([self.seed % 2**63, number, index]))


def pixels(suffix: str, values: Pixels) -> bytes:
    """Encode HxW labels or an HxWx3 BGR image as OpenCV does for files of that suffix."""
    _, data = cv2.imencode(suffix, values)
    return bytes(data.tobytes())


def painted(suffix: str, label: Pixels, colours: Sequence[tuple[int, int, int]]) -> bytes:
    """Encode a label map as an image of the classes' RGB colours; ignored pixels are black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colours)] = np.array(colours, dtype=np.uint8)[:, ::-1]
    return pixels(suffix, table[label])


def palette_png(label: Pixels, colours: Sequence[tuple[int, int, int]]) -> bytes:
    """Encode a label map as a PNG of indices with a palette, as Pascal VOC stores them (255 is drawn in cream)."""
    from PIL import Image

    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colours)] = colours
    table[255] = (224, 224, 192)
    picture = Image.fromarray(label)
    picture.putpalette(table.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def matlab(name: str, values: Mapping[str, Any]) -> bytes:
    """Encode a structure of arrays as a MATLAB 5 file.

    Raises:
        DataError: SciPy is not installed, which writes such files.
    """
    try:
        from scipy.io import savemat
    except ImportError:
        raise DataError("drawing voc12aug needs SciPy for its .mat files; install it (pip install scipy)") from None
    buffer = io.BytesIO()
    savemat(buffer, {name: dict(values)}, do_compression=True)
    # The first 116 bytes are free text, in which SciPy notes the time.
    return b"MATLAB 5.0 MAT-file".ljust(116) + buffer.getvalue()[116:]


def lines(names: Sequence[str]) -> bytes:
    """Encode a list file, one name a line."""
    return "".join(f"{name}\n" for name in names).encode()
