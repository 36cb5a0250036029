"""A corrupted copy of a data set of each kind, and what the gate says of it.

`python -m tests.hrnet.corruptions` prints the sentences. Drawn data throughout; where real samples lie beside the
checkout, corrupted copies of them, too.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hrnet.data.check import check
from hrnet.data.prepare.run import prepare
from hrnet.data.synthetic import synthesise
from hrnet.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"

Pixels = NDArray[np.uint8]
IMAGES, LABELS = "leftImg8bit", "gtFine"
ADE = "ADEChallengeData2016"


def gate(source: Path, dataset: str | None = None, *, partial: bool = True, full: bool = True) -> str:
    """What preparing a source says when it refuses, else what checking the prepared data set finds fatal."""
    prepared = source.parent / "prepared"
    try:
        prepare(source, prepared, dataset=dataset, partial=partial)
    except DataError as error:
        assert not prepared.exists(), "a refused data set was written"
        return f"prepare: {error}"
    return checked(prepared, full=full)


def checked(prepared: Path, *, full: bool = True) -> str:
    """The fatal findings of a check."""
    found = [finding for finding in check(prepared, quick=not full).findings if finding.fatal]
    return "check: " + "; ".join(f"{finding.where}: {finding.message}" for finding in found)


def street(folder: Path, *, train: int = 2, val: int = 2, size: tuple[int, int] = (32, 64)) -> Path:
    return synthesise("cityscapes", folder / "native", train=train, val=val, size=size)


def rooms(folder: Path, *, train: int = 2, val: int = 2, size: tuple[int, int] = (32, 64)) -> Path:
    return synthesise("ade20k", folder / "native", train=train, val=val, size=size)


def own(folder: Path, *, train: int = 20, val: int = 20, size: tuple[int, int] = (32, 64)) -> Path:
    """Street scenes as somebody's own data set, with a card."""
    native = street(folder, train=train, val=val, size=size)
    for split in ("train", "val"):
        for image in sorted((native / IMAGES / split).rglob("*.png")):
            label = native / LABELS / split / image.parent.name / f"{_stem(image)}_gtFine_labelTrainIds.png"
            for source, kind in ((image, "images"), (label, "annotations")):
                target = folder / "own" / kind / split / f"{_stem(image)}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    classes = [f"class {number}" for number in range(19)]
    (folder / "own" / "card.json").write_text(json.dumps({"name": "own", "classes": classes, "image_suffix": ".png"}))
    return folder / "own"


def rewrite(files: list[Path], change: Callable[[Pixels], Pixels]) -> None:
    """Change the values of label files."""
    for file in files:
        values = np.asarray(cv2.imread(str(file), cv2.IMREAD_UNCHANGED), dtype=np.uint8)
        assert cv2.imwrite(str(file), change(values))


def rename_city(native: Path, split: str, city: str) -> Path:
    """Street scenes of a split as if taken in another city."""
    for kind in (IMAGES, LABELS):
        for file in sorted((native / kind / split).rglob("drawn_*")):
            file.rename(file.with_name(file.name.replace("drawn", city)))
    return native


def truncated(folder: Path) -> str:
    native = street(folder)
    image = first(native / IMAGES / "train", "*.png")
    image.write_bytes(image.read_bytes()[:-200])
    return gate(native)


def truncated_jpeg(folder: Path) -> str:
    native = rooms(folder)
    image = first(native / ADE / "images" / "validation", "*.jpg")
    image.write_bytes(image.read_bytes()[:-200])
    return gate(native)


def empty(folder: Path) -> str:
    native = street(folder)
    first(native / LABELS / "val", "*labelTrainIds.png").write_bytes(b"")
    return gate(native)


def no_label(folder: Path) -> str:
    native = rooms(folder)
    first(native / ADE / "annotations" / "training", "*.png").unlink()
    return gate(native)


def other_size(folder: Path) -> str:
    native = street(folder)
    rewrite([first(native / LABELS / "train", "*labelTrainIds.png")], lambda values: values[:, 8:].copy())
    return gate(native)


def label_ids(folder: Path) -> str:
    """What somebody gets who renames the labelIds files."""
    native = street(folder)
    for file in native.rglob("*labelIds.png"):
        file.replace(str(file).replace("labelIds", "labelTrainIds"))
    return gate(native)


def zero_not_reduced(folder: Path) -> str:
    source = own(folder, train=2, val=2)
    rewrite(labels_of(source), lambda values: np.where(values == 255, 0, values + np.uint8(1)).astype(np.uint8))
    return gate(source)


def reduced_twice(folder: Path) -> str:
    native = rooms(folder)
    rewrite(labels_of(native / ADE), reduce)
    return gate(native)


def moved_by_a_class(folder: Path) -> str:
    """Labels of val reduced although their first class is 0."""
    source = own(folder)
    rewrite(labels_of(source, "val"), reduce)
    return gate(source, full=False)


def moved_in_space(folder: Path) -> str:
    source = own(folder, train=8, val=1, size=(96, 192))
    rewrite(labels_of(source, "train"), lambda values: np.roll(values, 8, axis=1))
    return gate(source)


def missing_tile(folder: Path) -> str:
    tiles(folder, "potsdam", potsdam_names("2_10"), potsdam_names("5_15"))
    first(folder / "potsdam" / "img_dir" / "train", "2_10_512_1024_*").unlink()
    first(folder / "potsdam" / "ann_dir" / "train", "2_10_512_1024_*").unlink()
    return gate(folder / "potsdam", "potsdam", partial=False)


def swapped(folder: Path) -> str:
    native = rooms(folder)
    for kind in ("images", "annotations"):
        top = native / ADE / kind
        (top / "training").rename(top / "aside")
        (top / "validation").rename(top / "training")
        (top / "aside").rename(top / "validation")
    return gate(native)


def leaked(folder: Path) -> str:
    native = street(folder)
    for kind in (IMAGES, LABELS):
        shutil.copytree(native / kind / "val", native / kind / "train", dirs_exist_ok=True)
    return gate(native)


def renamed_leak(folder: Path) -> str:
    """The same image in train and in val under two names: only reading finds it."""
    native = street(folder)
    source = first(native / IMAGES / "val", "*.png")
    shutil.copy(source, first(native / IMAGES / "train", "*.png"))
    return gate(native)


def too_few(folder: Path) -> str:
    return gate(street(folder), partial=False)


def one_bit_palette(folder: Path) -> str:
    """Every id of the iSAID labels collapsed to 1."""
    names = [f"P{number:04d}_0_896_0_896" for number in range(24)]
    tiles(folder, "isaid", names[:20], names[20:], label_suffix="_instance_color_RGB.png", values=2)
    return gate(folder / "isaid", "isaid", full=False)


def damaged_shard(folder: Path) -> str:
    prepare(street(folder, train=4), folder / "prepared", partial=True)
    shard = folder / "prepared" / "train-00000.parquet"
    content = bytearray(shard.read_bytes())
    place = content.find(b"IDAT") + 60
    content[place] ^= 0xFF
    shard.write_bytes(content)
    return checked(folder / "prepared")


def potsdam_names(picture: str) -> list[str]:
    """The 144 tiles of a picture of 6000x6000 pixels."""
    starts = [min(at, 6000 - 512) for at in range(0, 6000, 512)]
    return [f"{picture}_{x}_{y}_{x + 512}_{y + 512}" for y in starts for x in starts]


def tiles(
    folder: Path, dataset: str, train: list[str], val: list[str], *, label_suffix: str = ".png", values: int = 6
) -> None:
    """Tiny tiles under given names, converted for mmsegmentation; labels hold 0 to values-1."""
    rng = np.random.default_rng(0)
    for split, names in (("train", train), ("val", val)):
        for kind in ("img_dir", "ann_dir"):
            (folder / dataset / kind / split).mkdir(parents=True)
        for name in names:
            image = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
            cv2.imwrite(str(folder / dataset / "img_dir" / split / f"{name}.png"), image)
            label = rng.integers(0, values, (8, 8)).astype(np.uint8)
            cv2.imwrite(str(folder / dataset / "ann_dir" / split / f"{name}{label_suffix}"), label)


def first(folder: Path, pattern: str) -> Path:
    return min(folder.rglob(pattern))


def labels_of(source: Path, split: str = "*") -> list[Path]:
    return sorted((source / "annotations").glob(f"{split}/*.png"))


def reduce(values: Pixels) -> Pixels:
    """reduce_zero_label: 0 becomes 255, all else one less."""
    return np.where(values == 0, 255, np.where(values == 255, 255, values - np.uint8(1))).astype(np.uint8)


def _stem(image: Path) -> str:
    return image.name.removesuffix("_leftImg8bit.png")


def real_moved_by_a_class(folder: Path) -> str:
    source = real_part("camvid", folder)
    rewrite(labels_of(source, "val"), reduce)
    return gate(source, full=False)


def real_moved_in_space(folder: Path) -> str:
    source = real_part("dubai", folder)
    rewrite(labels_of(source), lambda values: np.roll(values, 8, axis=1))
    return gate(source)


def real_label_ids(folder: Path) -> str:
    shutil.copytree(SHARED / "native" / "cityscapes" / "native_256x128", folder / "city")
    for file in (folder / "city").rglob("*labelIds.png"):
        file.replace(str(file).replace("labelIds", "labelTrainIds"))
    return gate(folder / "city")


def real_reduced_twice(folder: Path) -> str:
    shutil.copytree(SHARED / "native" / "ade20k" / ADE, folder / ADE)
    rewrite(labels_of(folder / ADE), reduce)
    return gate(folder / ADE, "ade20k")


def real_truncated(folder: Path) -> str:
    shutil.copytree(SHARED / "native" / "cityscapes" / "native_256x128", folder / "city")
    image = first(folder / "city" / IMAGES, "*.png")
    image.write_bytes(image.read_bytes()[:20_000])
    return gate(folder / "city")


def real_other_size(folder: Path) -> str:
    shutil.copytree(SHARED / "native" / "ade20k" / ADE, folder / ADE)
    rewrite(labels_of(folder / ADE, "training"), lambda values: values[:-5].copy())
    return gate(folder / ADE, "ade20k")


def real_part(name: str, folder: Path) -> Path:
    """Every so many of the images of CamVid or Dubai, as a data set of their own."""
    meta = json.loads((SHARED / name / "meta.json").read_text())
    (folder / name).mkdir()
    (folder / name / "meta.json").write_text(json.dumps({key: meta[key] for key in meta if key != "counts"}))
    for split, number in (("train", 24), ("val", 20)):
        images = sorted((SHARED / name / "images" / split).iterdir())
        for image in images[:: max(1, len(images) // number)][:number]:
            for kind, file in (("images", image.name), ("annotations", f"{image.stem}.png")):
                (folder / name / kind / split).mkdir(parents=True, exist_ok=True)
                shutil.copy(SHARED / name / kind / split / file, folder / name / kind / split / file)
    return folder / name


DRAWN: Mapping[str, Callable[[Path], str]] = {
    "truncated PNG": truncated,
    "truncated JPEG": truncated_jpeg,
    "empty file": empty,
    "missing label": no_label,
    "label of another size": other_size,
    "un-mapped Cityscapes ids": label_ids,
    "zero label not reduced": zero_not_reduced,
    "zero label reduced twice": reduced_twice,
    "labels moved by a class": moved_by_a_class,
    "labels moved by 8 pixels": moved_in_space,
    "missing tile": missing_tile,
    "swapped splits": swapped,
    "val copied into train": leaked,
    "an image of val in train": renamed_leak,
    "wrong count": too_few,
    "1-bit palette": one_bit_palette,
    "damaged shard": damaged_shard,
}
"""Kind of corruption to what makes it from drawn data and returns the gate's sentence."""

REAL: Mapping[str, Callable[[Path], str]] = {
    "truncated PNG (Cityscapes)": real_truncated,
    "label of another size (ADE20K)": real_other_size,
    "un-mapped ids (Cityscapes)": real_label_ids,
    "zero label reduced twice (ADE20K)": real_reduced_twice,
    "labels moved by a class (CamVid)": real_moved_by_a_class,
    "labels moved by 8 pixels (Dubai)": real_moved_in_space,
}
"""The same from real samples."""


def main() -> int:
    for title, kinds in (("drawn data", DRAWN), ("real samples", REAL if SHARED.is_dir() else {})):
        for kind, make in kinds.items():
            with tempfile.TemporaryDirectory() as scratch:
                sentence = make(Path(scratch)).replace(f"{scratch}/", "")
            print(f"{title}, {kind}\n    {sentence}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
