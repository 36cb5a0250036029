"""Cityscapes as it is downloaded: leftImg8bit/<split>/<city>/ and gtFine/<split>/<city>/."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hrnet.data.cards import Card
from hrnet.data.prepare.folder import image_files
from hrnet.data.prepare.found import Found, Job, pair
from hrnet.data.prepare.labels import NO_CLASS, label_table
from hrnet.data.prepare.tree import File, Tree
from hrnet.data.transforms import IGNORE
from hrnet.errors import DataError

__all__ = ["IMAGES", "LABELS", "LABEL_IDS", "TRAIN_ID", "TRAIN_IDS", "find", "id_table", "matches"]

IMAGES, LABELS = "leftImg8bit", "gtFine"
TRAIN_IDS, LABEL_IDS = "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png"

_LAST_ID = 33
TRAIN_ID = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
    28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Label id to training id, from the data set's own table (cityscapesScripts, labels.py); other ids are ignored."""


def matches(tree: Tree) -> bool:
    """Whether a download has the official layout."""
    return tree.locate(IMAGES, LABELS) is not None


def id_table() -> NDArray[np.int16]:
    """Return the training id of each value of a labelIds file; ids run from 0 to 33."""
    table = np.full(256, NO_CLASS, dtype=np.int16)
    table[: _LAST_ID + 1] = IGNORE
    for label_id, train_id in TRAIN_ID.items():
        table[label_id] = train_id
    # The id -1 (license plate) becomes 255 where someone drew it into an 8-bit file.
    table[IGNORE] = IGNORE
    return table


def find(tree: Tree, card: Card) -> Found:
    """Find the train and val pairs; labelTrainIds files are preferred to labelIds files.

    Raises DataError that says what was looked for, or which image has no label.
    """
    root = tree.locate(IMAGES, LABELS)
    present = [split for split in ("train", "val") if root is not None and root.has(f"{IMAGES}/{split}")]
    if root is None or not present:
        raise DataError(
            f"{tree.place()} holds no cityscapes data: looked for {IMAGES}/train|val/<city>/*{card.image_suffix} and "
            f"{LABELS}/train|val/<city>/*{TRAIN_IDS} or *{LABEL_IDS}; put both archives into one folder"
        )
    tables = {TRAIN_IDS: label_table(card), LABEL_IDS: id_table()}
    return Found(
        card=card,
        splits={
            split: [
                _pair(root, image, split, card, tables)
                for image in image_files(root, f"{IMAGES}/{split}", card.image_suffix)
            ]
            for split in present
        },
    )


def _pair(tree: Tree, image: File, split: str, card: Card, tables: Mapping[str, NDArray[np.int16]]) -> Job:
    name = tree.relative(image, f"{IMAGES}/{split}").removesuffix(card.image_suffix)
    for suffix, table in tables.items():
        label = tree.get(f"{LABELS}/{split}/{name}{suffix}")
        if label is not None:
            return pair(name, image, label, table)
    looked = tree.place(f"{LABELS}/{split}/{name}")
    raise DataError(f"image {image.where} has no label; looked for {looked}{TRAIN_IDS} and ...{LABEL_IDS}")
