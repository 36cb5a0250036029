"""Pascal Context: images of VOC 2010 with 60 classes (or 59, the background ignored), from one of three forms.

- SegmentationClassContext/*.png with ImageSets/SegmentationContext/{train,val}.txt, as the reference's converter
  leaves them;
- trainval_merged.json of PASCAL in Detail, which that converter reads;
- trainval/*.mat of the original release (459 ids), split as VOC 2010 is. Its labels are not quite those of PASCAL in
  Detail, which were revised, so results are not quite the published ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hrnet.data.cards import Card
from hrnet.data.prepare import folder
from hrnet.data.prepare.detail import DetailImage, category_map, read_detail
from hrnet.data.prepare.found import Converted, Found, Job, NothingFound, check_sizes, count_values, pair
from hrnet.data.prepare.labels import apply_table, label_table, read_image_size
from hrnet.data.prepare.mat import load_mat
from hrnet.data.prepare.tree import File, Tree
from hrnet.data.prepare.voc import read_names
from hrnet.errors import DataError

__all__ = ["ANNOTATED", "IDS", "find", "matches"]

IDS = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""Original ids; position is the class number, 0 = background (mmsegmentation 1.2.2, pascal_context.py)."""

ANNOTATED = {"train": 4996, "val": 5104}
"""Images that trainval_merged.json annotates, three fewer than VOC 2010 lists (detail-api, issue 1): all of it."""

_JSON = "trainval_merged.json"
_IMAGES, _READY = "JPEGImages", "SegmentationClassContext"
_LISTS = "ImageSets/SegmentationContext"
_VOC_LISTS = "ImageSets/Main"
_MAT = re.compile(r"(?:.*/)?trainval/(\d{4}_\d{6})\.mat")
_LAST_ID = 459
_UNKNOWN = 255


def matches(tree: Tree) -> bool:
    """Whether a download holds labels of Pascal Context in one of the three forms."""
    return tree.locate(_READY) is not None or _json(tree) is not None or bool(_mats(tree))


def find(tree: Tree, card: Card) -> Found:
    """Find the images of train and val with their labels, the forms being tried in the order above.

    Notes say which listed images are not there. Raises DataError that says what was looked for.
    """
    ready = tree.locate(_IMAGES, _READY)
    if ready is not None:
        return _from_ready(ready, card)
    detail, mats = _json(tree), _mats(tree)
    if detail is None and not mats:
        if (plain := folder.converted(tree, card)) is not None:
            return folder.find(plain, card)
        raise NothingFound(
            f"{tree.place()} holds no labels of Pascal Context: looked for {_READY}/*.png beside {_IMAGES}, for "
            f"{_JSON} of PASCAL in Detail, and for trainval/*.mat of the original release"
        )
    voc = _voc(tree)
    if voc is None:
        raise NothingFound(f"{tree.place()} holds labels of Pascal Context but no VOC2010/{_IMAGES}")
    return _from_detail(voc, card, detail) if detail is not None else _from_mats(voc, card, mats)


def _json(tree: Tree) -> File | None:
    return next((file for file in tree.under(suffix=_JSON) if file.path.rpartition("/")[2] == _JSON), None)


def _mats(tree: Tree) -> dict[str, File]:
    found = ((_MAT.fullmatch(file.path), file) for file in tree.under(suffix=".mat"))
    return {match[1]: file for match, file in found if match is not None}


def _voc(tree: Tree) -> Tree | None:
    named = tree.locate(f"VOC2010/{_IMAGES}")
    return named.rooted("VOC2010") if named is not None else tree.locate(_IMAGES)


def _lists(voc: Tree, *folders: str) -> dict[str, list[str]]:
    """Names of each split that has a list in the first of the folders with any, sorted."""
    for lists in folders:
        names = {split: sorted(read_names(voc, f"{lists}/{split}.txt")) for split in ANNOTATED}
        if any(names.values()):
            return {split: listed for split, listed in names.items() if listed}
    raise DataError(f"there is no list of images, {voc.place(folders[0])}/train.txt or val.txt")


def _from_ready(voc: Tree, card: Card) -> Found:
    table, lists = label_table(card), _lists(voc, _LISTS)

    def job(name: str, image: File) -> Job | None:
        label = voc.get(f"{_READY}/{name}.png")
        return None if label is None else pair(name, image, label, table)

    splits, notes = _jobs(voc, lists, job)
    complete = {split: len(names) for split, names in lists.items()} == ANNOTATED
    return Found(card=_annotated(card) if complete else card, splits=splits, notes=notes)


def _from_detail(voc: Tree, card: Card, file: File) -> Found:
    detail = read_detail(file)
    entries = {entry.name: entry for entries in detail.splits.values() for entry in entries}

    def job(name: str, image: File) -> Job | None:
        return Job(name=name, inputs=(image, file), convert=_convert_detail, extra=entries[name])

    lists = {split: [entry.name for entry in entries] for split, entries in detail.splits.items()}
    splits, notes = _jobs(voc, lists, job)
    if detail.empty:
        several = f"{len(detail.empty)} images of {file.where}"
        notes.append(f"{several} have no annotation, such as {detail.empty[0]}; they were left aside")
    return Found(card=_annotated(card), splits=splits, notes=notes)


def _from_mats(voc: Tree, card: Card, mats: Mapping[str, File]) -> Found:
    def job(name: str, image: File) -> Job | None:
        return Job(name=name, inputs=(image, mats[name]), convert=_convert_mat) if name in mats else None

    splits, notes = _jobs(voc, _lists(voc, _LISTS, _VOC_LISTS), job)
    others = (
        f"the labels are those of the original Pascal Context release; the published results were made with {_JSON} "
        f"of PASCAL in Detail, whose labels differ here and there"
    )
    return Found(card=card, splits=splits, notes=[*notes, others], incomparable=(others,))


def _jobs(
    voc: Tree, lists: Mapping[str, Sequence[str]], find: Callable[[str, File], Job | None]
) -> tuple[dict[str, list[Job]], list[str]]:
    """Return the jobs of the listed images that are there, and a note on those of each split that are not."""
    splits: dict[str, list[Job]] = {}
    notes = []
    for split, names in lists.items():
        images = ((name, voc.get(f"{_IMAGES}/{name}.jpg")) for name in names)
        found = {name: None if image is None else find(name, image) for name, image in images}
        splits[split] = [job for job in found.values() if job is not None]
        missing = [name for name, job in found.items() if job is None]
        if missing:
            several = f"{len(missing)} of {len(names)} {split} images"
            notes.append(f"{several} are not there or have no label, such as {missing[0]}")
    return {split: jobs for split, jobs in splits.items() if jobs}, notes


def _annotated(card: Card) -> Card:
    return replace(card, train_images=ANNOTATED["train"], val_images=ANNOTATED["val"])


@cache
def _classes(other: int) -> NDArray[np.uint8]:
    """Class number of each original id; ids of no class become `other`."""
    table = np.full(_LAST_ID + 1, other, dtype=np.uint8)
    table[list(IDS)] = np.arange(len(IDS))
    return table


def _convert_detail(job: Job, card: Card) -> Iterator[Converted]:
    annotations = job.inputs[1]
    entry: DetailImage = job.extra
    for segment in entry.segments:
        if segment.category not in IDS:
            raise DataError(
                f"{annotations.where}: image {entry.name} has a region of category {segment.category}, which is none "
                f"of the {len(IDS)} of Pascal Context"
            )
    try:
        categories = category_map(entry)
    except DataError as error:
        raise DataError(f"{annotations.where}: {error}") from None
    yield _converted(job, card, _classes(_UNKNOWN)[categories])


def _convert_mat(job: Job, card: Card) -> Iterator[Converted]:
    yield _converted(job, card, _classes(0)[_read_mat(job.inputs[1])])


def _converted(job: Job, card: Card, raw: NDArray[np.uint8]) -> Converted:
    image, label = job.inputs
    data = image.read()
    check_sizes(read_image_size(data, image.where), image, raw, label)
    mapped = apply_table(raw, label_table(card), card.num_classes, label.where)
    return Converted(name=job.name, image=data, label=mapped, raw=count_values(raw))


def _read_mat(file: File) -> NDArray[np.int64]:
    """Return the LabelMap of a Matlab file, HxW ids up to 459; raises DataError if it has none."""
    ids = np.asarray(load_mat(file.read(), "LabelMap", file.where)).astype(np.int64)
    if ids.ndim != 2 or ids.min(initial=0) < 0 or ids.max(initial=0) > _LAST_ID:
        raise DataError(f"label {file.where} is no map of the ids 0 to {_LAST_ID} of Pascal Context")
    return ids
