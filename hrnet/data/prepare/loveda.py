"""LoveDA: Train|Val/Rural|Urban/images_png|masks_png as it is downloaded, or img_dir|ann_dir/train|val."""

from __future__ import annotations

from hrnet.data.cards import Card
from hrnet.data.prepare import folder
from hrnet.data.prepare.found import Found, Job, NothingFound, pair
from hrnet.data.prepare.labels import label_table
from hrnet.data.prepare.tree import File, Tree
from hrnet.errors import DataError

__all__ = ["find", "matches"]

_SPLITS = {"train": "Train", "val": "Val"}
_AREAS = ("Rural", "Urban")
_IMAGES, _MASKS = "images_png", "masks_png"


def matches(tree: Tree) -> bool:
    """Whether a download has the official layout, or one whose images are all named by numbers alone."""
    if any(_areas(tree, name) for name in _SPLITS.values()):
        return True
    converted = tree.locate("img_dir", "ann_dir")
    names = [] if converted is None else [file.path for file in converted.under("img_dir", ".png")]
    return bool(names) and all(name.rpartition("/")[2].removesuffix(".png").isdecimal() for name in names)


def find(tree: Tree, card: Card) -> Found:
    """Find the pairs; both areas are put together, sorted by file name, and the test images are left aside.

    Files hold 0 for pixels without data and 1..7. Raises DataError that says what was looked for, which image has no
    label, or which name is there twice (names are unique over all areas and splits).
    """
    areas = {split: found for split, name in _SPLITS.items() if (found := _areas(tree, name))}
    if areas:
        return Found(card=card, splits={split: _jobs(found, card) for split, found in areas.items()})
    converted = folder.converted(tree, card)
    if converted is None:
        raise NothingFound(
            f"{tree.place()} holds no loveda data: looked for Train|Val/Rural|Urban/{_IMAGES} with {_MASKS}, or "
            f"img_dir/train|val with ann_dir/train|val"
        )
    return folder.find(converted, card)


def _areas(tree: Tree, split: str) -> list[Tree]:
    """Views of the areas of a split that are there; each archive may have been unpacked in a folder of its own."""
    found = ((tree.locate(f"{split}/{area}/{_IMAGES}"), area) for area in _AREAS)
    return [root.rooted(f"{split}/{area}") for root, area in found if root is not None]


def _jobs(areas: list[Tree], card: Card) -> list[Job]:
    table = label_table(card)
    images: dict[str, tuple[File, Tree]] = {}
    for area in areas:
        for image in folder.image_files(area, _IMAGES, card.image_suffix):
            file = area.relative(image, _IMAGES)
            if file in images:
                raise DataError(f"{images[file][0].where} and {image.where} have one name; names of LoveDA are unique")
            images[file] = (image, area)
    jobs = []
    for file, (image, area) in sorted(images.items()):
        name = file.removesuffix(card.image_suffix)
        path = f"{_MASKS}/{name}{card.label_suffix}"
        label = area.get(path)
        if label is None:
            raise DataError(f"image {image.where} has no label; looked for {area.place(path)}")
        jobs.append(pair(name, image, label, table))
    return jobs
