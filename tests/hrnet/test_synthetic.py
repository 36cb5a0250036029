from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from hrnet.data.prepare.run import prepare
from hrnet.data.shards import Sample, open_dataset
from hrnet.data.synthetic import DATASETS, synthesise
from hrnet.data.transforms import normalise
from hrnet.errors import DataError


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_official_file_names(tmp_path: Path) -> None:
    city = set(digests(synthesise("cityscapes", tmp_path / "c", train=1, val=1, size=(32, 64))))
    assert city == {
        "leftImg8bit/train/drawn/drawn_000000_000000_leftImg8bit.png",
        "gtFine/train/drawn/drawn_000000_000000_gtFine_labelIds.png",
        "gtFine/train/drawn/drawn_000000_000000_gtFine_labelTrainIds.png",
        "leftImg8bit/val/drawn/drawn_000001_000000_leftImg8bit.png",
        "gtFine/val/drawn/drawn_000001_000000_gtFine_labelIds.png",
        "gtFine/val/drawn/drawn_000001_000000_gtFine_labelTrainIds.png",
    }
    ade = set(digests(synthesise("ade20k", tmp_path / "a", train=1, val=1, size=(32, 64))))
    assert ade == {
        "ADEChallengeData2016/images/training/ADE_train_00000001.jpg",
        "ADEChallengeData2016/annotations/training/ADE_train_00000001.png",
        "ADEChallengeData2016/images/validation/ADE_val_00000001.jpg",
        "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png",
    }


@pytest.mark.parametrize("dataset", sorted(DATASETS))
def test_everything_is_a_function_of_the_seed(dataset: str, tmp_path: Path) -> None:
    first = digests(synthesise(dataset, tmp_path / "1", train=2, val=1, size=(40, 56), seed=5))
    assert digests(synthesise(dataset, tmp_path / "2", train=2, val=1, size=(40, 56), seed=5)) == first
    assert digests(synthesise(dataset, tmp_path / "1", train=2, val=1, size=(40, 56), seed=5)) == first
    other = digests(synthesise(dataset, tmp_path / "3", train=2, val=1, size=(40, 56), seed=6))
    assert not set(other.values()) & set(first.values())
    assert len(set(first.values())) == len(first)


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no scenes can be drawn for 'citiscapes'; did you mean 'cityscapes'"):
        synthesise("citiscapes", tmp_path)
    with pytest.raises(DataError, match=r"size is 16x64 \(height x width\)"):
        synthesise("cityscapes", tmp_path, size=(16, 64))
    with pytest.raises(DataError, match="0 training and 1 validation"):
        synthesise("cityscapes", tmp_path, train=0, val=1)
    synthesise("ade20k", tmp_path, train=2, val=1, size=(32, 64))
    with pytest.raises(DataError, match=r"holds other images, such as .*ADE_train_00000002"):
        synthesise("ade20k", tmp_path, train=1, val=1, size=(32, 64))


def test_streets_hold_nearly_all_classes(tmp_path: Path) -> None:
    prepare(synthesise("cityscapes", tmp_path / "n", train=12, val=4), tmp_path / "p")
    train = open_dataset(tmp_path / "p").manifest["splits"]["train"]
    assert all(pixels > 0 for pixels in train["class_pixels"])
    assert 0.02 < train["ignored_pixels"] / sum(train["class_pixels"]) < 0.12


def test_ade_images_hold_a_handful_of_classes(tmp_path: Path) -> None:
    prepare(synthesise("ade20k", tmp_path / "n", train=6, val=2), tmp_path / "p")
    split = open_dataset(tmp_path / "p").split("train")
    for sample in map(split.__getitem__, range(6)):
        assert 5 <= len(np.unique(sample.label)) <= 14


def _stack(samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    sizes = torch.tensor([images.shape[1:3]] * len(samples))
    return normalise(images, sizes), torch.from_numpy(np.stack([sample.label for sample in samples])).long()


def test_a_tiny_network_learns_the_streets(tmp_path: Path) -> None:
    prepare(synthesise("cityscapes", tmp_path / "n", train=6, val=2, size=(64, 128)), tmp_path / "p")
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
