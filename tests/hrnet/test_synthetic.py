from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional

from hrnet.data.cards import card
from hrnet.data.prepare.run import prepare
from hrnet.data.shards import Sample, open_dataset
from hrnet.data.synthetic import DATASETS, synthesise
from hrnet.data.transforms import normalise
from hrnet.errors import DataError

LAYOUTS = {
    "cityscapes": [
        f"{kind}/{split}/drawn/drawn_{number}_000000_{end}"
        for split, number in (("train", "000000"), ("val", "000001"))
        for kind, end in (
            ("leftImg8bit", "leftImg8bit.png"), ("gtFine", "gtFine_labelIds.png"),
            ("gtFine", "gtFine_labelTrainIds.png"), ("gtFine", "gtFine_polygons.json"),
        )
    ],
    "ade20k": [
        f"ADEChallengeData2016/{path}"
        for path in (
            "images/training/ADE_train_00000001.jpg", "annotations/training/ADE_train_00000001.png",
            "images/validation/ADE_val_00000001.jpg", "annotations/validation/ADE_val_00000001.png",
        )
    ],
    "voc12aug": [
        *(f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg" for name in ("2007_000001", "2009_000001")),
        *(f"VOCdevkit/VOC2012/SegmentationClass/{name}.png" for name in ("2007_000001", "2009_000001")),
        *(f"VOCdevkit/VOC2012/ImageSets/Segmentation/{name}.txt" for name in ("train", "val", "trainval")),
        *(f"benchmark_RELEASE/dataset/img/{name}.jpg" for name in ("2007_000001", "2009_000001")),
        *(f"benchmark_RELEASE/dataset/cls/{name}.mat" for name in ("2007_000001", "2009_000001")),
        *(f"benchmark_RELEASE/dataset/{name}.txt" for name in ("train", "val")),
    ],
    "loveda": [
        "Train/Rural/images_png/0.png", "Train/Rural/masks_png/0.png",
        "Val/Rural/images_png/1.png", "Val/Rural/masks_png/1.png",
    ],
    "potsdam": [
        "2_Ortho_RGB/top_potsdam_2_10_RGB.tif", "5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif",
        "2_Ortho_RGB/top_potsdam_5_15_RGB.tif", "5_Labels_all_noBoundary/top_potsdam_5_15_label_noBoundary.tif",
    ],
    "vaihingen": [
        "top/top_mosaic_09cm_area1.tif", "gts_eroded/top_mosaic_09cm_area1_noBoundary.tif",
        "top/top_mosaic_09cm_area6.tif", "gts_eroded/top_mosaic_09cm_area6_noBoundary.tif",
    ],
    "isaid": [
        "train/images/P0000.png", "train/images/P0000_instance_color_RGB.png",
        "val/images/P0001.png", "val/images/P0001_instance_color_RGB.png",
    ],
}  # fmt: skip
LAYOUTS["pascal-context"] = LAYOUTS["pascal-context-59"] = [
    f"VOCdevkit/VOC2010/{path}"
    for split, name in (("train", "2008_000001"), ("val", "2009_000001"))
    for path in (
        f"JPEGImages/{name}.jpg", f"SegmentationClassContext/{name}.png",
        f"ImageSets/SegmentationContext/{split}.txt",
    )
]  # fmt: skip
SAFELY: dict[str, dict[str, str]] = {".tar": {"filter": "data"}, ".tgz": {"filter": "data"}}


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def small(dataset: str, folder: Path, **options: Any) -> Path:
    """Draw at the smallest size that the layout allows."""
    side = DATASETS[dataset].smallest
    return synthesise(dataset, folder, size=(max(side, 40), max(side, 56)), **options)


@pytest.mark.parametrize("dataset", DATASETS)
def test_official_file_names(dataset: str, tmp_path: Path) -> None:
    assert set(digests(small(dataset, tmp_path, train=1, val=1))) == set(LAYOUTS[dataset])


@pytest.mark.parametrize("dataset", DATASETS)
def test_everything_is_a_function_of_the_seed(dataset: str, tmp_path: Path) -> None:
    first = digests(small(dataset, tmp_path / "1", train=2, val=1, seed=5))
    assert digests(small(dataset, tmp_path / "2", train=2, val=1, seed=5)) == first
    assert digests(small(dataset, tmp_path / "1", train=2, val=1, seed=5)) == first
    other = digests(small(dataset, tmp_path / "3", train=2, val=1, seed=6))
    assert set(other) == set(first)
    images = [path for path in first if path.endswith((".png", ".jpg", ".tif"))]
    assert not {other[path] for path in images} & {first[path] for path in images}
    # SBD holds copies of Pascal VOC's images.
    assert len({first[path] for path in images if "benchmark" not in path}) == len(
        [path for path in images if "benchmark" not in path]
    )


@pytest.mark.parametrize("dataset", DATASETS)
def test_archives_hold_the_same_files_and_are_a_function_of_the_seed(dataset: str, tmp_path: Path) -> None:
    plain = digests(small(dataset, tmp_path / "plain", train=2, val=2))
    packed = digests(small(dataset, tmp_path / "packed", train=2, val=2, archives=True))
    assert digests(small(dataset, tmp_path / "again", train=2, val=2, archives=True)) == packed
    names = {archive.name for archive in DATASETS[dataset].archives}
    assert names
    assert names <= set(packed)
    for archive in DATASETS[dataset].archives:
        target = tmp_path / "unpacked" / archive.below
        shutil.unpack_archive(tmp_path / "packed" / archive.name, target, **SAFELY.get(Path(archive.name).suffix, {}))
    loose = {path: value for path, value in packed.items() if path not in names}
    assert digests(tmp_path / "unpacked") | loose == plain


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no scenes can be drawn for 'citiscapes'; did you mean 'cityscapes'"):
        synthesise("citiscapes", tmp_path)
    with pytest.raises(DataError, match=r"size is 16x64 \(height x width\)"):
        synthesise("cityscapes", tmp_path, size=(16, 64))
    with pytest.raises(DataError, match="0 training and 1 validation"):
        synthesise("cityscapes", tmp_path, train=0, val=1)
    with pytest.raises(DataError, match="scenes of potsdam need at least 512 pixels"):
        synthesise("potsdam", tmp_path, size=(511, 600))
    with pytest.raises(DataError, match="15 val images were asked for, but potsdam has 14 parts"):
        synthesise("potsdam", tmp_path, val=15)
    assert not list(tmp_path.iterdir())
    synthesise("ade20k", tmp_path, train=2, val=1, size=(32, 64))
    with pytest.raises(DataError, match=r"holds other images, such as .*ADE_train_00000002"):
        synthesise("ade20k", tmp_path, train=1, val=1, size=(32, 64))


def test_streets_hold_nearly_all_classes(tmp_path: Path) -> None:
    prepare(synthesise("cityscapes", tmp_path / "n", train=12, val=4), tmp_path / "p", partial=True)
    train = open_dataset(tmp_path / "p").manifest["splits"]["train"]
    assert all(pixels > 0 for pixels in train["class_pixels"])
    assert 0.02 < train["ignored_pixels"] / sum(train["class_pixels"]) < 0.12


def test_ade_images_hold_a_handful_of_classes(tmp_path: Path) -> None:
    prepare(synthesise("ade20k", tmp_path / "n", train=6, val=2), tmp_path / "p", partial=True)
    split = open_dataset(tmp_path / "p").split("train")
    for sample in map(split.__getitem__, range(6)):
        assert 5 <= len(np.unique(sample.label)) <= 14


def _stack(samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    sizes = torch.tensor([images.shape[1:3]] * len(samples))
    return normalise(images, sizes), torch.from_numpy(np.stack([sample.label for sample in samples])).long()


def test_a_tiny_network_learns_the_streets(tmp_path: Path) -> None:
    prepare(synthesise("cityscapes", tmp_path / "n", train=6, val=2, size=(64, 128)), tmp_path / "p", partial=True)
    dataset = open_dataset(tmp_path / "p")
    train, val = dataset.split("train"), dataset.split("val")
    images, labels = _stack([train[index] for index in range(6)])
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 19, 3, padding=1)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels, ignore_index=255).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    images, labels = _stack([val[index] for index in range(2)])
    with torch.no_grad():
        predicted = network.eval()(images).argmax(1)
    counted = labels != 255
    accuracy = float((predicted == labels)[counted].float().mean())
    most_common = float(torch.bincount(labels[counted]).max() / counted.sum())
    assert accuracy > most_common + 0.25


def raw(path: Path) -> NDArray[np.uint8]:
    """The values of a label file, palette indices included."""
    with Image.open(path) as picture:
        return np.asarray(picture)


def drawn(dataset: str, folder: Path) -> Path:
    return synthesise(dataset, folder, train=8, val=4, seed=1)


def test_voc_lists_and_annotations_are_as_in_the_originals(tmp_path: Path) -> None:
    root = drawn("voc12aug", tmp_path)
    lists, sbd = root / "VOCdevkit/VOC2012/ImageSets/Segmentation", root / "benchmark_RELEASE/dataset"
    train, val, both = ((lists / f"{name}.txt").read_text().split() for name in ("train", "val", "trainval"))
    added = [name for split in ("train", "val") for name in (sbd / f"{split}.txt").read_text().split()]
    assert (len(train), len(val), len(set(train) | set(added) - set(val))) == (4, 4, 8)
    assert both == sorted(train + val)
    assert set(added) & set(val)
    label = raw(root / f"VOCdevkit/VOC2012/SegmentationClass/{train[0]}.png")
    inside = scipy.io.loadmat(sbd / f"cls/{train[0]}.mat")["GTcls"]["Segmentation"][0, 0]
    assert inside.dtype == np.uint8
    assert 255 in label
    assert 255 not in inside
    assert (label == inside)[label != 255].all()
    assert len(np.unique(inside)) == 4


def test_labels_hold_the_values_of_the_originals(tmp_path: Path) -> None:
    loveda = drawn("loveda", tmp_path / "loveda")
    assert {int(v) for path in loveda.rglob("masks_png/*") for v in np.unique(raw(path))} == set(range(8))
    context = drawn("pascal-context", tmp_path / "context")
    labels = [np.unique(raw(path)) for path in sorted(context.rglob("SegmentationClassContext/*"))]
    assert all(0 in values and len(values) >= 5 for values in labels)
    assert set(np.concatenate(labels).tolist()) <= set(range(60))


@pytest.mark.parametrize(
    ("dataset", "label"), [("potsdam", "*_noBoundary.tif"), ("isaid", "*_instance_color_RGB.png")]
)
def test_colour_labels_hold_exactly_the_palette(dataset: str, label: str, tmp_path: Path) -> None:
    root = small(dataset, tmp_path, train=3, val=1)
    colours = {
        tuple(map(int, colour))
        for path in root.rglob(label)
        for colour in set(map(bytes, raw(path)[::3].reshape(-1, 3)))
    }
    assert colours == {*card(dataset).palette, (0, 0, 0)}


@pytest.mark.parametrize("dataset", DATASETS)
def test_prepared_classes_have_the_colours_they_were_painted_with(dataset: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"train": 2, "val": 2, "seed": 2}
    done = prepare(
        synthesise(dataset, tmp_path / "plain", **options), tmp_path / "1", dataset=dataset, partial=True, workers=1
    )
    packed = synthesise(dataset, tmp_path / "packed", archives=True, **options)
    assert prepare(packed, tmp_path / "2", dataset=dataset, partial=True, workers=1).fingerprint == done.fingerprint
    assert min(done.images.values()) >= 2
    split = open_dataset(tmp_path / "1").split("train")
    painted = 35 + 0.75 * np.array(card(dataset).palette)[:, ::-1]
    for sample in (split[0], split[1]):
        values, counts = np.unique(sample.label, return_counts=True)
        classes = [value for value, count in zip(values, counts, strict=True) if value < 255 and count >= 60]
        assert len(classes) >= 3
        seen = np.stack([sample.image[sample.label == value].mean(axis=0) for value in classes])
        light = (seen * painted[classes]).sum() / (painted[classes] ** 2).sum()
        assert np.abs(seen - light * painted[classes]).max() < 45
