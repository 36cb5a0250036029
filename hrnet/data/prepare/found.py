"""What a converter finds in a download: jobs, each of which gives one sample or several tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrnet.data.cards import Card
from hrnet.data.prepare.labels import apply_table, read_image_size, read_label
from hrnet.data.prepare.tree import File
from hrnet.errors import DataError

__all__ = ["Converted", "Found", "Job", "NothingFound", "check_sizes", "convert_pair", "count_values", "pair"]


class NothingFound(DataError):
    """A download holds no files of a data set; the message says what was looked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """One sample, ready to be stored."""

    name: str
    """Name of the sample, unique in its split."""

    image: bytes
    """The image, encoded: the source file's bytes, or PNG for a tile."""

    label: NDArray[np.uint8]
    """HxW training ids, 255 = ignored."""

    raw: NDArray[np.int64]
    """Number of pixels of each of the 256 values of the label file, before they were mapped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One source image with its label; picklable."""

    name: str
    """Path of the image below its split's folder, without the suffix."""

    inputs: tuple[File, ...]
    """Files that it reads; when none has changed, neither has the result."""

    convert: Callable[[Job, Card], Iterator[Converted]]
    """Function of a module that reads the inputs and yields the samples, in an order that never changes."""

    extra: Any = field(default=None, repr=False)
    """What else `convert` needs to know; picklable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A data set recognised in a download."""

    card: Card
    """What its files mean."""

    splits: Mapping[str, Sequence[Job]]
    """Jobs of each split that is there, in the order of their samples."""

    notes: Sequence[str] = ()
    """What was seen and left aside, one sentence each."""

    images: Mapping[str, int] | None = None
    """Number of samples that each split will have; None if each job gives one. A split that is left out is counted
    once it is converted."""

    incomplete: Sequence[str] = ()
    """What a download lacks whose samples are counted only then, such as '22 of 24 areas of train'."""

    incomparable: Sequence[str] = ()
    """Why results on the complete data set would not be the published ones, one phrase each."""


def pair(name: str, image: File, label: File, table: NDArray[np.int16]) -> Job:
    """Return the job of an image and a label file of class numbers; `table` holds the training id of each value."""
    return Job(name=name, inputs=(image, label), convert=convert_pair, extra=table)


def convert_pair(job: Job, card: Card) -> Iterator[Converted]:
    """Check an image and its label, and map the label's values."""
    image, label = job.inputs
    data = image.read()
    size = read_image_size(data, image.where)
    raw = read_label(label.read(), label.where)
    check_sizes(size, image, raw, label)
    mapped = apply_table(raw, job.extra, card.num_classes, label.where, card=card)
    yield Converted(name=job.name, image=data, label=mapped, raw=count_values(raw))


def check_sizes(size: tuple[int, ...], image: File, values: NDArray[np.generic], label: File) -> None:
    """Raise DataError unless the label has the height and width of its image."""
    if values.shape[:2] != size[:2]:
        raise DataError(
            f"image {image.where} is {size[1]}x{size[0]} but its label {label.where} is "
            f"{values.shape[1]}x{values.shape[0]}"
        )


def count_values(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the number of pixels of each of the 256 values."""
    return np.bincount(values.ravel(), minlength=256).astype(np.int64)
