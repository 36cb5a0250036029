"""Cityscapes as it is downloaded: leftImg8bit/<split>/<city>/ and gtFine/<split>/<city>/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrnet.data.cards import Card
from hrnet.data.prepare.folder import Found, Pair, image_files
from hrnet.data.prepare.labels import NO_CLASS, label_table
from hrnet.data.transforms import IGNORE
from hrnet.errors import DataError

__all__ = ["IMAGES", "LABELS", "LABEL_IDS", "TRAIN_ID", "TRAIN_IDS", "find", "id_table", "is_cityscapes"]

IMAGES, LABELS = "leftImg8bit", "gtFine"
TRAIN_IDS, LABEL_IDS = "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"

_LAST_ID = 33
TRAIN_ID = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
    28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Label id to training id, from the data set's own table (cityscapesScripts, labels.py); other ids are ignored."""


def is_cityscapes(source: Path) -> bool:
    """Whether a folder has the official layout."""
    return (source / IMAGES).is_dir() and (source / LABELS).is_dir()


def id_table() -> NDArray[np.int16]:
    """Return the training id of each value of a labelIds file; ids run from 0 to 33."""
    table = np.full(256, NO_CLASS, dtype=np.int16)
    table[: _LAST_ID + 1] = IGNORE
    for label_id, train_id in TRAIN_ID.items():
        table[label_id] = train_id
    # The id -1 (license plate) becomes 255 where someone drew it into an 8-bit file.
    table[IGNORE] = IGNORE
    return table


def find(source: Path, card: Card) -> Found:
    """Find the train and val pairs; labelTrainIds files are preferred to labelIds files.

    Raises DataError that says what was looked for, or which image has no label.
    """
    splits = {split: source / IMAGES / split for split in ("train", "val")}
    present = {split: folder for split, folder in splits.items() if folder.is_dir()}
    if not is_cityscapes(source) or not present:
        raise DataError(
            f"{source} holds no cityscapes data: looked for {IMAGES}/train|val/<city>/*{card.image_suffix} and "
            f"{LABELS}/train|val/<city>/*{TRAIN_IDS} or *{LABEL_IDS}; unpack both archives into one folder"
        )
    tables = {TRAIN_IDS: label_table(card), LABEL_IDS: id_table()}
    return Found(
        card=card,
        splits={
            split: [
                _pair(image, folder, source / LABELS / split, card, tables)
                for image in image_files(folder, card.image_suffix)
            ]
            for split, folder in present.items()
        },
    )


def _pair(image: Path, images: Path, labels: Path, card: Card, tables: dict[str, NDArray[np.int16]]) -> Pair:
    name = image.relative_to(images).as_posix().removesuffix(card.image_suffix)
    for suffix, table in tables.items():
        label = labels / f"{name}{suffix}"
        if label.is_file():
            return Pair(name=name, image=image, label=label, table=table)
    raise DataError(f"image {image} has no label; looked for {labels / name}{TRAIN_IDS} and ...{LABEL_IDS}")
