"""The plain layout: images/<split>/..., annotations/<split>/... with equal names; custom data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hrnet.data.cards import Card
from hrnet.data.prepare.found import Found, Job, NothingFound, pair
from hrnet.data.prepare.labels import label_table
from hrnet.data.prepare.tree import File, Tree
from hrnet.errors import DataError

__all__ = ["FOLDERS", "SPLITS", "converted", "find", "image_files"]

FOLDERS = (("images", "annotations"), ("img_dir", "ann_dir"))
"""Folders of images and labels that are looked for."""

SPLITS: Mapping[str, Sequence[str]] = {"train": ("train", "training"), "val": ("val", "validation")}
"""Split name to the folder names it may have."""


def find(tree: Tree, card: Card) -> Found:
    """Find the pairs of a data set in the plain layout; raises DataError that says what was looked for."""
    splits: dict[str, list[Job]] = {}
    notes: list[str] = []
    for images, labels in FOLDERS:
        for split, names in SPLITS.items():
            name = next((name for name in names if tree.has(f"{images}/{name}")), None)
            if name is None or split in splits:
                continue
            splits[split] = _pairs(tree, f"{images}/{name}", f"{labels}/{name}", card)
            notes += _left_aside(tree, f"{labels}/{name}", card.label_suffix, splits[split])
    if not splits:
        looked = " or ".join(f"{images}/train|val with {labels}/train|val" for images, labels in FOLDERS)
        raise NothingFound(
            f"{tree.place()} holds no {card.name} data: looked for {looked} (also training, validation)"
        )
    return Found(card=card, splits=splits, notes=notes)


def converted(tree: Tree, card: Card) -> Tree | None:
    """Return the view of what the reference's converter has left, img_dir beside ann_dir; or None.

    Of several, as in a folder with many data sets, the one in a folder of the data set's name.
    """
    found = list(tree.locate_all("img_dir", "ann_dir"))
    named = [root for root in found if root.place().rstrip("/").rpartition("/")[2].lower() == card.name]
    return next(iter(named or found), None)


def image_files(tree: Tree, folder: str, suffix: str) -> list[File]:
    """Return the files below a folder that end in `suffix`, sorted by path; raises DataError if there are none."""
    files = tree.under(folder, suffix)
    if not files:
        other = tree.under(folder)
        seen = f"it holds files such as {other[0].path.rpartition('/')[2]}" if other else "the folder is empty"
        raise DataError(f"no images in {tree.place(folder)}: looked for *{suffix}, {seen}")
    return files


def _pairs(tree: Tree, images: str, labels: str, card: Card) -> list[Job]:
    table = label_table(card)
    pairs = []
    for image in image_files(tree, images, card.image_suffix):
        name = tree.relative(image, images).removesuffix(card.image_suffix)
        path = f"{labels}/{name}{card.label_suffix}"
        label = tree.get(path)
        if label is None:
            raise DataError(f"image {image.where} has no label; looked for {tree.place(path)}")
        pairs.append(pair(name, image, label, table))
    return pairs


def _left_aside(tree: Tree, labels: str, suffix: str, pairs: Sequence[Job]) -> list[str]:
    used = {file.path for job in pairs for file in job.inputs}
    orphans = [file for file in tree.under(labels, suffix) if file.path not in used]
    if not orphans:
        return []
    name = orphans[0].path.rpartition("/")[2]
    return [f"{len(orphans)} labels in {tree.place(labels)} have no image, such as {name}; they were left aside"]
