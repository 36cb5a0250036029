"""Pascal VOC 2012 with the additional annotations of SBD: 1,464 + 9,118 training and 1,449 validation images.

VOC's own lists say what is trained on with its own labels; what SBD adds is everything in its two lists that is in
neither of VOC's. Its labels are PNG files (SegmentationClassAug) or SBD's Matlab files. The published list of the
additional images has no stable order, so they are sorted by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hrnet.data.cards import Card
from hrnet.data.prepare.found import Converted, Found, Job, NothingFound, check_sizes, count_values, pair
from hrnet.data.prepare.labels import apply_table, label_table, read_image_size
from hrnet.data.prepare.mat import load_mat
from hrnet.data.prepare.tree import File, Tree
from hrnet.errors import DataError

__all__ = ["additional", "find", "matches", "read_mat", "read_names"]

_IMAGES, _LABELS, _LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
_AUG = "SegmentationClassAug"
_YEAR = "VOC2012"


def matches(tree: Tree) -> bool:
    """Whether a download has VOC 2012's segmentation lists."""
    root = tree.locate(f"{_YEAR}/{_LISTS}")
    return root is not None or tree.locate(_IMAGES, _LABELS, _AUG) is not None


def find(tree: Tree, card: Card) -> Found:
    """Find the pairs that the lists name; notes say which are not there.

    Raises DataError that says what was looked for.
    """
    outer = tree.locate(f"{_YEAR}/{_IMAGES}")
    voc = outer.rooted(_YEAR) if outer is not None else tree.locate(_IMAGES, _LABELS, _LISTS)
    lists = {} if voc is None else {name: read_names(voc, f"{_LISTS}/{name}.txt") for name in ("train", "val")}
    if voc is None or not any(lists.values()):
        raise NothingFound(
            f"{tree.place()} holds no voc12aug data: looked for {_YEAR}/{_IMAGES}, {_LABELS} and "
            f"{_LISTS}/train.txt, val.txt, with {_AUG} or SBD's dataset/cls"
        )
    sbd = _sbd(tree)
    own = _Labels(voc, label_table(card))
    notes: list[str] = []
    splits = {split: own.jobs(lists[split], own.own, f"{_LISTS}/{split}.txt", notes) for split in lists}
    added = _Labels(voc, label_table(card), pngs=tree.locate(_AUG), sbd=sbd)
    names = _additional_names(tree, voc, sbd, lists["train"], lists["val"])
    if not names:
        notes.append(f"neither {_AUG} nor SBD's dataset/cls with its train.txt and val.txt is there")
    splits["train"] += added.jobs(names, added.added, "the additional images", notes)
    return Found(card=card, splits={split: jobs for split, jobs in splits.items() if jobs}, notes=notes)


def read_names(tree: Tree, path: str) -> list[str]:
    """Return the names in a list, one a line; a name may be written as a path. No list, no names."""
    file = tree.get(path)
    lines = [] if file is None else file.read().decode("utf-8", "replace").splitlines()
    words = [line.split()[0] for line in lines if line.strip()]
    return [word.rpartition("/")[2].partition(".")[0] for word in words]


def additional(sbd: Sequence[str], train: Sequence[str], val: Sequence[str]) -> list[str]:
    """Return what SBD's lists add to VOC's, sorted: 9,118 names of the complete lists."""
    return sorted(set(sbd) - set(train) - set(val))


def read_mat(data: bytes, where: str) -> NDArray[np.uint8]:
    """Return GTcls.Segmentation of one of SBD's Matlab files, HxW uint8; raises DataError if it has none."""
    content = load_mat(data, "GTcls", where)
    values = getattr(content, "Segmentation", None)
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        raise DataError(f"label {where} is no file of SBD: its GTcls has no Segmentation; copy it again")
    return values.astype(np.uint8)


def _sbd(tree: Tree) -> Tree | None:
    """The view of SBD's `dataset` folder."""
    root = tree.locate("dataset/cls")
    return tree.locate("cls", "train.txt", "val.txt") if root is None else root.rooted("dataset")


def _additional_names(tree: Tree, voc: Tree, sbd: Tree | None, train: Sequence[str], val: Sequence[str]) -> list[str]:
    for name in ("aug", "trainaug"):
        if listed := read_names(voc, f"{_LISTS}/{name}.txt"):
            return additional(listed, train, val)
    if sbd is not None and (listed := [name for part in ("train", "val") for name in read_names(sbd, f"{part}.txt")]):
        return additional(listed, train, val)
    # A folder of PNGs alone has those of VOC's own images, too.
    root = tree.locate(_AUG)
    files = [] if root is None else root.under(_AUG, ".png")
    return additional([file.path.rpartition("/")[2].removesuffix(".png") for file in files], train, val)


class _Labels:
    """Finds the image and the label of a name."""

    def __init__(
        self, voc: Tree, table: NDArray[np.int16], *, pngs: Tree | None = None, sbd: Tree | None = None
    ) -> None:
        self._voc, self._table, self._pngs, self._sbd = voc, table, pngs, sbd

    def own(self, name: str, image: File) -> Job | None:
        """The job of an image with VOC's own label, if that is there."""
        label = self._voc.get(f"{_LABELS}/{name}.png")
        return None if label is None else pair(name, image, label, self._table)

    def added(self, name: str, image: File) -> Job | None:
        """The job of an image with an additional label, if that is there."""
        if self._pngs is not None and (label := self._pngs.get(f"{_AUG}/{name}.png")) is not None:
            return pair(name, image, label, self._table)
        if self._sbd is not None and (label := self._sbd.get(f"cls/{name}.mat")) is not None:
            return Job(name=name, inputs=(image, label), convert=_convert_mat, extra=self._table)
        return None

    def jobs(
        self, names: Sequence[str], find: Callable[[str, File], Job | None], what: str, notes: list[str]
    ) -> list[Job]:
        """The jobs of all names, in order; a note says how many cannot be had."""
        images = ((name, self._voc.get(f"{_IMAGES}/{name}.jpg")) for name in names)
        found = [(name, None if image is None else find(name, image)) for name, image in images]
        missing = [name for name, job in found if job is None]
        if missing:
            notes.append(f"{len(missing)} of {len(names)} of {what} have no image or no label, such as {missing[0]}")
        return [job for _, job in found if job is not None]


def _convert_mat(job: Job, card: Card) -> Iterator[Converted]:
    image, label = job.inputs
    data = image.read()
    size = read_image_size(data, image.where)
    raw = read_mat(label.read(), label.where)
    check_sizes(size, image, raw, label)
    mapped = apply_table(raw, job.extra, card.num_classes, label.where)
    yield Converted(name=job.name, image=data, label=mapped, raw=count_values(raw))
