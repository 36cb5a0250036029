"""The plain layout: images/<split>/..., annotations/<split>/... with equal names; ADE20K and custom data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrnet.data.cards import Card
from hrnet.data.prepare.labels import label_table
from hrnet.errors import DataError

__all__ = ["FOLDERS", "SPLITS", "Found", "Pair", "find", "image_files"]

FOLDERS = (("images", "annotations"), ("img_dir", "ann_dir"))
"""Folders of images and labels that are looked for."""

SPLITS: Mapping[str, Sequence[str]] = {"train": ("train", "training"), "val": ("val", "validation")}
"""Split name to the folder names it may have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One image file with its label file."""

    name: str
    """Path of the image below its split's folder, without the suffix."""

    image: Path
    """Image file."""

    label: Path
    """Label file."""

    table: NDArray[np.int16] = field(repr=False)
    """Training id of each value of the label file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A data set recognised in a folder."""

    card: Card
    """What its files mean."""

    splits: Mapping[str, Sequence[Pair]]
    """Pairs of each split that is there, sorted by path."""

    notes: Sequence[str] = ()
    """What was seen and left aside, one sentence each."""


def find(source: Path, card: Card) -> Found:
    """Find the pairs of a data set in the plain layout; raises DataError that says what was looked for."""
    table = label_table(card)
    splits: dict[str, list[Pair]] = {}
    notes: list[str] = []
    for images, labels in FOLDERS:
        for split, names in SPLITS.items():
            folder = next((name for name in names if (source / images / name).is_dir()), None)
            if folder is None or split in splits:
                continue
            where = (source / images / folder, source / labels / folder)
            splits[split] = _pairs(*where, card, table)
            notes += _left_aside(where[1], card.label_suffix, splits[split])
    if not splits:
        looked = " or ".join(f"{images}/train|val with {labels}/train|val" for images, labels in FOLDERS)
        raise DataError(f"{source} holds no {card.name} data: looked for {looked} (also training, validation)")
    return Found(card=card, splits=splits, notes=notes)


def image_files(folder: Path, suffix: str) -> list[Path]:
    """Return the files below `folder` that end in `suffix`, sorted by path, without hidden ones.

    Raises DataError if there are none.
    """
    files = [path for path in folder.rglob(f"*{suffix}") if path.is_file() and not path.name.startswith(".")]
    if not files:
        other = next((path.name for path in sorted(folder.rglob("*")) if path.is_file()), None)
        seen = "the folder is empty" if other is None else f"it holds files such as {other}"
        raise DataError(f"no images in {folder}: looked for *{suffix}, {seen}")
    return sorted(files, key=str)


def _pairs(images: Path, labels: Path, card: Card, table: NDArray[np.int16]) -> list[Pair]:
    pairs = []
    for image in image_files(images, card.image_suffix):
        name = image.relative_to(images).as_posix().removesuffix(card.image_suffix)
        label = labels / f"{name}{card.label_suffix}"
        if not label.is_file():
            raise DataError(f"image {image} has no label; looked for {label}")
        pairs.append(Pair(name=name, image=image, label=label, table=table))
    return pairs


def _left_aside(labels: Path, suffix: str, pairs: Sequence[Pair]) -> list[str]:
    used = {pair.label for pair in pairs}
    orphans = sorted(path for path in labels.rglob(f"*{suffix}") if path not in used and path.name[0] != ".")
    if not orphans:
        return []
    return [f"{len(orphans)} labels in {labels} have no image, such as {orphans[0].name}; they were left aside"]
