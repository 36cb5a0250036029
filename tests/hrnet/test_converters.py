"""The converters of Cityscapes, ADE20K, VOC 2012 + Aug and LoveDA on real and on drawn samples, in every form."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hrnet.data.prepare import voc
from hrnet.data.prepare.cityscapes import id_table
from hrnet.data.prepare.run import Prepared, prepare
from hrnet.data.prepare.sources import SOURCES
from hrnet.data.prepare.tree import open_tree
from hrnet.data.shards import open_dataset
from hrnet.data.synthetic import synthesise
from hrnet.errors import DataError

ARCHIVES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cityscapes": {"leftImg8bit_trainvaltest.zip": ("leftImg8bit",), "gtFine_trainvaltest.zip": ("gtFine",)},
    "ade20k": {"ADEChallengeData2016.zip": ("ADEChallengeData2016",)},
    "loveda": {"Train.zip": ("Train",), "Val.zip": ("Val",)},
}


def pack(source: Path, target: Path, dataset: str) -> Path:
    """Put a layout into its official zip archives."""
    target.mkdir()
    for archive, tops in ARCHIVES[dataset].items():
        with zipfile.ZipFile(target / archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(path for top in tops for path in (source / top).rglob("*") if path.is_file()):
                file.write(path, path.relative_to(source))
    return target


def indices(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as picture:
        return np.asarray(picture)


def labels(done: Prepared) -> dict[str, NDArray[np.uint8]]:
    dataset = open_dataset(done.uri)
    samples = [dataset.split(split)[index] for split in dataset.splits for index in range(done.images[split])]
    return {sample.name: sample.label for sample in samples}


def reduced(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The reference's reduce_zero_label."""
    raw = np.where(raw == 0, 255, raw).astype(np.uint8) - 1
    return np.where(raw == 254, 255, raw).astype(np.uint8)


def test_real_cityscapes(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "native/cityscapes/native_256x128"
    done = prepare(source, tmp_path / "p", partial=True)
    stem = "frankfurt/frankfurt_000000_000294"
    expected = indices(source / f"gtFine/val/{stem}_gtFine_labelTrainIds.png")
    np.testing.assert_array_equal(labels(done)[stem], expected)
    values, counts = np.unique(expected, return_counts=True)
    raw = open_dataset(done.uri).manifest["splits"]["val"]["raw_values"]
    assert raw == {str(value): count for value, count in zip(values.tolist(), counts.tolist(), strict=True)}
    packed = pack(source, tmp_path / "zips", "cityscapes")
    assert prepare(packed, tmp_path / "q", partial=True).fingerprint == done.fingerprint
    # Each archive unpacked into a folder of its own, with the label ids alone.
    for top in ("leftImg8bit", "gtFine"):
        shutil.copytree(source / top, tmp_path / "apart" / f"{top}_trainvaltest" / top)
    (tmp_path / f"apart/gtFine_trainvaltest/gtFine/val/{stem}_gtFine_labelTrainIds.png").unlink()
    apart = prepare(tmp_path / "apart", tmp_path / "r", partial=True)
    ids = labels(apart)[stem]
    np.testing.assert_array_equal(ids, id_table()[indices(source / f"gtFine/val/{stem}_gtFine_labelIds.png")])
    # The two files of the sample were made smaller one by one and differ at a few edges.
    assert 0.997 < (ids == expected).mean() < 1
    raw_ids = open_dataset(apart.uri).manifest["splits"]["val"]["raw_values"]
    assert {"7", "26"} <= set(raw_ids)


def test_real_ade20k(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "native/ade20k"
    done = prepare(source, tmp_path / "p", partial=True)
    assert done.images == {"train": 1, "val": 2}
    for name, label in labels(done).items():
        folder = "training" if "train" in name else "validation"
        file = source / f"ADEChallengeData2016/annotations/{folder}/{name}.png"
        np.testing.assert_array_equal(label, reduced(indices(file)))
    packed = pack(source, tmp_path / "zips", "ade20k")
    for form in (packed, packed / "ADEChallengeData2016.zip", source / "ADEChallengeData2016"):
        assert prepare(form, tmp_path / "q", partial=True).fingerprint == done.fingerprint


def test_real_loveda(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "native/loveda"
    done = prepare(source, tmp_path / "p", partial=True)
    places = {"0": "Train/Rural", "1": "Train/Urban", "2": "Val/Rural"}
    found = labels(done)
    assert list(found) == list(places)
    for name, label in found.items():
        np.testing.assert_array_equal(label, reduced(indices(source / places[name] / f"masks_png/{name}.png")))
    packed = pack(source, tmp_path / "zips", "loveda")
    # The test images have no labels; their archive is left aside.
    with zipfile.ZipFile(packed / "Test.zip", "w") as file:
        file.writestr("Test/Rural/images_png/9.png", b"no image")
    assert prepare(packed, tmp_path / "q", partial=True).fingerprint == done.fingerprint
    for name, place in places.items():
        for kind, to in (("images_png", "img_dir"), ("masks_png", "ann_dir")):
            target = tmp_path / "converted" / to / place.partition("/")[0].lower()
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / place / kind / f"{name}.png", target)
    converted = prepare(tmp_path / "converted", tmp_path / "r", partial=True)
    assert (converted.card.name, converted.fingerprint) == ("loveda", done.fingerprint)


def voc_forms(source: Path, target: Path) -> dict[str, Path]:
    """VOC's archive with SBD's, with a folder of PNGs beside it, and converted for mmsegmentation."""

    def wanted(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        made_later = info.name.endswith(("Aug", "aug.txt"))
        return None if made_later else info

    for form in ("with_sbd", "with_pngs"):
        (target / form).mkdir(parents=True)
        with tarfile.open(target / form / "VOCtrainval_11-May-2012.tar", "w") as tar:
            tar.add(source / "VOCdevkit/VOC2012", "VOCdevkit/VOC2012", filter=wanted)
    with tarfile.open(target / "with_sbd" / "benchmark.tgz", "w:gz") as tar:
        tar.add(source / "VOCdevkit/VOCaug/dataset", "benchmark_RELEASE/dataset")
    shutil.copytree(source / "VOCdevkit/VOC2012/SegmentationClassAug", target / "with_pngs" / "SegmentationClassAug")
    shutil.copytree(source / "VOCdevkit/VOC2012", target / "converted" / "VOCdevkit" / "VOC2012")
    return {form: target / form for form in ("with_sbd", "with_pngs", "converted")}


def test_real_voc(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "native/voc2012"
    own, added = (source / "VOCdevkit/VOC2012" / name for name in ("SegmentationClass", "SegmentationClassAug"))
    expected = {
        "2011_000003": own, "2011_000006": own, "2011_000025": added, "2007_000042": own,
    }  # fmt: skip
    prints = set()
    for form, folder in voc_forms(source, tmp_path).items():
        done = prepare(folder, tmp_path / f"p_{form}", partial=True)
        assert (done.card.name, done.images) == ("voc12aug", {"train": 3, "val": 1}), form
        found = labels(done)
        assert list(found) == list(expected), form
        for name, place in expected.items():
            label = indices(place / f"{name}.png")
            if form == "with_sbd" and place == added:
                # SBD's files know no ignored border, which the sample's PNG has.
                label = np.where(label == 255, 0, label)
            np.testing.assert_array_equal(found[name], label, err_msg=f"{form} {name}")
        prints.add(done.fingerprint)
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert len(prints) == 2
    # The label that VOC's own list has is VOC's own, with its ignored border, in SBD or not.
    assert (found["2011_000006"] == 255).any()


def test_sbd_files_hold_what_the_pngs_hold(shared_data: Path) -> None:
    root = shared_data / "native/voc2012/VOCdevkit"
    for name in ("2011_000006", "2011_000025"):
        mat = voc.read_mat((root / f"VOCaug/dataset/cls/{name}.mat").read_bytes(), name)
        png = indices(root / f"VOC2012/SegmentationClassAug/{name}.png")
        np.testing.assert_array_equal(mat, np.where(png == 255, 0, png))
    for broken in (b"", b"MATLAB 5.0" + b"x" * 200, (root / "VOCaug/dataset/cls/2011_000006.mat").read_bytes()[:900]):
        with pytest.raises(DataError, match=r"label x\.mat is damaged or holds no GTcls"):
            voc.read_mat(broken, "x.mat")


def test_the_complete_lists_add_up(shared_data: Path) -> None:
    folder = shared_data / "native/voc2012/full_lists"
    both, val, bordered = (
        (folder / f"{name}.txt").read_text().split() for name in ("trainaug_10582", "val_1449", "has_255_boundary")
    )
    # VOC's own labels are those with an ignored border: 1,464 of train and 1,449 of val.
    train = sorted(set(bordered) - set(val))
    assert (len(train), len(val)) == (1464, 1449)
    sbd = sorted((set(both) - set(train)) | set(train[::2]) | set(val[::3]))
    added = voc.additional(sbd, train, val)
    assert (len(added), len(train) + len(added)) == (9118, 10582)
    assert sorted(train + added) == sorted(both)


@pytest.mark.parametrize("dataset", ["cityscapes", "ade20k", "voc12aug", "loveda"])
def test_drawn_ones_give_the_same_packed_and_unpacked(dataset: str, tmp_path: Path) -> None:
    plain = prepare(synthesise(dataset, tmp_path / "n", train=3, val=2, size=(48, 64)), tmp_path / "p", partial=True)
    source = synthesise(dataset, tmp_path / "z", train=3, val=2, size=(48, 64), archives=True)
    packed = prepare(source, tmp_path, below=True, partial=True)
    assert (packed.uri, packed.fingerprint) == (str(tmp_path / dataset), plain.fingerprint)
    assert plain.images == {"train": 3, "val": 2}
    with pytest.raises(DataError) as caught:
        prepare(source, tmp_path / "other", dataset=dataset)
    said = str(caught.value)
    assert said.startswith(f"{source} holds 3 of {plain.card.train_images} train images and 2 of ")
    assert all(part in said for part in (*SOURCES[dataset].files, *SOURCES[dataset].sites, "--partial"))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["n", "p", "z", dataset])


def test_voc_names_without_files_are_counted(tmp_path: Path) -> None:
    source = synthesise("voc12aug", tmp_path / "n", train=6, val=2, size=(48, 64))
    names = voc.read_names(open_tree(source), "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt")
    (source / f"VOCdevkit/VOC2012/JPEGImages/{names[0]}.jpg").unlink()
    mats = sorted(path for path in source.rglob("*.mat") if path.stem not in names)
    done = prepare(source, tmp_path / "p", partial=True)
    assert (
        f"1 of {len(names)} of ImageSets/Segmentation/train.txt have no image or no label, such as {names[0]}"
        in (done.notes[0])
    )
    assert done.images["train"] == 5
    for mat in mats:
        mat.unlink()
    with pytest.raises(DataError, match="of the additional images have no image or no label"):
        prepare(source, tmp_path / "q", dataset="voc12aug")


def test_loveda_names_must_be_unique(tmp_path: Path) -> None:
    source = synthesise("loveda", tmp_path / "n", train=2, val=1, size=(48, 64))
    (image,) = source.glob("Train/Rural/images_png/0.png")
    (source / "Train/Urban/images_png").mkdir(parents=True, exist_ok=True)
    shutil.copy(image, source / "Train/Urban/images_png/0.png")
    with pytest.raises(DataError, match="have one name; names of LoveDA are unique"):
        prepare(source, tmp_path / "p", partial=True)


def test_two_data_sets_in_one_folder_are_told_apart_by_name(tmp_path: Path) -> None:
    for dataset in ("ade20k", "loveda"):
        synthesise(dataset, tmp_path / "n" / dataset, train=1, val=1, size=(48, 64))
    with pytest.raises(DataError, match="holds the files of ade20k and loveda; say which with --dataset"):
        prepare(tmp_path / "n", tmp_path / "p", partial=True)
    assert prepare(tmp_path / "n", tmp_path / "p", dataset="loveda", partial=True).card.name == "loveda"


def test_palette_labels_of_voc_are_read_as_indices(tmp_path: Path) -> None:
    source = synthesise("voc12aug", tmp_path / "n", train=1, val=1, size=(48, 64))
    (file,) = source.glob("VOCdevkit/VOC2012/SegmentationClass/2009*.png")
    assert cv2.imread(str(file), cv2.IMREAD_UNCHANGED).ndim == 3
    done = prepare(source, tmp_path / "p", partial=True)
    np.testing.assert_array_equal(labels(done)[file.stem], indices(file))


def test_an_archive_in_an_archive_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "Potsdam.zip", "w") as file:
        file.writestr("Potsdam/2_Ortho_RGB.zip", b"x")
    for dataset in (None, "potsdam"):
        with pytest.raises(
            DataError, match=r"Potsdam\.zip!Potsdam/2_Ortho_RGB\.zip is an archive in an archive; unpack"
        ):
            prepare(tmp_path, tmp_path / "p", dataset=dataset)


def test_archives_unpacked_into_folders_of_their_content_s_name(tmp_path: Path) -> None:
    native = synthesise("cityscapes", tmp_path / "native", train=1, val=1, size=(64, 128))
    flat = prepare(native, tmp_path / "p", partial=True)
    for top in ("leftImg8bit", "gtFine"):
        (tmp_path / "deep" / top).mkdir(parents=True)
        (native / top).rename(tmp_path / "deep" / top / top)
    assert prepare(tmp_path / "deep", tmp_path / "q", partial=True).fingerprint == flat.fingerprint


def test_rubbish_of_other_systems_does_not_hide_a_data_set(tmp_path: Path) -> None:
    for folder, value in (("img_dir/val", 9), ("ann_dir/val", 1)):
        (tmp_path / "s" / folder).mkdir(parents=True)
        shape = (8, 8, 3) if value == 9 else (8, 8)
        cv2.imwrite(str(tmp_path / "s" / folder / "2522.png"), np.full(shape, value, np.uint8))
        (tmp_path / "s" / folder / "Thumbs.db").write_bytes(b"x")
        (tmp_path / "s" / folder / "._2522.png").write_bytes(b"x")
    done = prepare(tmp_path / "s", tmp_path / "p", partial=True)
    assert (done.card.name, done.images) == ("loveda", {"val": 1})


def test_lists_without_a_single_image_are_no_partial_data_set(tmp_path: Path) -> None:
    native = synthesise("voc12aug", tmp_path / "native", train=2, val=1)
    for image in native.rglob("*.jpg"):
        image.rename(image.with_suffix(".JPG"))
    with pytest.raises(DataError, match=r"holds no image of Pascal VOC 2012 \+ Aug with its label, .* such as 2"):
        prepare(native, tmp_path / "p", partial=True)
    assert not (tmp_path / "p").exists()


def test_of_several_converted_data_sets_the_one_of_the_name_is_taken(tmp_path: Path) -> None:
    for place, name, value in (("iSAID", "P0000_0_896_0_896", 9), ("potsdam", "2_13_0_0_512_512", 5)):
        suffix = "_instance_color_RGB.png" if place == "iSAID" else ".png"
        for file, shape in ((f"img_dir/val/{name}.png", (8, 8, 3)), (f"ann_dir/val/{name}{suffix}", (8, 8))):
            (tmp_path / "data" / place / file).parent.mkdir(parents=True)
            cv2.imwrite(str(tmp_path / "data" / place / file), np.full(shape, value, np.uint8))
    done = prepare(tmp_path / "data", tmp_path / "p", dataset="potsdam", partial=True)
    assert list(labels(done)) == ["2_13_0_0_512_512"]
