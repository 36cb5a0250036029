"""Cityscapes as it is downloaded: leftImg8bit/<split>/<city>/ and gtFine/<split>/<city>/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrnet.data.cards import Card
from hrnet.data.prepare.folder import image_files
from hrnet.data.prepare.found import Found, Job, NothingFound, pair
from hrnet.data.prepare.labels import NO_CLASS, label_table
from hrnet.data.prepare.polygons import convert_polygons
from hrnet.data.prepare.tree import File, Tree
from hrnet.data.transforms import IGNORE
from hrnet.errors import DataError

__all__ = [
    "IMAGES",
    "LABELS",
    "LABEL_IDS",
    "POLYGONS",
    "TRAIN_ID",
    "TRAIN_IDS",
    "find",
    "id_table",
    "matches",
    "polygon_values",
]

IMAGES, LABELS = "leftImg8bit", "gtFine"
_SPLITS = ("train", "val")
TRAIN_IDS, LABEL_IDS, POLYGONS = "_gtFine_labelTrainIds.png", "_gtFine_labelIds.png", "_gtFine_polygons.json"

_NAMES = (
    "unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "road",
    "sidewalk", "parking", "rail track", "building", "wall", "fence", "guard rail", "bridge", "tunnel", "pole",
    "polegroup", "traffic light", "traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck",
    "bus", "caravan", "trailer", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Names of the label ids 0 to 33, from the data set's own table (cityscapesScripts, labels.py)."""

TRAIN_ID = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13, 27: 14,
    28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Label id to training id, from the same table; other ids are ignored."""


def matches(tree: Tree) -> bool:
    """Whether a download has the official layout."""
    return _root(tree, IMAGES) is not None and _root(tree, LABELS) is not None


def id_table() -> NDArray[np.int16]:
    """Return the training id of each value of a labelIds file; ids run from 0 to 33."""
    table = np.full(256, NO_CLASS, dtype=np.int16)
    table[: len(_NAMES)] = IGNORE
    for label_id, train_id in TRAIN_ID.items():
        table[label_id] = train_id
    # The id -1 (license plate) becomes 255 where someone drew it into an 8-bit file.
    table[IGNORE] = IGNORE
    return table


def polygon_values() -> dict[str, int | None]:
    """Return the training id of each name in a polygons file; None for the license plate, which is never drawn."""
    values: dict[str, int | None] = {name: TRAIN_ID.get(number, IGNORE) for number, name in enumerate(_NAMES)}
    return {**values, "license plate": None}


def find(tree: Tree, card: Card) -> Found:
    """Find the train and val pairs; labelTrainIds files are preferred to labelIds files, and those to polygons.

    Raises DataError that says what was looked for, or which image has no label.
    """
    images, labels = _root(tree, IMAGES), _root(tree, LABELS)
    present = [split for split in _SPLITS if images is not None and images.has(f"{IMAGES}/{split}")]
    if images is None or labels is None or not present:
        raise NothingFound(
            f"{tree.place()} holds no cityscapes data: looked for {IMAGES}/train|val/<city>/*{card.image_suffix} and "
            f"{LABELS}/train|val/<city>/*{TRAIN_IDS}, *{LABEL_IDS} or *{POLYGONS}"
        )
    rules = _Rules(tables={TRAIN_IDS: label_table(card), LABEL_IDS: id_table()}, polygons=polygon_values())
    splits = {}
    for split in present:
        folder = f"{IMAGES}/{split}"
        files = image_files(images, folder, card.image_suffix)
        names = [images.relative(image, folder).removesuffix(card.image_suffix) for image in files]
        splits[split] = [
            _job(name, image, labels, f"{LABELS}/{split}/{name}", rules)
            for name, image in zip(names, files, strict=True)
        ]
    return Found(card=card, splits=splits)


def _root(tree: Tree, folder: str) -> Tree | None:
    """View of what holds a folder with splits in it; an archive may have been unpacked in a folder of that name."""
    found = (tree.locate(f"{folder}/{split}") for split in _SPLITS)
    return next((root for root in found if root is not None), None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rules:
    """How each kind of label file is read."""

    tables: Mapping[str, NDArray[np.int16]]
    """End of the file name to the training id of each value."""

    polygons: Mapping[str, int | None]
    """Training id of each name of an object."""


def _job(name: str, image: File, labels: Tree, stem: str, rules: _Rules) -> Job:
    for suffix, table in rules.tables.items():
        if (label := labels.get(f"{stem}{suffix}")) is not None:
            return pair(name, image, label, table)
    if (label := labels.get(f"{stem}{POLYGONS}")) is not None:
        return Job(name=name, inputs=(image, label), convert=convert_polygons, extra=rules.polygons)
    looked = f"{labels.place(stem)}{TRAIN_IDS}, ...{LABEL_IDS} and ...{POLYGONS}"
    raise DataError(f"image {image.where} has no label; looked for {looked}")
