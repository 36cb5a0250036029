"""Potsdam, Vaihingen and iSAID: large pictures with painted labels, cut into tiles."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hrnet.data.cards import card
from hrnet.data.prepare import isaid, isprs, potsdam, vaihingen
from hrnet.data.prepare.colours import ODD, ids_of_colours
from hrnet.data.prepare.found import Converted
from hrnet.data.prepare.recognise import recognise
from hrnet.data.prepare.run import prepare
from hrnet.data.prepare.tiling import pad, windows
from hrnet.data.prepare.tree import open_tree
from hrnet.data.shards import open_dataset
from hrnet.data.synthetic import synthesise
from hrnet.errors import DataError

ISPRS = {0: (0, 0, 0), 1: (255, 255, 255), 2: (0, 0, 255), 3: (0, 255, 255), 4: (0, 255, 0), 5: (255, 255, 0),
         6: (255, 0, 0)}  # fmt: skip
ISAID = ((0, 0, 0), (0, 0, 63), (0, 63, 63), (0, 63, 0), (0, 63, 127), (0, 63, 191), (0, 63, 255), (0, 127, 63),
         (0, 127, 127), (0, 0, 127), (0, 0, 191), (0, 0, 255), (0, 191, 127), (0, 127, 191), (0, 127, 255),
         (0, 100, 155))  # fmt: skip


@pytest.fixture(scope="module")
def parity(parity_dir: Path) -> Any:
    return json.loads((parity_dir / "converters.json").read_text())


def converted(source: Path, dataset: str) -> Iterator[tuple[str, Converted]]:
    """Every sample that the converter gives, with its split."""
    with open_tree(source) as tree:
        found = recognise(tree, dataset=dataset)
        for split, jobs in found.splits.items():
            for job in jobs:
                for sample in job.convert(job, found.card):
                    yield split, sample


def rgb(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def write(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def ids(painted: NDArray[np.uint8], table: dict[tuple[int, int, int], int], other: int) -> NDArray[np.uint8]:
    """Ids of painted colours, looked up one after the other."""
    codes, where = np.unique(painted.astype(int) @ (65536, 256, 1), return_inverse=True)
    found = [table.get((code >> 16, code >> 8 & 255, code & 255), other) for code in codes.tolist()]
    return np.array(found, dtype=np.uint8)[where].reshape(painted.shape[:2])


def test_isprs_windows_equal_the_reference(parity: Any) -> None:
    compared = 0
    for case in parity["potsdam_windows"]:
        if min(case["h"], case["w"]) < case["clip"]:
            continue
        found = {
            f"2_10_{'_'.join(map(str, at))}.png" for at in windows(case["h"], case["w"], case["clip"], case["clip"])
        }
        assert len(found) == case["n_files"]
        assert set(case["files"]) <= found
        compared += 1
    assert compared == 5


def test_isprs_colours_equal_the_reference(parity: Any) -> None:
    differ = []
    for case in parity["potsdam_label_mapping_bgr"]:
        value = ids_of_colours(np.array([[case["bgr"][::-1]]], dtype=np.uint8), isprs.COLOURS, ODD)[0, 0]
        if value != case["label"] and (value, case["label"]) != (ODD, 0):
            differ.append(case)
    # Odd colours are ignored either way, but for the one whose sum collides with that of green.
    assert differ == [{"bgr": [255, 85, 0], "label": 4}]


def test_isprs_areas_equal_the_reference(parity_dir: Path) -> None:
    known = json.loads((parity_dir / "datasets.json").read_text())
    for layout, key in ((potsdam.LAYOUT, "_potsdam_split"), (vaihingen.LAYOUT, "_vaihingen_split")):
        assert {split: sorted(areas) for split, areas in layout.splits.items()} == {
            split: sorted(areas) for split, areas in known[key].items()
        }
    assert len(windows(6000, 6000, isprs.TILE, isprs.TILE)) * 24 == card("potsdam").train_images
    assert len(windows(6000, 6000, isprs.TILE, isprs.TILE)) * 14 == card("potsdam").val_images


@pytest.mark.parametrize(("dataset", "name"), [("potsdam", "2_10_0_0_512_512"), ("vaihingen", "area1_0_0_512_512")])
def test_real_isprs_samples_equal_the_ready_form_beside_them(shared_data: Path, dataset: str, name: str) -> None:
    native, ready = (
        list(converted(shared_data / "native" / dataset / form, dataset)) for form in ("native_form", "mmseg_form")
    )
    assert [(split, sample.name) for split, sample in native] == [("train", name)]
    assert [(split, sample.name) for split, sample in ready] == [("train", name)]
    np.testing.assert_array_equal(native[0][1].label, ready[0][1].label)
    np.testing.assert_array_equal(native[0][1].raw, ready[0][1].raw)
    np.testing.assert_array_equal(pixels(native[0][1].image), pixels(ready[0][1].image))
    assert len(np.unique(native[0][1].label)) == 6


@pytest.mark.parametrize("dataset", ["potsdam", "vaihingen"])
def test_isprs_archives_and_folders_give_every_pixel_of_every_area(dataset: str, tmp_path: Path) -> None:
    for archives in (False, True):
        synthesise(dataset, tmp_path / str(archives), train=1, val=1, size=(520, 600), archives=archives)
        done = prepare(tmp_path / str(archives), tmp_path / f"{archives}-out", partial=True)
        assert (done.card.name, done.images) == (dataset, {"train": 4, "val": 4})
        assert done.notes[0].startswith(f"1 of {24 if dataset == 'potsdam' else 16} areas of train (missing: ")
    folder, packed = (open_dataset(tmp_path / f"{archives}-out") for archives in (False, True))
    assert folder.fingerprint == packed.fingerprint
    split = packed.split("val")
    samples = [split[index] for index in range(len(split))]
    names = [sample.name for sample in samples]
    assert names == sorted(names)
    area = names[0].rsplit("_", 4)[0]
    labels, images = (
        (f"*potsdam_{area}_*noBoundary.tif", f"*potsdam_{area}_RGB.tif")
        if dataset == "potsdam"
        else (f"*_{area}_noBoundary.tif", f"top/*_{area}.tif")
    )
    painted, image = (rgb(next((tmp_path / "False").rglob(pattern))) for pattern in (labels, images))
    table = {colour: value - 1 for value, colour in ISPRS.items() if value}
    whole = ids(painted, table, 255)
    seen = np.zeros(whole.shape, dtype=bool)
    for sample in samples:
        x0, y0, x1, y1 = map(int, sample.name.split("_")[-4:])
        np.testing.assert_array_equal(sample.label, whole[y0:y1, x0:x1])
        np.testing.assert_array_equal(sample.image[..., ::-1], image[y0:y1, x0:x1])
        seen[y0:y1, x0:x1] = True
    assert seen.all()


def _potsdam(root: Path, area: str = "2_10", size: tuple[int, int] = (512, 512)) -> Path:
    rng = np.random.default_rng(0)
    colours = np.array([colour for value, colour in ISPRS.items()], dtype=np.uint8)
    write(root / f"2_Ortho_RGB/top_potsdam_{area}_RGB.tif", rng.integers(0, 256, (*size, 3)).astype(np.uint8))
    label = root / f"5_Labels_all_noBoundary/top_potsdam_{area}_label_noBoundary.tif"
    write(label, colours[rng.integers(0, 7, size)])
    return label


def test_isprs_odd_colours_are_ignored_and_counted(tmp_path: Path) -> None:
    label = _potsdam(tmp_path)
    painted = rgb(label).copy()
    painted[0, :3] = ((252, 255, 0), (0, 85, 255), (255, 255, 254))
    write(label, painted)
    ((_, sample),) = converted(tmp_path, "potsdam")
    assert sample.label[0, :3].tolist() == [255, 255, 255]
    assert sample.raw[ODD] == 3
    assert sample.raw.sum() == 512 * 512
    notes = prepare(tmp_path, tmp_path / "out", partial=True).notes
    assert "train: 3 pixels (0.00%) have colours of no class; they are ignored" in notes


def _only_bounded(label: Path) -> None:
    label.rename(label.with_name("top_potsdam_2_10_label.tif"))


def _no_label(label: Path) -> None:
    label.rename(label.with_name("top_potsdam_2_11_label_noBoundary.tif"))


def _small(label: Path) -> None:
    _potsdam(label.parents[1], size=(300, 600))


def _other_size(label: Path) -> None:
    write(label, np.zeros((512, 513, 3), dtype=np.uint8))


def _grey(label: Path) -> None:
    write(label, np.zeros((512, 512), dtype=np.uint8))


def _other_colours(label: Path) -> None:
    write(label, np.full((512, 512, 3), (252, 0, 4), dtype=np.uint8))


def _truncated(label: Path) -> None:
    label.write_bytes(label.read_bytes()[:-1000])


def _twice(label: Path) -> None:
    write(label.parents[1] / "again" / label.name, np.zeros((512, 600, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_only_bounded, "is a label with boundaries, .* get 2_Ortho_RGB.zip and 5_Labels_all_noBoundary.zip"),
        (_no_label, r"top_potsdam_2_10_RGB\.tif has no label; get"),
        (_small, "is 600x300, smaller than a tile of 512x512"),
        (_other_size, r"is 512x512 but its label .*noBoundary\.tif is 513x512"),
        (_grey, "has one channel, classes painted in colours were expected"),
        (_other_colours, r"noBoundary\.tif has colours of no class in 100% of its pixels, such as RGB \(252, 0, 4\)"),
        (_truncated, r"label_noBoundary\.tif is truncated, damaged or no image"),
        (_twice, "differ; remove the one"),
    ],
)
def test_isprs_faults_are_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(_potsdam(tmp_path))
    with pytest.raises(DataError, match=message):
        list(converted(tmp_path, "potsdam"))


def test_vaihingen_takes_neither_area9_nor_labels_with_boundaries(tmp_path: Path) -> None:
    synthesise("vaihingen", tmp_path, train=1, val=1, size=(512, 512))
    write(tmp_path / "gts_eroded/top_mosaic_09cm_area9_noBoundary.tif", np.zeros((512, 512, 3), dtype=np.uint8))
    # The labels with boundaries have the images' names.
    write(tmp_path / "gts_for_participants/top_mosaic_09cm_area1.tif", np.zeros((512, 512, 3), dtype=np.uint8))
    before = [sample.image for _, sample in converted(tmp_path, "vaihingen")]
    assert len(before) == 2
    with open_tree(tmp_path) as tree:
        assert recognise(tree).notes == ["areas without an image or in no split were left aside: area9"]
    for path in (tmp_path / "gts_eroded").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"gts_for_participants/top_\S+ is a label with .* \(a path such as top/"):
        list(converted(tmp_path, "vaihingen"))


def test_isaid_patches_equal_the_reference(parity: Any) -> None:
    compared = 0
    for case in parity["isaid_windows"]:
        size, stride = case["patch"], case["patch"] - case["overlap"]
        height, width = pad(np.zeros((case["h"], case["w"]), dtype=np.uint8), size, 255).shape
        found = {f"P0001_{at.y0}_{at.y1}_{at.x0}_{at.x1}" for at in windows(height, width, size, stride)}
        if (case["h"], case["w"]) == (32, 20):
            # The narrow patch with a negative number in its name; ours is padded.
            assert case["images"] == ["P0001_0_32_-12_20.png"]
            assert found == {"P0001_0_32_0_32"}
            continue
        assert {f"{name}.png" for name in found} == set(case["images"])
        assert {f"{name}_instance_color_RGB.png" for name in found} == set(case["labels"])
        compared += 1
    assert compared == 8


def test_isaid_colours_equal_the_reference(parity: Any) -> None:
    known = {tuple(json.loads(colour)): value for colour, value in parity["isaid_color_to_id"].items()}
    assert dict(isaid.COLOURS) == known == {colour: value for value, colour in enumerate(ISAID)}


def simple_patches(name: str, image: NDArray[np.uint8], label: NDArray[np.uint8]) -> dict[str, tuple[Any, Any]]:
    """The reference's rules written down once more, from a canvas that is large enough."""
    height, width = (max(896, length) for length in label.shape)
    canvas, classes = np.zeros((height, width, 3), dtype=np.uint8), np.full((height, width), 255, dtype=np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    classes[: label.shape[0], : label.shape[1]] = label
    found = {}
    for x in range(0, width, 512):
        for y in range(0, height, 512):
            right, bottom = min(x + 896, width), min(y + 896, height)
            place = slice(bottom - 896, bottom), slice(right - 896, right)
            found[f"{name}_{bottom - 896}_{bottom}_{right - 896}_{right}"] = canvas[place], classes[place]
    return found


@pytest.mark.parametrize(
    ("split", "name", "patches"),
    [("train", "P0005", ["0_896_0_896", "81_977_0_896"]),
     ("val", "P0003", ["0_896_0_896", "0_896_251_1147", "127_1023_0_896", "127_1023_251_1147"])],
)  # fmt: skip
def test_real_isaid_samples(shared_data: Path, split: str, name: str, patches: list[str]) -> None:
    source = shared_data / "native/isaid"
    found = {sample.name: sample for part, sample in converted(source, "isaid") if part == split}
    assert list(found) == [f"{name}_{patch}" for patch in patches]
    table = {colour: value for value, colour in enumerate(ISAID)}
    label = ids(rgb(source / split / f"images/{name}_instance_color_RGB.png"), table, 0)
    expected = simple_patches(name, rgb(source / split / f"images/{name}.png"), label)
    assert set(found) == set(expected)
    for patch, sample in found.items():
        np.testing.assert_array_equal(pixels(sample.image), expected[patch][0])
        np.testing.assert_array_equal(sample.label, expected[patch][1])
    assert np.unique(np.stack([sample.label for sample in found.values()])).tolist() == (
        [0, 8, 9, 255] if name == "P0005" else [0, 2, 8, 9]
    )


def _isaid(folder: Path, name: str, label: NDArray[np.uint8]) -> None:
    write(folder / f"images/images/{name}.png", np.full((*label.shape, 3), 200, dtype=np.uint8))
    colours = np.array(ISAID, dtype=np.uint8)
    write(folder / f"Semantic_masks/images/{name}_instance_color_RGB.png", colours[label])


def test_isaid_side_of_exactly_one_patch_beside_a_smaller_one(tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(0, 16, (896, 500)).astype(np.uint8)
    _isaid(tmp_path / "train", "P0100", label)
    ((_, sample),) = converted(tmp_path, "isaid")
    assert sample.name == "P0100_0_896_0_896"
    np.testing.assert_array_equal(sample.label[:, :500], label)
    assert (sample.label[:, 500:] == 255).all()
    image = pixels(sample.image)
    assert (image.shape, image[:, 500:].max(), image[:, :500].min()) == ((896, 896, 3), 0, 200)


def test_isaid_archives_and_folders_give_the_same(tmp_path: Path) -> None:
    for archives in (False, True):
        synthesise("isaid", tmp_path / str(archives), train=1, val=1, archives=archives)
    done = [prepare(tmp_path / form, tmp_path / f"{form}-out", partial=True) for form in ("False", "True")]
    assert done[0].fingerprint == done[1].fingerprint
    assert (done[0].card.name, done[0].images) == ("isaid", {"train": 2, "val": 2})
    # Several parts, and what was unpacked from one of them beside it.
    part = next((tmp_path / "True/train/images").glob("*.zip"))
    with zipfile.ZipFile(part) as archive:
        archive.extractall(part.parent)
    assert prepare(tmp_path / "True", tmp_path / "both", partial=True).fingerprint == done[0].fingerprint


def test_isaid_faults_are_named(tmp_path: Path) -> None:
    label = np.zeros((900, 900), dtype=np.uint8)
    _isaid(tmp_path / "val", "P0001", label)
    labels = tmp_path / "val/Semantic_masks/images"
    (labels / "P0001_instance_color_RGB.png").rename(labels / "P0002_instance_color_RGB.png")
    with pytest.raises(DataError, match=r"P0001\.png has no label val/\.\.\./P0001_instance_color_RGB\.png"):
        list(converted(tmp_path, "isaid"))
    (tmp_path / "val/images/images/P0001.png").unlink()
    with pytest.raises(DataError, match="holds labels of iSAID but no images"):
        list(converted(tmp_path, "isaid"))
    _isaid(tmp_path / "val", "P0001", label)
    with open_tree(tmp_path) as tree:
        assert "1 labels have no image, such as val/P0002" in recognise(tree).notes[0]


def _ready(root: Path, label: Image.Image) -> None:
    write(root / "img_dir/train/P0001_0_896_0_896.png", np.zeros((896, 896, 3), dtype=np.uint8))
    (root / "ann_dir/train").mkdir(parents=True, exist_ok=True)
    label.save(root / "ann_dir/train/P0001_0_896_0_896_instance_color_RGB.png")


def test_isaid_patches_as_the_reference_converter_leaves_them(tmp_path: Path) -> None:
    values = np.repeat(np.arange(896 * 4) % 16, 224).reshape(896, 896).astype(np.uint8)
    label = Image.fromarray(values)
    label.putpalette([value for colour in ISAID for value in colour])
    _ready(tmp_path, label)
    image = np.random.default_rng(0).integers(0, 256, (896, 896, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "img_dir/train/P0001_0_896_0_896.png", format="BMP")
    ((_, sample),) = converted(tmp_path, "isaid")
    np.testing.assert_array_equal(sample.label, values)
    np.testing.assert_array_equal(pixels(sample.image), image)
    assert sample.image.startswith(b"\x89PNG")
    _ready(tmp_path, label.convert("RGB"))
    with pytest.raises(DataError, match="has 3 channels; a label is a single-channel image of class numbers"):
        list(converted(tmp_path, "isaid"))


def test_isaid_labels_collapsed_by_a_one_bit_palette_are_refused(tmp_path: Path) -> None:
    label = Image.fromarray((np.arange(896 * 896).reshape(896, 896) % 2).astype(np.uint8))
    label.putpalette([0, 0, 0, 255, 255, 255])
    _ready(tmp_path, label)
    assert cv2.imread(str(next(tmp_path.rglob("*RGB.png"))), cv2.IMREAD_UNCHANGED) is not None
    with pytest.raises(DataError, match="has a palette of one bit: the classes have collapsed to 0 and 1"):
        list(converted(tmp_path, "isaid"))
