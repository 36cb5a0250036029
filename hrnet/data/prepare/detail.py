"""trainval_merged.json of PASCAL in Detail, from which Pascal Context labels are made: images and their regions.

The fields are those that detail-api reads (PythonAPI/detail/__init__.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrnet.data.prepare.rle import decode
from hrnet.data.prepare.tree import File
from hrnet.errors import DataError

__all__ = ["Detail", "DetailImage", "Segment", "category_map", "read_detail"]

_SPLITS = ("train", "val")
_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One annotated region."""

    category: int
    """Category id, one of the 459 of the original Pascal Context."""

    counts: str | tuple[int, ...]
    """COCO run lengths, compressed or plain."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetailImage:
    """One image of the file with its regions, in the order of the file."""

    name: str
    """File name without the suffix."""

    height: int
    """Rows in pixels."""

    width: int
    """Columns in pixels."""

    segments: Sequence[Segment]
    """Its regions; a later one lies over an earlier one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Detail:
    """The images of the file."""

    splits: Mapping[str, Sequence[DetailImage]]
    """Images of train and val, sorted by name."""

    empty: Sequence[str]
    """Names of images of train and val without any region: they were never annotated, and are in no split."""


def read_detail(file: File) -> Detail:
    """Read the file's images and the run lengths of their regions; parts, joints, boundaries are passed over.

    The text is walked entry by entry, so what is held is the text and the run lengths that are wanted, and twice the
    file for a moment: 1.0 GB and 14 s for a file of 0.5 GB. Masks are decoded later, image by image.

    Raises DataError, naming the file, if it is not JSON, ends early or has other fields.
    """
    images: dict[int, dict[str, Any]] = {}
    segments: dict[int, list[Segment]] = {}
    found: set[str] = set()
    try:
        for key, entry in _entries(file.read().decode()):
            found.add(key)
            if key == "images" and entry["phase"] in _SPLITS:
                images[entry["image_id"]] = entry
            elif key == "annos_segmentation":
                segments.setdefault(entry["image_id"], []).append(_segment(entry))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file.where} is truncated, damaged or no JSON ({error}); copy it again") from None
    except (KeyError, TypeError) as error:
        raise DataError(f"{file.where}: an entry of images or annos_segmentation lacks a field ({error})") from None
    if not images or not segments:
        raise DataError(
            f"{file.where} is no file of PASCAL in Detail: looked for images with phase train or val, and "
            f"annos_segmentation; it holds {', '.join(sorted(found)) or 'nothing'}"
        )
    splits: dict[str, list[DetailImage]] = {split: [] for split in _SPLITS}
    for number, image in images.items():
        if number in segments:
            splits[image["phase"]].append(_image(image, segments[number]))
    return Detail(
        splits={split: sorted(listed, key=lambda image: image.name) for split, listed in splits.items()},
        empty=sorted(_stem(image) for number, image in images.items() if number not in segments),
    )


def category_map(image: DetailImage) -> NDArray[np.int16]:
    """Return the HxW category ids of an image, 0 where no region lies.

    Raises DataError, naming the image, if run lengths do not fit it.
    """
    result = np.zeros((image.height, image.width), dtype=np.int16)
    for segment in image.segments:
        try:
            result[decode(segment.counts, image.height, image.width)] = segment.category
        except DataError as error:
            raise DataError(f"image {image.name}, category {segment.category}: {error}") from None
    return result


def _entries(text: str) -> Iterator[tuple[str, Any]]:
    """Yield (key, element) for each element of each list of the outermost object, one at a time."""
    decoder = json.JSONDecoder()
    at = _expect(text, _skip(text, 0), "{")
    while text[at : at + 1] != "}":
        key, at = decoder.raw_decode(text, at)
        at = _expect(text, _skip(text, at), ":")
        if text[at : at + 1] == "[":
            at = _skip(text, at + 1)
            while text[at : at + 1] != "]":
                value, at = decoder.raw_decode(text, at)
                yield key, value
                at = _next(text, at, "]")
            at += 1
        else:
            _, at = decoder.raw_decode(text, at)
        at = _next(text, at, "}")


def _next(text: str, at: int, end: str) -> int:
    at = _skip(text, at)
    if text[at : at + 1] == end:
        return at
    return _expect(text, at, ",")


def _expect(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise json.JSONDecodeError(f"expected {mark!r}", text, at)
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _segment(entry: Mapping[str, Any]) -> Segment:
    counts = entry["segmentation"]["counts"]
    return Segment(category=int(entry["category_id"]), counts=counts if isinstance(counts, str) else tuple(counts))


def _image(entry: Mapping[str, Any], segments: Sequence[Segment]) -> DetailImage:
    return DetailImage(
        name=_stem(entry), height=int(entry["height"]), width=int(entry["width"]), segments=tuple(segments)
    )


def _stem(entry: Mapping[str, Any]) -> str:
    return str(entry["file_name"]).rsplit(".", 1)[0]
