"""Pictures in colour: images, and labels whose classes are painted."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hrnet.data.prepare.tree import File
from hrnet.errors import DataError

__all__ = ["ODD", "Colour", "ids_of_colours", "read_classes", "read_image", "read_painted"]

Colour = tuple[int, int, int]
"""Red, green, blue; each 0 to 255."""

ODD = 254
"""Id of odd colours, which are no class's; no label file of class numbers holds it."""

_ODD_SHARE = 0.25
"""Share of odd pixels above which a label is refused; official labels have a few of them at most."""

_ROWS = 512
"""Rows whose colours are compared at a time, so that memory does not grow with the picture."""

_ONE_CHANNEL = ("1", "L", "LA")
_DEEP = ("I", "F", "I;")


def read_image(file: File) -> NDArray[np.uint8]:
    """Decode an image into HxWx3 RGB; raises DataError if it is truncated, damaged or has more than 8 bits."""
    return _read(file, "image")[0]


def read_painted(file: File) -> NDArray[np.uint8]:
    """Decode a label whose classes are painted into HxWx3 RGB; a palette is followed, transparency is not.

    Raises DataError if it is truncated, damaged or has no colours.
    """
    rgb, mode = _read(file, "label")
    if mode in _ONE_CHANNEL:
        raise DataError(
            f"label {file.where} has one channel, classes painted in colours were expected; labels that hold class "
            f"numbers already belong into ann_dir/train|val, with their images in img_dir/train|val"
        )
    return rgb


def ids_of_colours(rgb: NDArray[np.uint8], ids: Mapping[Colour, int], other: int) -> NDArray[np.uint8]:
    """Return the HxW ids of an HxWx3 picture's colours, exact matches alone; any other colour becomes `other`."""
    result = np.full(rgb.shape[:2], other, dtype=np.uint8)
    for top in range(0, rgb.shape[0], _ROWS):
        part = rgb[top : top + _ROWS].astype(np.uint32)
        codes = part[..., 0] << 16 | part[..., 1] << 8 | part[..., 2]
        for (red, green, blue), value in ids.items():
            result[top : top + _ROWS][codes == (red << 16 | green << 8 | blue)] = value
    return result


def read_classes(file: File, ids: Mapping[Colour, int]) -> NDArray[np.uint8]:
    """Decode a label whose classes are painted into HxW ids, ODD where the colour is none of theirs.

    Raises DataError if it is truncated, damaged or has no colours, or if odd colours are so many that it is something
    else: a label of another data set, or one that was scaled or compressed with loss.
    """
    rgb = read_painted(file)
    classes = ids_of_colours(rgb, ids, ODD)
    odd = classes == ODD
    if (share := float(odd.mean())) > _ODD_SHARE:
        raise DataError(
            f"label {file.where} has colours of no class in {share:.0%} of its pixels, such as RGB "
            f"{tuple(rgb[odd][0].tolist())}; it is no label of this data set, or not as it was downloaded"
        )
    return classes


def _read(file: File, kind: str) -> tuple[NDArray[np.uint8], str]:
    from PIL import Image

    data = file.read()
    try:
        with warnings.catch_warnings():
            # Orthophotos are larger than Pillow's guess of what an attack looks like.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
                if picture.mode.startswith(_DEEP):
                    raise DataError(f"{kind} {file.where} has more than 8 bits per channel (mode {picture.mode})")
                return np.asarray(picture.convert("RGB")), picture.mode
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{kind} {file.where} is truncated, damaged or no image ({error}); copy it again") from None
