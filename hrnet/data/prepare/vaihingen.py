"""ISPRS Vaihingen as it is downloaded: the folder top and the eroded ground truth, 33 areas of different sizes."""

from __future__ import annotations

import re

from hrnet.data.cards import Card
from hrnet.data.prepare import isprs
from hrnet.data.prepare.found import Found
from hrnet.data.prepare.tree import Tree
from hrnet.data.tiles import PICTURES

__all__ = ["LAYOUT", "find", "matches"]

LAYOUT = isprs.Layout(
    # Images and labels with boundaries have the same file names; only the folder `top` tells them apart.
    image=re.compile(r"(?:.*/)?top/top_mosaic_09cm_(area\d+)\.tif"),
    label=re.compile(r"(?:.*/)?top_mosaic_09cm_(area\d+)_noBoundary\.tif"),
    bounded=re.compile(r"(?!(?:.*/)?top/)(?:.*/)?top_mosaic_09cm_(area\d+)\.tif"),
    example="top/top_mosaic_09cm_area1.tif",
    splits=PICTURES["vaihingen"],
)
"""File names and areas; the ground truth's area9 is in no split."""


def matches(tree: Tree) -> bool:
    """Whether a download holds images or labels of Vaihingen."""
    return isprs.matches(tree, LAYOUT)


def find(tree: Tree, card: Card) -> Found:
    """Find the areas of train and val, or ready tiles; raises DataError that says what is missing."""
    return isprs.find(tree, card, LAYOUT)
