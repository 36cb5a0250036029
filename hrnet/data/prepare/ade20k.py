"""ADE20K as it is downloaded for the scene parsing challenge: ADEChallengeData2016/images|annotations/<split>."""

from __future__ import annotations

from hrnet.data.cards import Card
from hrnet.data.prepare import folder
from hrnet.data.prepare.found import Found
from hrnet.data.prepare.tree import Tree

__all__ = ["find", "matches"]

_SPLITS = ("training", "validation")


def matches(tree: Tree) -> bool:
    """Whether a download has the official layout."""
    return _root(tree) is not None


def find(tree: Tree, card: Card) -> Found:
    """Find the pairs; files hold 0 for ignored pixels and 1..150. Raises DataError that says what was looked for."""
    return folder.find(_root(tree) or tree, card)


def _root(tree: Tree) -> Tree | None:
    found = (tree.locate(f"images/{split}", f"annotations/{split}") for split in _SPLITS)
    return next((root for root in found if root is not None), None)
