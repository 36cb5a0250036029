from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hrnet.data.cards import Card, load_card
from hrnet.data.prepare.cityscapes import id_table, polygon_values
from hrnet.data.prepare.labels import label_table
from hrnet.data.prepare.polygons import draw
from hrnet.data.prepare.recognise import recognise
from hrnet.data.prepare.run import prepare
from hrnet.data.prepare.tree import open_tree
from hrnet.data.shards import open_dataset
from hrnet.data.synthetic import synthesise
from hrnet.errors import DataError

CARD = (
    "name: fields\ntitle: Fields\nclasses: [crop, weed, soil]\nignore_index: 9\nimage_suffix: .png\ntrain_images: 3\n"
)


def make_folder(root: Path, *, card: str = CARD, train: int = 3, val: int = 2) -> Path:
    """A custom data set of 12x16 images; values 0..2 and 9 = ignored."""
    root.mkdir(parents=True)
    (root / "card.yaml").write_text(card)
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            name = f"{split}{index}.png"
            label = rng.integers(0, 3, (12, 16)).astype(np.uint8)
            label[0] = 9
            cv2.imwrite(str(root / "images" / split / name), rng.integers(0, 256, (12, 16, 3)).astype(np.uint8))
            cv2.imwrite(str(root / "annotations" / split / name), label)
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "source")


def test_custom_folder(folder: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    done = prepare(folder, tmp_path / "out", progress=lambda *step: steps.append(step))
    assert (done.images, done.skipped, done.notes) == ({"train": 3, "val": 2}, False, ())
    assert [step[:2] for step in steps] == [(number, 5) for number in range(1, 6)]
    dataset = open_dataset(tmp_path / "out")
    assert dataset.card == load_card(folder)
    assert dataset.partial == ()
    sample = dataset.split("train")[1]
    raw = cv2.imread(str(folder / "annotations/train/train1.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(sample.label, np.where(raw == 9, 255, raw))
    np.testing.assert_array_equal(sample.image, cv2.imread(str(folder / "images/train/train1.png")))
    assert dataset.manifest["splits"]["train"]["ignored_pixels"] == 3 * 16


def test_again_is_skipped_and_forced_gives_the_same_fingerprint(folder: Path, tmp_path: Path) -> None:
    first = prepare(folder, tmp_path / "out")
    manifest = (tmp_path / "out" / "manifest.json").read_bytes()
    assert prepare(folder, tmp_path / "out").skipped
    forced = prepare(folder, tmp_path / "out", force=True, workers=1)
    assert (forced.skipped, forced.fingerprint) == (False, first.fingerprint)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == manifest
    shutil.copytree(folder, tmp_path / "copy")
    assert prepare(tmp_path / "copy", tmp_path / "elsewhere").fingerprint == first.fingerprint
    # Same content from files with other times: done again, but no other data set.
    assert prepare(tmp_path / "copy", tmp_path / "out").fingerprint == first.fingerprint


def test_a_missing_shard_is_made_again(folder: Path, tmp_path: Path) -> None:
    prepare(folder, tmp_path / "out")
    (tmp_path / "out" / "val-00000.parquet").unlink()
    assert not prepare(folder, tmp_path / "out").skipped
    assert len(open_dataset(tmp_path / "out").split("val")) == 2


def test_other_content_is_not_replaced_unless_forced(folder: Path, tmp_path: Path) -> None:
    before = prepare(folder, tmp_path / "out").fingerprint
    (folder / "images/val/val1.png").unlink()
    with pytest.raises(DataError, match="already holds Fields with other content"):
        prepare(folder, tmp_path / "out")
    assert open_dataset(tmp_path / "out").fingerprint == before
    done = prepare(folder, tmp_path / "out", force=True)
    assert done.fingerprint != before
    assert done.notes == (
        f"1 labels in {folder}/annotations/val have no image, such as val1.png; they were left aside",
    )


def test_a_folder_with_other_things_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match="exists and is no prepared data set"):
        prepare(folder, tmp_path / "mine")
    with pytest.raises(DataError, match="exists and is no prepared data set"):
        prepare(folder, folder)
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_force_replaces_a_prepared_data_set_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    # The folder of the download often has the name of the data set: `prepare DIR/fields --to DIR --force`.
    folder.rename(tmp_path / "fields")
    before = sorted(path for path in tmp_path.rglob("*"))
    for force in (False, True):
        with pytest.raises(DataError, match=r"fields exists and is no prepared data set \(it holds annotations, card"):
            prepare(tmp_path / "fields", tmp_path, below=True, force=force)
    assert sorted(path for path in tmp_path.rglob("*")) == before
    done = prepare(tmp_path / "fields", tmp_path / "out", below=True)
    (tmp_path / "out" / "fields" / "notes.txt").write_text("x")
    assert prepare(tmp_path / "fields", tmp_path / "out", below=True).skipped
    with pytest.raises(DataError, match=r"out/fields holds notes\.txt beside the prepared data set"):
        prepare(tmp_path / "fields", tmp_path / "out", below=True, force=True)
    assert (tmp_path / "out" / "fields" / "notes.txt").exists()
    assert open_dataset(done.uri).fingerprint == done.fingerprint


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-60])


def _text(path: Path) -> None:
    path.write_text("<html>404</html>")


def _larger(path: Path) -> None:
    cv2.imwrite(str(path), np.zeros((13, 17), np.uint8))


def _value(path: Path) -> None:
    cv2.imwrite(str(path), np.full((12, 16), 5, np.uint8))


def _colours(path: Path) -> None:
    cv2.imwrite(str(path), np.zeros((12, 16, 3), np.uint8))


def _deep(path: Path) -> None:
    cv2.imwrite(str(path), np.full((12, 16), 700, np.uint16))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("annotations/val/val1.png", _remove, "has no label; looked for"),
        ("images/val/val1.png", _empty, "is empty (0 bytes)"),
        ("images/val/val1.png", _truncate, "is truncated, damaged or no image"),
        ("images/val/val1.png", _text, "is truncated, damaged or no image"),
        ("annotations/val/val1.png", _empty, "is empty (0 bytes)"),
        ("annotations/val/val1.png", _truncate, "is truncated, damaged or no image"),
        ("annotations/val/val1.png", _larger, "val1.png is 17x13"),
        ("annotations/val/val1.png", _value, "holds the value 5 in 192 pixels, outside the 3 classes"),
        ("annotations/val/val1.png", _colours, "has 3 channels"),
        ("annotations/val/val1.png", _deep, "holds the value 700"),
    ],
)
def test_broken_files_are_named_and_nothing_is_left(
    folder: Path, tmp_path: Path, file: str, damage: object, message: str
) -> None:
    assert callable(damage)
    damage(folder / file)
    with pytest.raises(DataError) as caught:
        prepare(folder, tmp_path / "out")
    assert message in str(caught.value)
    assert str(folder / file) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source", card=CARD.replace("image_suffix: .png", "image_suffix: .jpg"), train=0)
    for path in (source / "images").rglob("*.png"):
        cv2.imwrite(str(path.with_suffix(".jpg")), cv2.imread(str(path)))
    shutil.rmtree(source / "images/train")
    prepare(source, tmp_path / "whole", partial=True)
    _truncate(source / "images/val/val0.jpg")
    with pytest.raises(DataError, match=r"val0\.jpg is truncated"):
        prepare(source, tmp_path / "out", partial=True)


def test_images_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "images/val").iterdir():
        path.rename(path.with_suffix(".JPG"))
    with pytest.raises(
        DataError, match=r"no images in .*images/val: looked for \*\.png, it holds files such as val0\.JPG"
    ):
        prepare(folder, tmp_path / "out")
    for path in (folder / "images/val").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="the folder is empty"):
        prepare(folder, tmp_path / "out")


def test_folders_that_are_no_data_set_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        prepare(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(DataError, match=r"looked for a card .* the files of cityscapes, ade20k, "):
        prepare(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="holds no cityscapes data: looked for leftImg8bit/train"):
        prepare(tmp_path, tmp_path / "out", dataset="cityscapes")
    with pytest.raises(DataError, match="holds no ade20k data: looked for images/train"):
        prepare(tmp_path, tmp_path / "out", dataset="ade20k")
    with pytest.raises(DataError, match=r"holds no voc12aug data: .* get VOCtrainval_11-May-2012\.tar and benchmark"):
        prepare(tmp_path, tmp_path / "out", dataset="voc12aug")
    with pytest.raises(DataError, match=r"holds no loveda data: .* from https://zenodo\.org"):
        prepare(tmp_path, tmp_path / "out", dataset="loveda")
    with pytest.raises(DataError, match="did you mean 'ade20k'"):
        prepare(tmp_path, tmp_path / "out", dataset="ade")


def test_a_disk_that_refuses_is_a_data_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match=r"cannot write the data set .*file/out: Not a directory"):
        prepare(folder, tmp_path / "file" / "out")


def test_palette_labels_are_read_as_indices(folder: Path, tmp_path: Path) -> None:
    file = folder / "annotations/train/train0.png"
    values = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    picture = Image.fromarray(values)
    picture.putpalette([value for index in range(256) for value in (255 - index, index, 7)])
    picture.save(file)
    # OpenCV would give the palette's colours.
    assert cv2.imread(str(file), cv2.IMREAD_UNCHANGED).ndim == 3
    prepare(folder, tmp_path / "out")
    label = open_dataset(tmp_path / "out").split("train")[0].label
    np.testing.assert_array_equal(label, np.where(values == 9, 255, values))


def test_a_card_may_ignore_any_value_without_a_word_about_colours(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "annotations").rglob("*.png"):
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        label[label == 9] = 254
        cv2.imwrite(str(path), label)
    (folder / "card.yaml").write_text(CARD.replace("ignore_index: 9", "ignore_index: 254"))
    assert prepare(folder, tmp_path / "out").notes == ()


def test_names_in_another_encoding(folder: Path, tmp_path: Path) -> None:
    for kind in ("images", "annotations"):
        (folder / kind / "val" / "val0.png").rename(folder / kind / "val" / os.fsdecode(b"Fl\xe4che.png"))
    with pytest.raises(DataError, match=r"an image whose name is no UTF-8, 'Fl\\udce4che'; rename it"):
        prepare(folder, tmp_path / "out")
    # A folder's name is no part of what is stored.
    (folder / "annotations/val" / os.fsdecode(b"Fl\xe4che.png")).rename(folder / "annotations/val/val0.png")
    (folder / "images/val" / os.fsdecode(b"Fl\xe4che.png")).rename(folder / "images/val/val0.png")
    (tmp_path / "other").mkdir()
    folder.rename(tmp_path / "other" / os.fsdecode(b"\xe4"))
    card = load_card(tmp_path / "other" / os.fsdecode(b"\xe4"))
    assert prepare(tmp_path / "other" / os.fsdecode(b"\xe4"), tmp_path / "out", card=card).images["val"] == 2


def test_label_table_of_a_card_equals_the_reference(parity_dir: Path) -> None:
    table = np.load(parity_dir / "loss_and_preprocess.npz")["reduce_zero_label_table"]
    reduced = label_table(
        Card(name="x", title="x", classes=tuple("abc"), palette=((0, 0, 0),) * 3, reduce_zero_label=True)
    )
    np.testing.assert_array_equal(reduced[[0, 1, 2, 3, 255]], table[[0, 1, 2, 3, 255]])
    assert set(reduced[4:255].tolist()) == {-1}


def test_cityscapes_ids_equal_the_reference(parity_dir: Path) -> None:
    labels = json.loads((parity_dir / "datasets.json").read_text())["_cityscapes_id_to_trainid"]
    table = id_table()
    for label in labels:
        if label["id"] >= 0:
            assert table[label["id"]] == label["trainId"], label["name"]


def test_cityscapes_from_label_ids_and_from_polygons(tmp_path: Path) -> None:
    source = synthesise("cityscapes", tmp_path / "native", train=2, val=1, size=(64, 128))
    ready = prepare(source, tmp_path / "ready", partial=True)
    for path in source.rglob("*_labelTrainIds.png"):
        path.unlink()
    ids = prepare(source, tmp_path / "ids", partial=True)
    assert (ids.card.name, ids.fingerprint) == ("cityscapes", ready.fingerprint)
    for path in source.rglob("*_labelIds.png"):
        path.unlink()
    prepare(source, tmp_path / "polygons", partial=True)
    expected, drawn = (open_dataset(tmp_path / name).split("val")[0].label for name in ("ready", "polygons"))
    # The scenes' own labels were drawn with OpenCV, which covers the outlines' pixels differently.
    assert (expected == drawn).mean() > 0.95
    for path in source.rglob("*_polygons.json"):
        path.unlink()
    with pytest.raises(DataError, match=r"no label; looked for .*TrainIds\.png, \.\.\.\S*Ids\.png and \S*polygons"):
        prepare(source, tmp_path / "none", partial=True)


def test_polygons_are_drawn_in_order_by_name() -> None:
    def item(name: str, left: int, right: int, **more: object) -> dict[str, object]:
        return {"label": name, "polygon": [[left, 0], [right, 0], [right, 5], [left, 5]], **more}

    objects = [
        item("road", 0, 9), item("cargroup", 2, 4), item("license plate", 3, 3), item("sky", 5, 5, deleted=1),
        item("ego vehicle", 8, 9), item("polegroup", 6, 6), item("person", 7, 7, deleted=0),
    ]  # fmt: skip
    content = {"imgHeight": 6, "imgWidth": 11, "objects": objects}
    drawn = draw(json.dumps(content).encode(), "x.json", polygon_values())
    # A pole group is a class of its own, which is ignored; the last column is covered by nothing.
    assert drawn.tolist() == [[0, 0, 13, 13, 13, 0, 255, 11, 255, 255, 255]] * 6
    with pytest.raises(DataError, match=r"label x\.json names the object 'cars', which is no Cityscapes class"):
        draw(json.dumps({**content, "objects": [item("cars", 0, 1)]}).encode(), "x.json", polygon_values())
    for broken in (b"{", b"[]", json.dumps({**content, "objects": [{"label": "car"}]}).encode()):
        with pytest.raises(DataError, match=r"x\.json is no file of Cityscapes polygons"):
            draw(broken, "x.json", polygon_values())


def test_real_cityscapes_sample(shared_data: Path, tmp_path: Path) -> None:
    done = prepare(shared_data / "native/cityscapes/fullres_gt_upsampled", tmp_path / "city", partial=True)
    assert done.images == {"val": 1}
    assert done.notes == ("0 of 2975 train images of Cityscapes", "1 of 500 val images of Cityscapes")
    sample = open_dataset(tmp_path / "city").split("val")[0]
    assert sample.name == "frankfurt/frankfurt_000000_000294"
    assert sample.image.shape == (1024, 2048, 3)
    assert set(np.unique(sample.label).tolist()) == {0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 255}
    with pytest.raises(DataError, match="has no train images; it holds val"):
        open_dataset(tmp_path / "city").split("train")


def test_tiled_potsdam_as_the_reference_converter_leaves_it(shared_data: Path, tmp_path: Path) -> None:
    done = prepare(shared_data / "native/potsdam/mmseg_form", tmp_path / "potsdam", dataset="potsdam", partial=True)
    assert done.images == {"train": 1}
    assert set(np.unique(open_dataset(tmp_path / "potsdam").split("train")[0].label).tolist()) <= {0, 1, 2, 3, 4, 255}


@pytest.mark.parametrize("name", ["camvid", "dubai"])
def test_real_custom_data_sets(shared_data: Path, tmp_path: Path, name: str) -> None:
    source, few = shared_data / name, tmp_path / name
    few.mkdir()
    (few / "meta.json").symlink_to(source / "meta.json")
    for split, kind in ((split, kind) for split in ("train", "val") for kind in ("images", "annotations")):
        (few / kind / split).mkdir(parents=True)
        for file in sorted((source / kind / split).iterdir())[:3]:
            (few / kind / split / file.name).symlink_to(file)
    done = prepare(few, tmp_path / "out", partial=True)
    assert (done.card.name, done.images) == (name, {"train": 3, "val": 3})
    assert done.notes[0] == f"3 of {done.card.train_images} train images of {done.card.title}"
    val = open_dataset(tmp_path / "out").split("val")
    for sample in map(val.__getitem__, range(3)):
        raw = cv2.imread(str(few / "annotations" / "val" / f"{sample.name}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(sample.label, np.where(raw == done.card.ignore_index, 255, raw))


def test_given_cards(folder: Path, tmp_path: Path) -> None:
    (folder / "card.yaml").rename(tmp_path / "other.yaml")
    tree = open_tree(folder)
    assert recognise(tree, card=tmp_path / "other.yaml").card.name == "fields"
    assert recognise(tree, card=load_card(tmp_path / "other.yaml")).card.title == "Fields"
    with pytest.raises(DataError, match="give one"):
        recognise(tree, dataset="potsdam", card=tmp_path / "other.yaml")
