"""Drawn data sets for the suite: files in a data set's own layout, and the same prepared.

Drawn scenes hold more noise than photographs. They are smoothed and stored as the data sets store theirs, so that
files are about as large as real ones, and as slow to decode: 2.3 MB for a Cityscapes image, 50 kB for one of ADE20K.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2

from hrnet.data.prepare.run import prepare
from hrnet.data.shards import PreparedDataset, open_dataset
from hrnet.data.synthetic import synthesise

__all__ = ["Scenes", "draw_scenes"]

_SMOOTHING = 1.2
"""Standard deviation of the blur, in pixels."""

_STORED = {".png": (cv2.IMWRITE_PNG_COMPRESSION, 6), ".jpg": (cv2.IMWRITE_JPEG_QUALITY, 85)}
"""End of a file's name to how it is written; 6 is the compression that the files of Cityscapes have."""

_LAYOUT = {
    "cityscapes": (
        "leftImg8bit/train/*/*.png",
        "leftImg8bit",
        "gtFine",
        "_leftImg8bit.png",
        "_gtFine_labelTrainIds.png",
    ),
    "ade20k": ("ADEChallengeData2016/images/training/*.jpg", "images", "annotations", ".jpg", ".png"),
}
"""Data set to where its images are, and what in an image's path is replaced to find its label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenes:
    """A drawn data set."""

    files: tuple[tuple[str, str], ...]
    """Image and label file of each training sample, as the data set names them."""

    prepared: PreparedDataset
    """The same, prepared."""


def draw_scenes(dataset: str, folder: Path, *, images: int, size: tuple[int, int]) -> Scenes:
    """Draw `images` training and as many validation images of (height, width) below a folder, and prepare them."""
    native = folder / "native"
    synthesise(dataset, native, train=images, val=images, size=size, seed=0)
    pattern, *_ = _LAYOUT[dataset]
    pictures = sorted(native.glob(pattern))
    for path in [*pictures, *native.glob(pattern.replace("train", "val").replace("valing", "validation"))]:
        drawn = cv2.imread(str(path))
        assert drawn is not None
        cv2.imwrite(str(path), cv2.GaussianBlur(drawn, (0, 0), _SMOOTHING), _STORED[path.suffix])
    prepare(native, folder / dataset, dataset=dataset, partial=True)
    return Scenes(
        files=tuple((str(path), _label_of(path, dataset)) for path in pictures),
        prepared=open_dataset(folder / dataset),
    )


def _label_of(path: Path, dataset: str) -> str:
    _, images, labels, image_end, label_end = _LAYOUT[dataset]
    parts = [labels if part == images else part for part in path.parts]
    return str(Path(*parts)).removesuffix(image_end) + label_end
