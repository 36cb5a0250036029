"""Drawing a small copy of a published data set, as a folder or packed as it is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hrnet.data.synthetic import above, ground
from hrnet.data.synthetic.archives import Archive, packed
from hrnet.data.synthetic.files import Files, Order
from hrnet.errors import DataError, suggestion

__all__ = ["DATASETS", "Layout", "synthesise"]

_SMALLEST = 32
_TILE = 512
"""Side of a tile of Potsdam and Vaihingen; smaller mosaics cannot be cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How one data set is drawn."""

    files: Callable[[Order], Files]
    """Draws all files, by their path below the data set's folder."""
    size: tuple[int, int] = (128, 256)
    """Height and width of an image, if nobody wants another size."""
    smallest: int = _SMALLEST
    """Least height and width."""
    most: Mapping[str, int] = field(default_factory=dict)
    """Split to the number of images that have a name in the original; without an entry any number has."""
    archives: Sequence[Archive] = ()
    """What is packed in which official archive; files in none are downloaded as they are."""


def _isprs(
    files: Callable[[Order], Files], parts: Mapping[str, Sequence[object]], archives: Sequence[Archive]
) -> Layout:
    most = {split: len(names) for split, names in parts.items()}
    return Layout(files=files, size=(_TILE, 640), smallest=_TILE, most=most, archives=archives)


_CONTEXT = Layout(
    files=ground.pascal_context,
    size=(128, 192),
    archives=(Archive(name="VOCtrainval_03-May-2010.tar", holds="VOCdevkit/VOC2010/*"),),
)

DATASETS: Mapping[str, Layout] = {
    "cityscapes": Layout(
        files=ground.cityscapes,
        archives=(
            Archive(name="leftImg8bit_trainvaltest.zip", holds="leftImg8bit/*"),
            Archive(name="gtFine_trainvaltest.zip", holds="gtFine/*"),
        ),
    ),
    "ade20k": Layout(
        files=ground.ade20k, archives=(Archive(name="ADEChallengeData2016.zip", holds="ADEChallengeData2016/*"),)
    ),
    "voc12aug": Layout(
        files=ground.voc12aug,
        size=(128, 192),
        archives=(
            Archive(name="VOCtrainval_11-May-2012.tar", holds="VOCdevkit/VOC2012/*"),
            Archive(name="benchmark.tgz", holds="benchmark_RELEASE/*"),
        ),
    ),
    "pascal-context": _CONTEXT,
    "pascal-context-59": _CONTEXT,
    "loveda": Layout(
        files=above.loveda,
        size=(128, 128),
        archives=(Archive(name="Train.zip", holds="Train/*"), Archive(name="Val.zip", holds="Val/*")),
    ),
    "potsdam": _isprs(
        above.potsdam,
        above.POTSDAM,
        (
            Archive(name="2_Ortho_RGB.zip", holds="2_Ortho_RGB/*"),
            Archive(
                name="5_Labels_all_noBoundary.zip", holds="5_Labels_all_noBoundary/*", below="5_Labels_all_noBoundary"
            ),
        ),
    ),
    "vaihingen": _isprs(
        above.vaihingen,
        above.VAIHINGEN,
        (
            Archive(name="ISPRS_semantic_labeling_Vaihingen.zip", holds="top/*"),
            Archive(
                name="ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip",
                holds="gts_eroded/*",
                below="gts_eroded",
            ),
        ),
    ),
    "isaid": Layout(
        files=above.isaid,
        size=(640, 960),
        archives=tuple(
            Archive(name=f"{split}/{name}", holds=f"{split}/images/{files}", below=split)
            for split in ("train", "val")
            for name, files in (("images/part1.zip", "P????.png"), ("Semantic_masks/images.zip", "P*_RGB.png"))
        ),
    ),
}
"""Data sets that can be drawn, all nine published ones."""


def synthesise(
    dataset: str,
    destination: str | Path,
    *,
    train: int = 8,
    val: int = 4,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    archives: bool = False,
) -> Path:
    """Draw a small copy of a published data set in its native layout, ready for `prepare`.

    Args:
        dataset: one of the nine, such as `cityscapes`.
        destination: folder to write into; it may hold an earlier copy of the same scenes, nothing else.
        train: number of training images (of Potsdam and Vaihingen: parts of the mosaic, at most as many as there are).
        val: number of validation images.
        size: height and width in pixels; by default what suits the data set.
        seed: everything drawn is a function of it.
        archives: write the archives of the official download in place of their content.

    Returns:
        The destination.

    Raises:
        DataError: an unknown data set, a size or number out of range, a destination that holds other images, or a disk
            that refuses.
    """
    if dataset not in DATASETS:
        raise DataError(f"no scenes can be drawn for {dataset!r}{suggestion(dataset, DATASETS)}")
    layout = DATASETS[dataset]
    order = Order(train=train, val=val, size=size or layout.size, seed=seed)
    _check(dataset, layout, order)
    files = layout.files(order)
    _write(Path(destination), packed(files, layout.archives) if archives else files)
    return Path(destination)


def _check(dataset: str, layout: Layout, order: Order) -> None:
    if min(order.size) < layout.smallest:
        raise DataError(
            f"size is {order.size[0]}x{order.size[1]} (height x width); scenes of {dataset} need at least "
            f"{layout.smallest} pixels each way"
        )
    if min(order.train, order.val) < 1:
        raise DataError(
            f"{order.train} training and {order.val} validation images were asked for; at least one of each is needed"
        )
    for split, limit in layout.most.items():
        asked = {"train": order.train, "val": order.val}[split]
        if asked > limit:
            raise DataError(f"{asked} {split} images were asked for, but {dataset} has {limit} parts; ask for less")


def _write(destination: Path, files: Files) -> None:
    known = {destination / path for path in files}
    for top in {path.parts[0] for path in files}:
        below = (destination / top).rglob("*")
        strangers = sorted(path for path in below if path.is_file() and path not in known)
        if strangers:
            raise DataError(f"{destination} holds other images, such as {strangers[0]}; choose an empty folder")
    try:
        for path, content in files.items():
            (destination / path).parent.mkdir(parents=True, exist_ok=True)
            (destination / path).write_bytes(content)
    except OSError as error:
        raise DataError(f"cannot write scenes to {destination}: {error.strerror or error}") from error
