"""iSAID: the images of DOTA with painted labels, cut into patches of 896 pixels that overlap by 384.

The rules are those of the reference (mmsegmentation 1.2.2, tools/dataset_converters/isaid.py), with two of its faults
left out:

- A picture with one side below 896 and the other exactly 896 is not padded there; a slice with a negative start then
  gives a narrower patch with a negative number in its name (P0100_0_896_-396_500). Here it is padded like every other
  small picture, right and below, the image with 0 and the label with 255 (P0100_0_896_0_896). The number of patches is
  the same.
- With Pillow 10 or newer it writes labels with a palette of one bit, in which all classes collapse to 0 and 1.
  Ready patches with such a palette are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from hrnet.data.cards import Card
from hrnet.data.prepare import folder
from hrnet.data.prepare.colours import ODD, Colour, read_classes, read_image
from hrnet.data.prepare.found import Converted, Found, Job, NothingFound, check_sizes, convert_pair
from hrnet.data.prepare.labels import label_table
from hrnet.data.prepare.tiling import cut_tiles, encode_png, pad, windows
from hrnet.data.prepare.tree import File, Tree
from hrnet.data.transforms import IGNORE
from hrnet.errors import DataError

__all__ = ["COLOURS", "PATCH", "PICTURES", "STRIDE", "find", "matches"]

PICTURES = {"train": 1411, "val": 458}
"""Pictures of each split (iSAID, DOTA v1.0); how many patches they give shows only when they are cut."""

PATCH, STRIDE = 896, 512
"""Side of a patch, and distance from one to the next, in pixels."""

COLOURS: Mapping[Colour, int] = {
    (0, 0, 0): 0,
    (0, 0, 63): 1,
    (0, 63, 63): 2,
    (0, 63, 0): 3,
    (0, 63, 127): 4,
    (0, 63, 191): 5,
    (0, 63, 255): 6,
    (0, 127, 63): 7,
    (0, 127, 127): 8,
    (0, 0, 127): 9,
    (0, 0, 191): 10,
    (0, 0, 255): 11,
    (0, 191, 127): 12,
    (0, 127, 191): 13,
    (0, 127, 255): 14,
    (0, 100, 155): 15,
}
"""RGB to class; any other colour is background, 0, as in the reference."""

_IMAGE = re.compile(r"(?:.*/)?(train|val)/(?:.*/)?(P\d+)\.png")
_LABEL = re.compile(r"(?:.*/)?(train|val)/(?:.*/)?(P\d+)_instance_color_RGB\.png")

_TRAP = (
    "the classes have collapsed to 0 and 1, as the reference's converter does with Pillow 10 or newer (labels with a "
    "palette of one bit); prepare the original iSAID download instead, or convert again with Pillow 9.5"
)


def matches(tree: Tree) -> bool:
    """Whether a download has the official layout: instance_color_RGB labels somewhere below train or val."""
    return any(_LABEL.fullmatch(file.path) for file in tree.under(suffix=".png"))


def find(tree: Tree, card: Card) -> Found:
    """Find the images of train and val, or the patches that the reference's converter has cut.

    Raises DataError that says what was looked for, or which image has no label.
    """
    if not matches(tree):
        return _ready(tree, card)
    images, labels = _files(tree, _IMAGE), _files(tree, _LABEL)
    for split, name in sorted(set(images) - set(labels)):
        raise DataError(
            f"image {images[split, name].where} has no label {split}/.../{name}_instance_color_RGB.png; "
            f"get the Semantic_masks of iSAID's {split}"
        )
    if not images:
        raise NothingFound(f"{tree.place()} holds labels of iSAID but no images: looked for train|val/.../P0000.png")
    splits: dict[str, list[Job]] = {}
    for split, name in sorted(images):
        job = Job(name=name, inputs=(images[split, name], labels[split, name]), convert=_convert)
        splits.setdefault(split, []).append(job)
    return Found(
        card=card,
        splits=splits,
        notes=_left_aside(sorted(set(labels) - set(images))),
        images={},
        incomplete=[
            f"{len(jobs)} of {PICTURES[split]} pictures of {split}"
            for split, jobs in splits.items()
            if len(jobs) != PICTURES[split]
        ],
    )


def _files(tree: Tree, pattern: re.Pattern[str]) -> dict[tuple[str, str], File]:
    files: dict[tuple[str, str], File] = {}
    for file in tree.under(suffix=".png"):
        match = pattern.fullmatch(file.path)
        if match is None:
            continue
        other = files.setdefault((match[1], match[2]), file)
        # Archives are often left beside what was unpacked from them.
        if other.size != file.size:
            raise DataError(f"{other.where} and {file.where} differ; remove the one that is not from the download")
    return files


def _left_aside(aside: Sequence[tuple[str, str]]) -> list[str]:
    if not aside:
        return []
    example = "/".join(aside[0])
    return [f"{len(aside)} labels have no image, such as {example}; they were left aside (images: DOTA v1.0)"]


def _convert(job: Job, card: Card) -> Iterator[Converted]:
    """Yield the patches of a picture, sorted by name."""
    image, label = job.inputs
    picture, classes = read_image(image), read_classes(label, COLOURS)
    check_sizes(picture.shape, image, classes, label)
    classes[classes == ODD] = 0
    picture, classes = pad(picture, PATCH, 0), pad(classes, PATCH, IGNORE)
    height, width = classes.shape
    cuts = windows(height, width, PATCH, STRIDE)
    named = {f"{job.name}_{at.y0}_{at.y1}_{at.x0}_{at.x1}": at for at in cuts}
    yield from cut_tiles(named, picture, classes, label_table(card), card.num_classes, label.where)


def _ready(tree: Tree, card: Card) -> Found:
    converted = folder.converted(tree, card)
    if converted is None:
        raise NothingFound(
            f"{tree.place()} holds no isaid data: looked for train|val/.../P0000.png with "
            f"P0000_instance_color_RGB.png, or img_dir/train|val with ann_dir/train|val"
        )
    found = folder.find(converted, card)
    splits = {
        split: [Job(name=job.name, inputs=job.inputs, convert=_convert_ready, extra=job.extra) for job in jobs]
        for split, jobs in found.splits.items()
    }
    return Found(card=card, splits=splits, notes=found.notes)


def _convert_ready(job: Job, card: Card) -> Iterator[Converted]:
    label = job.inputs[1]
    data = label.read()
    # Byte 24 of a PNG is its bit depth, byte 25 its kind: 3 = palette.
    if data.startswith(b"\x89PNG") and data[24:26] == b"\x01\x03":
        raise DataError(f"label {label.where} has a palette of one bit: {_TRAP}")
    for sample in convert_pair(job, card):
        # The reference leaves BMP files under the names of PNG files, three times as large.
        bmp = sample.image.startswith(b"BM")
        yield replace(sample, image=encode_png(read_image(job.inputs[0]))) if bmp else sample
