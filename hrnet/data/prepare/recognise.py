"""Which data set a download is: one converter module for each published data set, and cards for one's own."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from hrnet.data.cards import CARD_FILES, Card, card, load_card
from hrnet.data.prepare import folder
from hrnet.data.prepare.archives import ARCHIVES
from hrnet.data.prepare.found import Found, NothingFound
from hrnet.data.prepare.sources import get_it
from hrnet.data.prepare.tree import Tree
from hrnet.errors import DataError

__all__ = ["CONVERTERS", "Converter", "recognise"]

CONVERTERS: Mapping[str, str] = {
    "cityscapes": "cityscapes",
    "ade20k": "ade20k",
    "voc12aug": "voc",
    "loveda": "loveda",
    "potsdam": "potsdam",
    "vaihingen": "vaihingen",
    "isaid": "isaid",
    "pascal-context": "pascal_context",
    "pascal-context-59": "pascal_context",
}
"""Published data set to the module of this package that converts it, in the order in which they are tried."""


class Converter(Protocol):
    """What a converter module offers."""

    def matches(self, tree: Tree) -> bool:
        """Whether a download is this data set, beyond doubt."""

    def find(self, tree: Tree, card: Card) -> Found:
        """Find its files; raises DataError that says what was looked for, or which file is missing."""


def recognise(tree: Tree, *, dataset: str | None = None, card: Card | str | Path | None = None) -> Found:
    """Find out which data set a download holds, and its files.

    Args:
        tree: the download.
        dataset: name of a published data set, if it is known.
        card: card of a custom data set, or its file; looked for in the download if not given.

    Raises:
        DataError: nothing is recognised, with what was looked for; or a file is missing.
    """
    if dataset is not None and card is not None:
        raise DataError(f"both the published data set {dataset!r} and a custom card were given; give one")
    if dataset is not None:
        return _published(tree, dataset)
    if card is not None:
        return folder.find(tree, card if isinstance(card, Card) else load_card(card))
    if any(isinstance(file.content, Path) for name in CARD_FILES if (file := tree.get(name)) is not None):
        return folder.find(tree, load_card(tree.source))
    fitting = [name for name in CONVERTERS if _converter(name).matches(tree)]
    if len(fitting) == 1:
        return _published(tree, fitting[0])
    if fitting:
        raise DataError(f"{tree.source} holds the files of {' and '.join(fitting)}; say which with --dataset")
    _refuse_nested(tree)
    raise DataError(
        f"{tree.source} is no data set that is known: looked for a card ({', '.join(CARD_FILES)}) and for the files "
        f"of {', '.join(CONVERTERS)}; name the data set with --dataset, or give a card"
    )


def _published(tree: Tree, dataset: str) -> Found:
    known = card(dataset)
    try:
        return _converter(dataset).find(tree, known)
    except NothingFound as error:
        _refuse_nested(tree)
        raise DataError(f"{error}; {get_it(dataset)}") from None


def _refuse_nested(tree: Tree) -> None:
    """Where nothing is found: say so if there are archives in an archive. ISPRS packs all of its files into one."""
    inside = next((file for file in tree.under() if file.path.lower().endswith(ARCHIVES)), None)
    if inside is not None:
        raise DataError(f"{inside.where} is an archive in an archive; unpack the outer one, and give that folder")


def _converter(dataset: str) -> Converter:
    return cast(Converter, import_module(f"hrnet.data.prepare.{CONVERTERS[dataset]}"))
