from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hrnet.data.cards import Card, card, cards, load_card
from hrnet.errors import DataError

REFERENCE_CLASSES = {
    "cityscapes": "CityscapesDataset",
    "ade20k": "ADE20KDataset",
    "voc12aug": "PascalVOCDataset",
    "pascal-context": "PascalContextDataset",
    "pascal-context-59": "PascalContextDataset59",
    "loveda": "LoveDADataset",
    "potsdam": "PotsdamDataset",
    "vaihingen": "ISPRSDataset",
    "isaid": "iSAIDDataset",
}

COUNTS = {
    "cityscapes": (2975, 500),
    "ade20k": (20210, 2000),
    "voc12aug": (10582, 1449),
    "pascal-context": (4998, 5105),
    "pascal-context-59": (4998, 5105),
    "loveda": (2522, 1669),
    "potsdam": (3456, 2016),
    "vaihingen": (344, 398),
    "isaid": (33978, 11644),
}


def test_published_cards_equal_the_reference(parity_dir: Path) -> None:
    reference = json.loads((parity_dir / "datasets.json").read_text())
    assert list(cards()) == list(REFERENCE_CLASSES)
    for name, key in REFERENCE_CLASSES.items():
        ours, theirs = card(name), reference[key]
        assert list(ours.classes) == theirs["classes"]
        assert [list(colour) for colour in ours.palette] == theirs["palette"]
        assert (ours.image_suffix, ours.label_suffix) == (theirs["img_suffix"], theirs["seg_map_suffix"])
        assert (ours.reduce_zero_label, ours.ignore_index) == (theirs["reduce_zero_label"], theirs["ignore_index"])
        assert (ours.train_images, ours.val_images) == COUNTS[name]


def test_unknown_data_set_suggests_a_near_miss() -> None:
    with pytest.raises(DataError, match="unknown data set 'cityscape'; did you mean 'cityscapes'"):
        card("cityscape")


def test_card_survives_json() -> None:
    for published in cards().values():
        assert Card.from_dict(json.loads(json.dumps(published.to_dict()))) == published


def test_yaml_card_with_defaults(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_text(
        "name: fields\nclasses: [crop, weed, soil]\nignore_index: 9\nchanges: {crop: 256x256, batch_size: 8}\n"
    )
    loaded = load_card(tmp_path)
    assert loaded == load_card(tmp_path / "card.yaml")
    assert loaded.classes == ("crop", "weed", "soil")
    assert loaded.inherits == "cityscapes"
    assert loaded.changes == {"crop": "256x256", "batch_size": "8"}
    assert len(set(loaded.palette)) == 3


def test_meta_json_becomes_a_card(shared_data: Path) -> None:
    camvid = load_card(shared_data / "camvid")
    assert (camvid.name, camvid.ignore_index, len(camvid.classes)) == ("camvid", 11, 11)
    assert camvid.changes == {"train_scale": "480x360", "test_scale": "480x360", "crop": "360x480"}
    dubai = load_card(shared_data / "dubai")
    assert (dubai.name, dubai.inherits, dubai.changes) == ("dubai", "cityscapes", {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nclases: [x]\n", "unknown field 'clases'; did you mean 'classes'"),
        ("name: a\n", "the field 'classes' is missing"),
        ("name: My Data\nclasses: [x]\n", "name is 'My Data'; use lower-case"),
        ("name: a\nclasses: [x, x]\n", "names 'x' more than once"),
        ("name: a\nclasses: [on, no]\n", "quote names"),
        ("name: a\nclasses: [x, y]\npalette: [[1, 2, 3]]\n", "palette has 1 colours for 2 classes"),
        ("name: a\nclasses: [x]\npalette: [[1, 2, 300]]\n", "each 0 to 255"),
        ("name: a\nclasses: [x, y]\nignore_index: 1\n", "ignore_index is 1, which is class 'y'"),
        ("name: a\nclasses: [x]\ninherits: cityscape\n", "did you mean 'cityscapes'"),
        ("- a\n- b\n", "a card is a mapping"),
        ("name: [\n", "not valid YAML"),
    ],
)
def test_wrong_cards_are_refused_with_the_file_and_the_reason(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "card.yaml"
    file.write_text(text)
    with pytest.raises(DataError) as caught:
        load_card(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


def test_folder_without_a_card_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no card; looked for card\.yaml"):
        load_card(tmp_path)


def test_importing_cards_is_light() -> None:
    code = (
        "import sys, hrnet.data.cards as c; c.cards();"
        "heavy = {'torch', 'numpy', 'cv2', 'pyarrow', 'yaml'} & set(sys.modules); sys.exit(','.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
