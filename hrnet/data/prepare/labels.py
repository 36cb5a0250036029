"""Reading source files strictly: every image and label is decoded, measured and checked before it is stored."""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
from numpy.typing import NDArray

from hrnet.data.cards import Card
from hrnet.data.gate import MEND, explain_value
from hrnet.data.transforms import IGNORE
from hrnet.errors import DataError

__all__ = ["NO_CLASS", "apply_table", "label_table", "read_image_size", "read_label"]

NO_CLASS = -1
"""Entry of a label table for a value that no label file may hold."""

_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG", b"IEND"


def label_table(card: Card) -> NDArray[np.int16]:
    """Return the training id (0..n-1, 255 = ignored, NO_CLASS) of each of the 256 values of a label file."""
    table = np.full(256, NO_CLASS, dtype=np.int16)
    first = 1 if card.reduce_zero_label else 0
    table[first : first + card.num_classes] = np.arange(card.num_classes)
    if card.reduce_zero_label:
        table[0] = IGNORE
    table[card.ignore_index] = table[IGNORE] = IGNORE
    return table


def apply_table(
    raw: NDArray[np.uint8], table: NDArray[np.int16], classes: int, where: str, *, card: Card | None = None
) -> NDArray[np.uint8]:
    """Translate a label map; raises DataError with value and place for a value outside the classes.

    With the `card`, the error names the likely cause.
    """
    mapped = table[raw]
    if (mapped == NO_CLASS).any():
        values, counts = np.unique(raw[mapped == NO_CLASS], return_counts=True)
        raise DataError(
            f"label {where} holds the value {values[0]} in {counts[0]} pixels, outside the {classes} classes; "
            f"{MEND if card is None else explain_value(card, int(values[0]))}"
        )
    return mapped.astype(np.uint8)


def read_image_size(data: bytes, where: str) -> tuple[int, int]:
    """Decode an image as training will, and return its height and width; raises DataError if it is broken."""
    if not _looks_whole(data):
        _open_whole(data, where, "image")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f"image {where} cannot be decoded; it is damaged or no image")
    return image.shape[0], image.shape[1]


def read_label(data: bytes, where: str) -> NDArray[np.uint8]:
    """Decode a label's raw values, HxW uint8, palette indices included; raises DataError if it is no label."""
    values = _open_whole(data, where, "label")
    if values.ndim != 2:
        raise DataError(
            f"label {where} has {values.shape[-1]} channels; a label is a single-channel image of class numbers"
        )
    if values.dtype != np.bool_ and values.size and (values.max() > 255 or values.min() < 0):
        raise DataError(f"label {where} holds the value {values.max()}; labels are 8-bit class numbers")
    return values.astype(np.uint8)


def _looks_whole(data: bytes) -> bool:
    # OpenCV decodes truncated files without a word; their end mark is missing.
    if data.startswith(_JPEG):
        return data.rstrip(b"\0").endswith(_JPEG_END)
    return data.startswith(_PNG) and _PNG_END in data[-12:]


def _open_whole(data: bytes, where: str, kind: str) -> NDArray[np.generic]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Orthophotos are larger than Pillow's guess of what an attack looks like.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
                return np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{kind} {where} is truncated, damaged or no image ({error}); copy it again") from None
