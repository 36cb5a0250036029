"""The ISPRS semantic labelling benchmarks, Potsdam and Vaihingen: orthophotos, cut into tiles of 512 pixels.

The labels are those whose boundaries are eroded to black, which is ignored; in those "with boundary" every pixel
counts, so they give other numbers and are never taken instead.

A painted colour that is none of the six and not black is ignored too. The reference compares 2 B + 3 G + 4 R of a
pixel instead of its colour (mmsegmentation 1.2.2, tools/dataset_converters/potsdam.py), so it ignores most odd colours
as well, but takes those with an official sum for that class: RGB (0, 85, 255) for tree. The official colours are told
apart by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hrnet.data.cards import Card
from hrnet.data.prepare import folder
from hrnet.data.prepare.colours import ODD, Colour, read_classes, read_image
from hrnet.data.prepare.found import Converted, Found, Job, NothingFound, check_sizes
from hrnet.data.prepare.labels import label_table
from hrnet.data.prepare.sources import SOURCES
from hrnet.data.prepare.tiling import cut_tiles, windows
from hrnet.data.prepare.tree import File, Tree
from hrnet.data.transforms import IGNORE
from hrnet.errors import DataError

__all__ = ["COLOURS", "TILE", "Layout", "find", "matches"]

TILE = 512
"""Side of a tile in pixels. Tiles do not overlap, but the last row and column are shifted back to the border."""

_SHOWN = 5
"""Names that are listed before the dots."""

COLOURS: Mapping[Colour, int] = {
    (0, 0, 0): 0,
    (255, 255, 255): 1,
    (0, 0, 255): 2,
    (0, 255, 255): 3,
    (0, 255, 0): 4,
    (255, 255, 0): 5,
    (255, 0, 0): 6,
}
"""RGB to class number: 0 = boundary, then impervious surface, building, low vegetation, tree, car, clutter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How one of the two is downloaded."""

    image: re.Pattern[str]
    """Path of an image; its group is the area's name."""

    label: re.Pattern[str]
    """Path of a label without boundaries."""

    bounded: re.Pattern[str]
    """Path of a label with boundaries, which is not to be used."""

    example: str
    """An image's file name, for messages."""

    splits: Mapping[str, Sequence[str]]
    """Areas of train and val (mmsegmentation 1.2.2)."""


def matches(tree: Tree, layout: Layout) -> bool:
    """Whether a download holds images or labels of a layout."""
    return any(
        pattern.fullmatch(file.path)
        for file in tree.under(suffix=".tif")
        for pattern in (layout.image, layout.label, layout.bounded)
    )


def find(tree: Tree, card: Card, layout: Layout) -> Found:
    """Find the areas of train and val, or the tiles that the reference's converter has cut.

    Raises DataError that says what was looked for, that only labels with boundaries are there, or which area has no
    label.
    """
    if not matches(tree, layout):
        return _ready(tree, card, layout)
    images, labels = _areas(tree, layout.image), _areas(tree, layout.label)
    files = " and ".join(SOURCES[card.name].files)
    if not labels and (bounded := _areas(tree, layout.bounded)):
        raise DataError(
            f"{next(iter(bounded.values())).where} is a label with boundaries, which gives other numbers than the "
            f"published ones, and there is none without; get {files} (a path such as {layout.example} is an image's)"
        )
    splits: dict[str, list[Job]] = {}
    for split, areas in layout.splits.items():
        # The order of the reference's file names: "area11_..." before "area1_...".
        for area in sorted(set(areas) & set(images), key=lambda name: f"{name}_"):
            if area not in labels:
                raise DataError(f"image {images[area].where} has no label; get {files}")
            job = Job(name=area, inputs=(images[area], labels[area]), convert=_convert)
            splits.setdefault(split, []).append(job)
    if not splits:
        raise NothingFound(f"{tree.place()} holds labels of {card.name} but no images such as {layout.example}")
    return Found(
        card=card,
        splits=splits,
        notes=_left_aside(layout, images, labels),
        images={},
        incomplete=_incomplete(layout, images),
    )


def _ready(tree: Tree, card: Card, layout: Layout) -> Found:
    converted = folder.converted(tree, card)
    if converted is None:
        raise NothingFound(
            f"{tree.place()} holds no {card.name} data: looked for images such as {layout.example}, or "
            f"img_dir/train|val with ann_dir/train|val"
        )
    return folder.find(converted, card)


def _areas(tree: Tree, pattern: re.Pattern[str]) -> dict[str, File]:
    areas: dict[str, File] = {}
    for file in tree.under(suffix=".tif"):
        match = pattern.fullmatch(file.path)
        if match is None:
            continue
        other = areas.setdefault(match[1], file)
        # Archives are often left beside what was unpacked from them.
        if other.size != file.size:
            raise DataError(f"{other.where} and {file.where} differ; remove the one that is not from the download")
    return areas


def _incomplete(layout: Layout, images: Mapping[str, File]) -> list[str]:
    """Say for each split with some areas how many there are, unless all are."""
    told = []
    for split, areas in layout.splits.items():
        missing = [area for area in areas if area not in images]
        if 0 < len(missing) < len(areas):
            more = ", ..." if len(missing) > _SHOWN else ""
            names = ", ".join(missing[:_SHOWN])
            told.append(f"{len(areas) - len(missing)} of {len(areas)} areas of {split} (missing: {names}{more})")
    return told


def _left_aside(layout: Layout, images: Mapping[str, File], labels: Mapping[str, File]) -> list[str]:
    known = {area for areas in layout.splits.values() for area in areas}
    aside = sorted((set(images) | set(labels)) - (known & set(images)))
    return [f"areas without an image or in no split were left aside: {', '.join(aside)}"] if aside else []


def _convert(job: Job, card: Card) -> Iterator[Converted]:
    """Yield the tiles of an area, sorted by name."""
    image, label = job.inputs
    picture, classes = read_image(image), read_classes(label, COLOURS)
    check_sizes(picture.shape, image, classes, label)
    height, width = picture.shape[:2]
    if min(height, width) < TILE:
        raise DataError(
            f"image {image.where} is {width}x{height}, smaller than a tile of {TILE}x{TILE}; copy it again"
        )
    table = label_table(card)
    table[ODD] = IGNORE
    named = {f"{job.name}_{at.x0}_{at.y0}_{at.x1}_{at.y1}": at for at in windows(height, width, TILE, TILE)}
    yield from cut_tiles(named, picture, classes, table, card.num_classes, label.where)
