from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from hrnet.data.cards import Card
from hrnet.data.check import Report, check
from hrnet.data.shards import MANIFEST
from hrnet.data.writer import Encoded, encode, write_dataset
from hrnet.errors import DataError

CARD = Card(
    name="three", title="Three", classes=("a", "b", "c"), palette=((0, 0, 0), (9, 9, 9), (5, 5, 5)), val_images=2
)


def sample(name: str, seed: int, values: tuple[int, ...] = (0, 1, 255)) -> Encoded:
    rng = np.random.default_rng(seed)
    image = cv2.imencode(".png", rng.integers(0, 256, (6, 10, 3)).astype(np.uint8))[1].tobytes()
    return encode(name, image, rng.choice(np.array(values, np.uint8), (6, 10)), 3)


def write(folder: Path, train: list[Encoded], val: list[Encoded]) -> Path:
    write_dataset(folder / "three", CARD, {"train": train, "val": val})
    return folder / "three"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return write(
        tmp_path, [sample("x", 0), sample("y", 1), sample("z", 2, (2,))], [sample("v", 3), sample("w", 4, (2,))]
    )


def messages(report: Report, *, fatal: bool) -> list[str]:
    return [finding.message for finding in report.findings if finding.fatal == fatal]


def test_a_good_data_set(good: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    report = check(good, progress=lambda *step: steps.append(step))
    assert report.ok
    assert report.findings == []
    assert steps[-1] == (5, 5, "val w")
    train = report.splits["train"]
    assert (train.images, train.complete, report.splits["val"].complete) == (3, None, 2)
    assert sum(train.class_shares.values()) == pytest.approx(1.0)
    assert train.class_shares["c"] == pytest.approx(60 / (180 - train.ignored_share * 180))
    assert json.loads(json.dumps(report.to_dict()))["ok"] is True


@pytest.mark.parametrize("quick", [False, True])
def test_damaged_files_are_found(good: Path, quick: bool) -> None:
    file = good / "val-00000.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:200] + b"?" + whole[201:])
    report = check(good, quick=quick)
    assert not report.ok
    found = [(finding.where, finding.message) for finding in report.findings if finding.fatal]
    assert found[0] == (str(file), "does not have the hash of the manifest; prepare the data set again")
    if quick:
        assert len(found) == 1
    else:
        where = f"the image of val sample 'v' (number 0 of {good})"
        broken = f"{where} cannot be decoded; prepare the data set again"
        assert found[1:] == [("val-00000.parquet of val", broken)]
    file.write_bytes(whole[:-1])
    assert messages(check(good, quick=quick), fatal=True) == [
        f"has {len(whole) - 1} bytes instead of {len(whole)}; prepare the data set again"
    ]
    file.unlink()
    assert "cannot be read (No such file" in messages(check(good, quick=quick), fatal=True)[0]


def test_quick_looks_at_no_sample(tmp_path: Path) -> None:
    folder = write(tmp_path, [encode("bad", b"broken", np.zeros((6, 10), np.uint8), 3)], [sample("v", 1)])
    assert check(folder, quick=True).ok
    report = check(folder)
    assert not report.ok
    assert any(
        "sample 'bad'" in message and "cannot be decoded" in message for message in messages(report, fatal=True)
    )


def test_labels_outside_the_classes_are_found(tmp_path: Path) -> None:
    folder = write(tmp_path, [sample("x", 0, (0, 1, 2, 7))], [sample("v", 1)])
    report = check(folder)
    found = [(finding.where, finding.message) for finding in report.findings if finding.fatal]
    assert found == [("train x", "the label holds the value 7, outside the 3 classes; prepare the data set again")]


def test_size_mismatch_is_found(tmp_path: Path) -> None:
    wrong = encode("x", sample("x", 0).image, np.zeros((6, 11), np.uint8), 3)
    found = messages(check(write(tmp_path, [wrong], [sample("v", 1)])), fatal=True)
    assert any("has an image of 10x6 but a label of 11x6" in message for message in found)


def test_manifest_that_does_not_fit_is_found(good: Path) -> None:
    manifest = json.loads((good / MANIFEST).read_text())
    manifest["splits"]["train"]["class_pixels"][0] += 1
    manifest["fingerprint"] = "0" * 64
    (good / MANIFEST).write_text(json.dumps(manifest))
    found = messages(check(good), fatal=True)
    assert len(found) == 2
    assert "class counts of train are not those" in found[0]
    assert "do not have the fingerprint" in found[1]


def test_duplicates_absent_classes_and_counts_are_told(tmp_path: Path) -> None:
    folder = write(tmp_path, [sample("x", 0), sample("y", 1), sample("again", 1)], [sample("leak", 0)])
    report = check(folder)
    assert report.ok
    assert [(finding.where, finding.message) for finding in report.findings] == [
        ("val", "1 of 2 images of Three: 1 missing; results are not comparable"),
        ("train", "1 class without a pixel: c"),
        ("val", "1 class without a pixel: c"),
        ("train x, val leak", "the same image is in several splits (2 times)"),
        ("train y, train again", "the same image occurs more than once (2 times)"),
    ]
    assert report.splits["train"].absent == ["c"]


def test_no_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no prepared data set"):
        check(tmp_path)
