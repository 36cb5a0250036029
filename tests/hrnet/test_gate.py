from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hrnet.data.alignment import edge_map, offset_finding
from hrnet.data.cards import Card, card, cards
from hrnet.data.check import check
from hrnet.data.finding import Finding
from hrnet.data.gate import explain_value, manifest_findings, name_findings
from hrnet.data.prepare.run import prepare
from hrnet.data.shares import expected_shares
from hrnet.data.stamps import hash_of
from hrnet.data.tiles import PICTURES, missing
from hrnet.data.writer import partial_counts
from hrnet.errors import DataError
from tests.hrnet.corruptions import DRAWN, REAL, own, potsdam_names, real_part, rename_city, rooms, street, tiles

SAID = {
    "truncated PNG": r"^prepare: image .*/drawn_000000_000000_leftImg8bit\.png is truncated, damaged or no image",
    "truncated JPEG": r"^prepare: image .*/ADE_val_00000001\.jpg is truncated, damaged or no image",
    "empty file": r"^prepare: .*/drawn_000001_000000_gtFine_labelTrainIds\.png is empty \(0 bytes\)",
    "missing label": r"^prepare: image .*/ADE_train_00000001\.jpg has no label; looked for .*/ADE_train_00000001\.png",
    "label of another size": r"^prepare: image .* is 64x32 but its label .*labelTrainIds\.png is 56x32",
    "un-mapped Cityscapes ids": r"^prepare: label .*labelTrainIds\.png holds the value 2\d in .* these are labelIds",
    "zero label not reduced": r"^prepare: label .*/annotations/.*\.png holds the value 19 .*set reduce_zero",
    "zero label reduced twice": r"^prepare: .*native is wrong.*train, val: .*hold 255 .* never 150 \('flag'\): ",
    "labels moved by a class": r"^prepare: .*own is wrong.*val: .*those of train.*every label raised by one: .*low",
    "labels moved by 8 pixels": r"^check: train: the labels lie 8 pixels right of their images .* 8 of 8 images",
    "missing tile": r"^prepare: .*holds 143 of 3456 .*grid: 2_10_512_1024_1024_1536\.png; ",
    "swapped splits": r"^prepare: .*train ADE_val_00000001: 2 of 2 .*: the folders of train and val are swapped",
    "val copied into train": r"^prepare: .*val drawn/drawn_000001_000000: 2 names both in train and in val",
    "an image of val in train": r"^check: train drawn/.*, val drawn/.*: the same image is in several splits",
    "wrong count": r"^prepare: .* holds 2 of 2975 train images and 2 of 500 val images of Cityscapes; ",
    "1-bit palette": r"^prepare: .*train, val: no label of 24 images holds any class but 0 and 1: .*1-bit palette",
    "damaged shard": r"^check: .*train-00000\.parquet: does not have the hash .* sample 'drawn/drawn_000000_000000'",
    "truncated PNG (Cityscapes)": r"^prepare: image .*/frankfurt_000000_000294_leftImg8bit\.png is truncated",
    "label of another size (ADE20K)": r"ADE_train_00000001\.jpg is 683x512 but its label .*_00000001\.png is 683x507",
    "un-mapped ids (Cityscapes)": r"frankfurt_000000_000294_gtFine_labelTrainIds\.png holds the value 20 in .*Ids",
    "zero label reduced twice (ADE20K)": r"^prepare: .*train, val: the label files hold 255 in 9\.8.% .*already",
    "labels moved by a class (CamVid)": r"^prepare: .*val: .* with every label raised by one",
    "labels moved by 8 pixels (Dubai)": r"^check: train: the labels lie 8 pixels right .*; val: the labels lie 8 pi",
}


@pytest.mark.parametrize("kind", DRAWN)
def test_each_corruption_is_found_and_named(kind: str, tmp_path: Path) -> None:
    assert re.search(SAID[kind], DRAWN[kind](tmp_path))


@pytest.mark.parametrize("kind", REAL)
def test_each_corruption_of_real_samples_is_found(kind: str, tmp_path: Path, shared_data: Path) -> None:
    assert re.search(SAID[kind], REAL[kind](tmp_path))


@pytest.mark.parametrize("name", ["camvid", "dubai"])
def test_real_data_as_they_are_pass(name: str, tmp_path: Path, shared_data: Path) -> None:
    prepare(real_part(name, tmp_path), tmp_path / "prepared")
    assert [finding for finding in check(tmp_path / "prepared").findings if finding.kind != "absent"] == []


@pytest.mark.parametrize("draw", [street, rooms, own])
def test_drawn_data_pass(draw: Any, tmp_path: Path) -> None:
    prepare(draw(tmp_path, train=10, val=9, size=(96, 192)), tmp_path / "prepared", partial=True)
    report = check(tmp_path / "prepared")
    assert report.ok
    assert {finding.kind for finding in report.findings} <= {"count", "absent"}


def test_what_the_gate_refuses_can_be_forced_but_not_launched(tmp_path: Path) -> None:
    native = rename_city(street(tmp_path), "train", "frankfurt")
    with pytest.raises(DataError, match="belong to val by their names"):
        prepare(native, tmp_path / "prepared", partial=True)
    done = prepare(native, tmp_path / "prepared", partial=True, force=True)
    assert any("belong to val by their names" in note for note in done.notes)
    report = check(tmp_path / "prepared", quick=True)
    assert [finding.kind for finding in report.findings if finding.fatal] == ["swap"]


def manifest(of: Card, pixels: Mapping[str, Sequence[int]], **images: int) -> dict[str, Any]:
    counts = {split: images.get(split, of.images[split] or 0) for split in pixels}
    return {
        "splits": {
            split: {"images": counts[split], "class_pixels": list(values), "ignored_pixels": 0}
            for split, values in pixels.items()
        },
        "partial": partial_counts(of, counts),
    }


def flat(of: Card, **images: int) -> dict[str, Any]:
    return manifest(of, {"train": [9] * of.num_classes, "val": [9] * of.num_classes}, **images)


def published_pixels(of: Card) -> list[int]:
    shares = expected_shares(of)
    assert shares is not None
    return [round(share * 1e9) for share in shares.values()]


def found(findings: Sequence[Finding], kind: str) -> list[tuple[str, str, bool]]:
    return [(each.where, each.message, each.fatal) for each in findings if each.kind == kind]


@pytest.mark.parametrize("name", [name for name in cards() if name not in ("cityscapes", "ade20k")])
def test_a_complete_set_says_nothing(name: str) -> None:
    assert manifest_findings(card(name), flat(card(name)), {"train": ["a"], "val": ["b"]}) == []


@pytest.mark.parametrize("name", ["cityscapes", "ade20k"])
def test_published_shares_fit_themselves_and_not_moved_ones(name: str) -> None:
    of = card(name)
    right = published_pixels(of)
    assert len(right) == of.num_classes
    assert manifest_findings(of, manifest(of, {"train": right, "val": right}), {}) == []
    for moved, word in (([0, *right[:-1]], "lowered"), ([*right[1:], 0], "raised")):
        wrong = found(manifest_findings(of, manifest(of, {"train": moved, "val": moved}), {}), "shift")
        assert [(where, fatal) for where, _, fatal in wrong] == [("train", True), ("val", True)]
        assert f"the published ones as they are, but only 1.0 times with every label {word} by one" in wrong[0][1]


def test_few_images_make_a_note_of_moved_shares() -> None:
    of = card("cityscapes")
    moved = [*published_pixels(of)[1:], 0]
    [(where, message, fatal)] = found(manifest_findings(of, manifest(of, {"train": moved}, train=19), {}), "shift")
    assert (where, fatal) == ("train", False)
    assert message.endswith("(seen on 19 images only, so perhaps by chance)")


def test_own_data_whose_val_shows_other_things_are_not_refused() -> None:
    own_card = replace(card("potsdam"), name="own", inherits="potsdam")
    pixels = {"train": [90, 5, 2, 1, 1, 1], "val": [5, 90, 2, 1, 1, 1]}
    [(where, message, fatal)] = found(manifest_findings(own_card, manifest(own_card, pixels), {}), "shift")
    assert (where, fatal) == ("val", False)
    assert message.endswith("(or val shows other things: one class has 90% of train)")
    # Nothing excuses a published data set, nor shares that are spread over the classes.
    assert found(manifest_findings(card("potsdam"), manifest(card("potsdam"), pixels), {}), "shift")[0][2]
    spread = {"train": [40, 25, 16, 10, 6, 3], "val": [1, 40, 25, 16, 10, 6]}
    assert found(manifest_findings(own_card, manifest(own_card, spread), {}), "shift")[0][2]


def test_counts() -> None:
    of = card("potsdam")
    findings = manifest_findings(of, flat(of, train=3455, val=2020), {})
    assert found(findings, "count") == [
        ("train", "3455 of 3456 images of Potsdam: 1 missing; results are not comparable", False),
        (
            "val",
            "2020 of 2016 images of Potsdam: 4 too many, so another split or other images are among them; "
            "results are not comparable",
            False,
        ),
    ]
    [(_, message, fatal)] = found(manifest_findings(of, flat(of, train=2016, val=3456), {}), "swap")
    assert message.startswith("train has the 2016 images of val, and val the 3456 of train: they are swapped")
    assert fatal


@pytest.mark.parametrize(
    ("dataset", "train", "val", "where"),
    [
        ("cityscapes", ["aachen/aachen_000000_000019"], ["ulm/ulm_000000_000019"], "val ulm/ulm_000000_000019"),
        ("cityscapes", ["berlin/berlin_000000_000019"], [], "train berlin/berlin_000000_000019"),
        ("potsdam", ["2_13_0_0_512_512"], [], "train 2_13_0_0_512_512"),
        ("vaihingen", [], ["area1_0_0_512_512"], "val area1_0_0_512_512"),
    ],
)
def test_names_tell_the_split(dataset: str, train: list[str], val: list[str], where: str) -> None:
    swaps = found(name_findings(card(dataset), {}, {"train": train, "val": val}), "swap")
    assert [(place, fatal) for place, _, fatal in swaps] == [(where, True)]
    assert "by their names" in swaps[0][1]


def test_tiles_of_one_picture_in_both_splits() -> None:
    names = {"train": ["P0001_0_896_0_896"], "val": ["P0001_0_896_512_1408", "P0002_0_896_0_896"]}
    [(where, message, fatal)] = found(name_findings(card("isaid"), {}, names), "leak")
    assert (where, fatal) == ("val P0001", True)
    assert message == "tiles of 1 picture both in train and in val (P0001): val measures nothing"
    own_card = replace(card("isaid"), name="own", inherits="isaid")
    assert name_findings(own_card, {}, {"train": ["0001"], "val": ["0001"]}) == []


def isaid_names(picture: str, height: int, width: int) -> list[str]:
    tops, lefts = ({max(0, min(at, length - 896)) for at in range(0, length, 512)} for length in (height, width))
    return [f"{picture}_{y}_{y + 896}_{x}_{x + 896}" for y in sorted(tops) for x in sorted(lefts)]


def test_whole_grids_lack_nothing() -> None:
    whole = [name for picture in PICTURES["potsdam"]["train"] for name in potsdam_names(picture)]
    assert len(whole) == 3456
    assert list(missing("potsdam", {"train": whole})) == []
    parts = [*isaid_names("P0000", 2000, 1500), *isaid_names("P0001", 896, 4000), *isaid_names("P0002", 600, 600)]
    assert list(missing("isaid", {"train": parts})) == []
    assert list(missing("cityscapes", {"train": ["aachen/aachen_000000_000019_leftImg8bit"]})) == []


def test_missing_tiles_and_pictures_are_named() -> None:
    parts = isaid_names("P0000", 2000, 1500)
    parts.remove("P0000_512_1408_512_1408")
    [hole] = missing("isaid", {"val": parts})
    assert (hole.kind, hole.where, hole.fatal) == ("tile", "val P0000_512_1408_512_1408", False)
    assert hole.message.startswith("1 tile of 1 picture missing from the grid: P0000_512_1408_512_1408.png; ")
    # The last column of one picture is missing; the others show how wide a picture of Potsdam is.
    kept = [name for name in potsdam_names("2_10") if not name.endswith(("6000_512", "6000_1024"))]
    pictures = [*kept, *potsdam_names("2_11"), *potsdam_names("2_12")]
    holes, gone = missing("potsdam", {"train": pictures})
    assert "2 tiles of 1 picture missing from the grid: 2_10_5488_0_6000_512.png, 2_10_5488_512_6000_1024" in (
        holes.message
    )
    assert gone.message == "no tile of 21 pictures of the published list is there: 3_10, 3_11, 3_12, 4_10 and 17 more"


def test_a_class_without_pixels_is_fatal_in_a_complete_published_train() -> None:
    of = card("voc12aug")
    values = [9] * 20 + [0]
    whole = found(manifest_findings(of, manifest(of, {"train": values, "val": values}), {}), "absent")
    assert [(where, fatal) for where, _, fatal in whole] == [("train", True), ("val", False)]
    assert whole[0][1].startswith("1 class without a pixel: tvmonitor; every class of Pascal VOC")
    part = found(manifest_findings(of, manifest(of, {"train": values}, train=99), {}), "absent")
    assert [fatal for _, _, fatal in part] == [False]


def test_causes_of_a_value() -> None:
    assert "labelIds" in explain_value(card("cityscapes"), 26)
    assert "set reduce_zero_label to true" in explain_value(card("voc12aug"), 21)
    assert (
        explain_value(card("ade20k"), 151) == "mend the label or the card (classes, ignore_index, reduce_zero_label)"
    )


def discs(seed: int) -> tuple[Any, Any]:
    """A picture of grey discs with noise, and its label."""
    rng = np.random.default_rng(seed)
    label = np.zeros((160, 200), np.uint8)
    for value in range(1, 6):
        centre = (int(rng.integers(40, 160)), int(rng.integers(40, 120)))
        cv2.circle(label, centre, int(rng.integers(20, 40)), value, -1)
    noise = rng.normal(0, 6, (160, 200, 3))
    return np.clip(label[..., None] * 40.0 + noise, 0, 255).astype(np.uint8), label


@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, 0), (4, 0), (-8, 0), (0, 16), (5, -4)])
def test_offsets_are_measured(right: int, down: int) -> None:
    maps = []
    for seed in range(8):
        image, label = discs(seed)
        found = edge_map(image, np.roll(label, (down, right), axis=(0, 1)))
        assert found is not None
        maps.append(found)
    told = offset_finding("train", maps)
    if max(abs(right), abs(down)) < 4:
        assert told is None
        return
    assert told is not None
    assert told.fatal
    ways = [f"{abs(n)} pixels {way}" for n, way in ((right, "right" if right > 0 else "left"), (down, "below")) if n]
    for way in ways:
        assert way.replace("below", "below" if down > 0 else "above") in told.message
    few = offset_finding("train", maps[:5])
    assert few is not None
    assert not few.fatal
    assert offset_finding("train", maps[:3]) is None


@pytest.mark.parametrize("thick", [3, 6])
@pytest.mark.parametrize("offset", [0, 8])
def test_void_borders_are_no_offset(thick: int, offset: int) -> None:
    maps = []
    for seed in range(8):
        image, label = discs(seed)
        edges = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        border = cv2.dilate(edges.astype(np.uint8), np.ones((2 * thick - 3, 2 * thick - 3), np.uint8)) > 0
        found = edge_map(image, np.roll(np.where(border, 255, label).astype(np.uint8), offset, axis=1))
        assert found is not None
        maps.append(found)
    told = offset_finding("train", maps)
    assert (told is None) == (offset == 0)
    assert told is None or "8 pixels right of their images" in told.message


def test_offsets_need_edges_and_boundaries() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (160, 200, 3)).astype(np.uint8)
    label = np.zeros((160, 200), np.uint8)
    label[:, 100:] = 1
    assert edge_map(noise, np.zeros((160, 200), np.uint8)) is None
    assert edge_map(np.full((160, 200, 3), 7, np.uint8), label) is None
    assert edge_map(noise[:60], label[:60]) is None


def test_hashes_are_remembered_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRGRID_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "file"
    file.write_bytes(b"one")
    first = hash_of(file)
    [stamp] = (tmp_path / "cache" / "hashes").iterdir()
    # What another process left there is believed as long as the file is the same, and asking anew does not ask it.
    stamp.write_text(stamp.read_text().replace(first, "f" * 64))
    from hrnet.data.stamps import _remembered

    _remembered.cache_clear()
    assert hash_of(file) == "f" * 64
    assert hash_of(file, anew=True) == first
    _remembered.cache_clear()
    assert hash_of(file) == first
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hash_of(file) != first
    monkeypatch.setenv("HRGRID_CACHE", str(file))
    _remembered.cache_clear()
    assert hash_of(tmp_path / "file") == hash_of(file, anew=True)


def test_a_partial_set_of_tiles_is_told_and_marked(tmp_path: Path) -> None:
    tiles(tmp_path, "vaihingen", ["area1_0_0_512_512", "area1_512_512_1024_1024"], ["area2_0_0_512_512"])
    done = prepare(tmp_path / "vaihingen", tmp_path / "prepared", dataset="vaihingen", partial=True)
    assert any("2 tiles of 1 picture missing from the grid: area1_0_512_512_1024.png" in note for note in done.notes)
    report = check(tmp_path / "prepared")
    assert report.ok
    assert report.partial == ("2 of 344 train images of Vaihingen", "1 of 398 val images of Vaihingen")
    assert report.to_dict()["comparable"] is False
