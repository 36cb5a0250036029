"""ISPRS Potsdam as it is downloaded: 2_Ortho_RGB and 5_Labels_all_noBoundary, 38 areas of 6000x6000 pixels."""

from __future__ import annotations

import re

from hrnet.data.cards import Card
from hrnet.data.prepare import isprs
from hrnet.data.prepare.found import Found
from hrnet.data.prepare.tree import Tree
from hrnet.data.tiles import PICTURES

__all__ = ["LAYOUT", "find", "matches"]

LAYOUT = isprs.Layout(
    image=re.compile(r"(?:.*/)?top_potsdam_(\d+_\d+)_RGB\.tif"),
    label=re.compile(r"(?:.*/)?top_potsdam_(\d+_\d+)_label_noBoundary\.tif"),
    bounded=re.compile(r"(?:.*/)?top_potsdam_(\d+_\d+)_label\.tif"),
    example="2_Ortho_RGB/top_potsdam_2_10_RGB.tif",
    splits=PICTURES["potsdam"],
)
"""File names and areas."""


def matches(tree: Tree) -> bool:
    """Whether a download holds images or labels of Potsdam."""
    return isprs.matches(tree, LAYOUT)


def find(tree: Tree, card: Card) -> Found:
    """Find the areas of train and val, or ready tiles; raises DataError that says what is missing."""
    return isprs.find(tree, card, LAYOUT)
