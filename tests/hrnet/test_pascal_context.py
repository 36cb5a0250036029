"""Pascal Context from PASCAL in Detail, from ready PNGs and from the original release; run lengths."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hrnet.catalogue import recipes
from hrnet.data.cards import card
from hrnet.data.prepare.pascal_context import ANNOTATED, IDS
from hrnet.data.prepare.recognise import recognise
from hrnet.data.prepare.rle import decode, run_lengths
from hrnet.data.prepare.run import prepare
from hrnet.data.prepare.tree import open_tree
from hrnet.data.shards import open_dataset
from hrnet.data.synthetic import synthesise
from hrnet.errors import DataError
from hrnet.workload import not_comparable

VOC = Path("VOCdevkit", "VOC2010")


def counts(mask: NDArray[np.bool_]) -> list[int]:
    """Run lengths of a mask, pixel after pixel down the columns."""
    runs, inside = [0], False
    for pixel in mask.T.reshape(-1).tolist():
        if pixel != inside:
            runs.append(0)
            inside = pixel
        runs[-1] += 1
    return runs


def compress(runs: Sequence[int]) -> str:
    """COCO's compressed string, number after number, bit group after bit group."""
    text = ""
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            five = value & 31
            value >>= 5
            more = value != (-1 if five & 16 else 0)
            text += chr(48 + (five | 32 if more else five))
    return text


def test_a_string_of_cocos_own_encoder() -> None:
    """What pycocotools 2.0 makes of this mask; the fourth number is stored as the difference to the second."""
    mask = np.array([[0, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=bool)
    assert compress(counts(mask)) == "141M4"
    np.testing.assert_array_equal(decode("141M4", 3, 4), mask)
    assert run_lengths("").tolist() == []


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (40, 33), (90, 121)])
@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
def test_run_lengths(shape: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(0).random(shape) < share
    runs = counts(mask)
    assert run_lengths(compress(runs)).tolist() == runs
    for form in (runs, compress(runs)):
        np.testing.assert_array_equal(decode(form, *shape), mask)


@pytest.mark.parametrize("text", ["12`", "1 2", "\x7f", "o" * 13 + "1"])
def test_strings_that_are_no_run_lengths(text: str) -> None:
    with pytest.raises(DataError, match="no compressed COCO string"):
        run_lengths(text)


def test_run_lengths_that_do_not_fill_the_mask() -> None:
    for runs in ([1, 2], [5, -1, 0], [7]):
        with pytest.raises(DataError, match="pixels of a 3x2 mask"):
            decode(runs, 2, 3)


def test_ids_equal_the_reference(parity_dir: Path) -> None:
    assert list(IDS) == json.loads((parity_dir / "datasets.json").read_text())["_pascal_context_original_ids_sorted"]
    example = json.loads((parity_dir / "converters.json").read_text())["pascal_context"]
    assert [[IDS.index(value) for value in row] for row in example["original"]] == example["mapped"]


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """A drawn VOC 2010 with ready PNGs."""
    return synthesise("pascal-context", tmp_path / "ready", train=2, val=2, size=(48, 64))


def labels(ready: Path) -> dict[str, NDArray[np.uint8]]:
    folder = ready / VOC / "SegmentationClassContext"
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.iterdir())}


def without_pngs(ready: Path) -> Path:
    shutil.rmtree(ready / VOC / "SegmentationClassContext")
    shutil.rmtree(ready / VOC / "ImageSets")
    return ready


def detail(found: Mapping[str, NDArray[np.uint8]]) -> dict[str, Any]:
    """What trainval_merged.json says of these labels, with the lists that are passed over."""
    images, segments = [], []
    for number, (name, label) in enumerate(found.items()):
        identity = int(name.replace("_", ""))
        phase = "train" if name.startswith("2008") else "val"
        size = {"height": label.shape[0], "width": label.shape[1]}
        images.append({"file_name": f"{name}.jpg", "phase": phase, "image_id": identity, **size})
        # The first region lies below all others, which paint over it.
        regions = [(int(label.max()), np.ones(label.shape, dtype=bool))]
        regions += [(int(value), label == value) for value in np.unique(label)]
        for index, (value, mask) in enumerate(regions):
            runs = counts(mask)
            form = {"size": list(label.shape), "counts": runs if index % 2 else compress(runs)}
            category = {"category_id": IDS[value], "iscrowd": 1, "bbox": [0.5, 1e3, -2, 3], "parts": []}
            segments.append({"id": 100 * number + index, "image_id": identity, **category, "segmentation": form})
    return {
        "info": {"description": "PASCAL in Detail", "years": [2010, {"note": "}]"}]},
        "images": [*images, {"file_name": "2010_9.jpg", "phase": "test", "image_id": 9, "height": 1, "width": 1}],
        "annos_joints": [{"image_id": 1, "joints": [[1, 2]]}, []],
        "annos_segmentation": segments,
        "annos_boundary": [],
        "categories": [{"category_id": 2, "name": "aeroplane"}],
    }


@pytest.mark.parametrize("dataset", ["pascal-context", "pascal-context-59"])
def test_all_three_forms_give_the_same(ready: Path, tmp_path: Path, dataset: str) -> None:
    found = labels(ready)
    first = prepare(ready, tmp_path / "a", dataset=dataset, partial=True)
    assert first.images == {"train": 2, "val": 2}
    sample = open_dataset(tmp_path / "a").split("val")[1]
    raw = found[sample.name].astype(int)
    expected = raw if dataset == "pascal-context" else np.where(raw == 0, 255, raw - 1)
    np.testing.assert_array_equal(sample.label.astype(int), expected)

    (without_pngs(ready) / "trainval_merged.json").write_text(json.dumps(detail(found), indent=1))
    second = prepare(ready, tmp_path / "b", dataset=dataset, partial=True)
    assert second.fingerprint == first.fingerprint
    assert second.card.images == ANNOTATED

    (ready / "trainval_merged.json").unlink()
    original_release(ready, found)
    third = prepare(ready, tmp_path / "c", dataset=dataset, partial=True)
    assert third.fingerprint == first.fingerprint
    assert (third.card, "the original Pascal Context release" in third.notes[0]) == (card(dataset), True)
    recipe = next(each for each in recipes() if each.dataset == dataset)
    reasons = [not_comparable(recipe, recipe, str(tmp_path / form)) for form in "abc"]
    assert [len(each) for each in reasons] == [2, 2, 3], "incomplete, and at last with other labels than published"
    assert "original Pascal Context release" in reasons[2][2]


def original_release(root: Path, found: Mapping[str, NDArray[np.uint8]]) -> None:
    from scipy.io import savemat

    (root / "trainval").mkdir()
    lists = root / VOC / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, label in found.items():
        ids = np.array(IDS, dtype=np.uint16)[label]
        # A class of the 459 that is none of the 59 is background.
        ids[(ids == 0) & (np.arange(label.shape[1]) % 2 == 0)] = 77
        savemat(root / "trainval" / f"{name}.mat", {"LabelMap": ids}, do_compression=True)
        with (lists / ("train.txt" if name.startswith("2008") else "val.txt")).open("a") as file:
            file.write(f"{name}\n")


def test_archives_give_the_same(ready: Path, tmp_path: Path) -> None:
    first = prepare(ready, tmp_path / "a", dataset="pascal-context", partial=True)
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed/VOCtrainval_03-May-2010.tar", "w") as archive:
        archive.add(ready / VOC / "JPEGImages", (VOC / "JPEGImages").as_posix())
    (tmp_path / "packed/trainval_merged.json").write_text(json.dumps(detail(labels(ready))))
    packed = prepare(tmp_path / "packed", tmp_path / "b", dataset="pascal-context", partial=True)
    assert packed.fingerprint == first.fingerprint
    with pytest.raises(DataError, match="holds the files of pascal-context and pascal-context-59; say which"):
        prepare(tmp_path / "packed", tmp_path / "c")


def test_an_image_without_regions_is_no_image_of_background(ready: Path) -> None:
    known = detail(labels(ready))
    name, identity = known["images"][0]["file_name"][:-4], known["images"][0]["image_id"]
    known["annos_segmentation"] = [each for each in known["annos_segmentation"] if each["image_id"] != identity]
    (without_pngs(ready) / "trainval_merged.json").write_text(json.dumps(known))
    with open_tree(ready) as tree:
        found = recognise(tree, dataset="pascal-context")
    assert {split: len(jobs) for split, jobs in found.splits.items()} == {"train": 1, "val": 2}
    assert found.notes[0].endswith(f"have no annotation, such as {name}; they were left aside")


def test_a_complete_conversion_of_detail_is_complete(ready: Path) -> None:
    """As many images as trainval_merged.json annotates are three fewer than VOC 2010 lists, but all there is."""
    lists = ready / VOC / "ImageSets" / "SegmentationContext"
    with open_tree(ready) as tree:
        assert recognise(tree, dataset="pascal-context").card.images == {"train": 4998, "val": 5105}
    for split, images in ANNOTATED.items():
        names = (lists / f"{split}.txt").read_text().split()
        more = [f"2010_{number:06d}" for number in range(images - len(names))]
        (lists / f"{split}.txt").write_text("\n".join([*names, *more]))
    with open_tree(ready) as tree:
        found = recognise(tree, dataset="pascal-context")
    assert found.card.images == ANNOTATED
    assert found.notes[0].startswith("4994 of 4996 train images are not there or have no label, such as 2010_000000")


def _truncate(text: str) -> str:
    return text[: len(text) // 2]


def _no_json(text: str) -> str:
    return f"<html>{text}"


def _other_json(_text: str) -> str:
    return '{"annotations": [{"id": 1}], "licence": 3}'


def _field(text: str) -> str:
    return text.replace('"category_id"', '"category"')


def _category(text: str) -> str:
    return text.replace(f'"category_id": {IDS[-1]}', '"category_id": 300').replace(
        f'"category_id": {IDS[1]}', '"category_id": 300'
    )


def _size(text: str) -> str:
    return text.replace('"height": 48', '"height": 49')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, r"trainval_merged\.json is truncated, damaged or no JSON"),
        (_no_json, r"trainval_merged\.json is truncated, damaged or no JSON"),
        (_other_json, "is no file of PASCAL in Detail: looked for images .* it holds annotations"),
        (_field, "an entry of images or annos_segmentation lacks a field"),
        (_category, r"image 20\d+_\d+ has a region of category 300, which is none of the 60"),
        (
            _size,
            r"trainval_merged\.json: image \d+_\d+, category \d+: the run lengths cover 3072 pixels of a 64x49 mask",
        ),
    ],
)
def test_faults_of_the_json_file_are_named(
    ready: Path, tmp_path: Path, damage: Callable[[str], str], message: str
) -> None:
    known = detail(labels(ready))
    known["annos_segmentation"][0]["category_id"] = IDS[1]
    (without_pngs(ready) / "trainval_merged.json").write_text(damage(json.dumps(known)))
    with pytest.raises(DataError, match=message):
        prepare(ready, tmp_path / "out", dataset="pascal-context", partial=True)
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_named(ready: Path, tmp_path: Path) -> None:
    found = labels(ready)
    (ready / VOC / "SegmentationClassContext" / f"{next(iter(found))}.png").unlink()
    with open_tree(ready) as tree:
        assert recognise(tree, dataset="pascal-context").notes == [
            f"1 of 2 train images are not there or have no label, such as {next(iter(found))}"
        ]
    without_pngs(ready)
    with pytest.raises(DataError, match=r"holds no labels of Pascal Context: looked for .*; get VOCtrainval_03-May"):
        prepare(ready, tmp_path / "out", dataset="pascal-context")
    (ready / "trainval_merged.json").write_text(json.dumps(detail(found)))
    shutil.rmtree(ready / VOC / "JPEGImages")
    with pytest.raises(DataError, match="holds labels of Pascal Context but no VOC2010/JPEGImages; get"):
        prepare(ready, tmp_path / "out", dataset="pascal-context")


def test_a_damaged_mat_is_named(ready: Path, tmp_path: Path) -> None:
    found = labels(ready)
    original_release(without_pngs(ready), found)
    file = ready / "trainval" / f"{next(iter(found))}.mat"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=rf"label .*{file.name} is damaged or holds no LabelMap"):
        prepare(ready, tmp_path / "out", dataset="pascal-context", partial=True)
