"""The generated recipes against the effective settings of the reference's 45 configurations, and every override."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hrnet.catalogue import DATASETS, WIDTHS, Recipe, recipe, recipes, recipes_for, select
from hrnet.data.cards import Card, cards
from hrnet.errors import RecipeError

FIRST = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"
CONTEXT = "fcn_hr48_4xb4-40k_pascal-context-480x480"
DATASET_CLASSES = {
    "CityscapesDataset": "cityscapes",
    "ADE20KDataset": "ade20k",
    "PascalVOCDataset": "voc12aug",
    "PascalContextDataset": "pascal-context",
    "PascalContextDataset59": "pascal-context-59",
    "LoveDADataset": "loveda",
    "PotsdamDataset": "potsdam",
    "ISPRSDataset": "vaihingen",
    "iSAIDDataset": "isaid",
}
HUB = {
    "open-mmlab://msra/hrnetv2_w18_small": "hrnetv2_w18_small-b5a04e21.pth",
    "open-mmlab://msra/hrnetv2_w18": "hrnetv2_w18-00eb2006.pth",
    "open-mmlab://msra/hrnetv2_w48": "hrnetv2_w48-d2186c55.pth",
}


def configs(parity_dir: Path) -> dict[str, dict[str, Any]]:
    return {entry["config"]: entry for entry in json.loads((parity_dir / "configs.json").read_text())}


def test_names_are_the_published_ones(parity_dir: Path) -> None:
    assert len(recipes()) == 45
    assert {known.name for known in recipes()} == set(configs(parity_dir))


@pytest.mark.parametrize("ours", recipes(), ids=lambda ours: ours.name)
def test_every_field_equals_the_reference(ours: Recipe, parity_dir: Path) -> None:
    config = configs(parity_dir)[ours.name]
    optimizer, schedule, test = config["optimizer"], config["lr_schedule"], config["test_cfg"]
    expected: dict[str, Any] = {
        "name": config["config"],
        "dataset": DATASET_CLASSES[config["dataset"]],
        "width": config["width"].lower(),
        "schedule": f"{config['max_iters'] // 1000}k",
        "num_classes": config["num_classes"],
        "crop": tuple(config["crop_hw"]),
        "train_scale": tuple(config["train_scale_wh"]),
        "test_scale": tuple(config["test_scale_wh"]),
        "ratio_range": tuple(config["ratio_range"]),
        "cat_max_ratio": config["cat_max_ratio"],
        "flip_prob": 0.5,
        "photometric": "PhotoMetricDistortion" in config["train_pipeline"],
        "batch_size": config["batch_per_gpu"] * config["gpus"],
        "workers": config["gpus"],
        "loader_workers": config["train_workers"],
        "max_iters": config["max_iters"],
        "val_interval": config["val_interval"],
        "checkpoint_interval": config["ckpt_interval"],
        "log_interval": 50,
        "lr": optimizer["lr"],
        "momentum": optimizer["momentum"],
        "weight_decay": optimizer["weight_decay"],
        "lr_power": schedule["power"],
        "lr_min": schedule["eta_min"],
        "test_mode": test["mode"],
        "slide_crop": tuple(test["crop_size"]) if "crop_size" in test else None,
        "slide_stride": tuple(test["stride"]) if "stride" in test else None,
        # 0.x evaluates Pascal Context 60 like every other dataset; 1.2.2 has no such pipeline for it.
        "tta_ratios": tuple(config["tta_ratios"] or (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)),
        "tta_flip": True,
        "ms_flip": True,
        "reduce_zero_label": config["reduce_zero_label"],
        "ignore_index": config["ignore_index"],
        "pretrained": "https://download.openmmlab.com/pretrain/third_party/" + HUB[config["pretrained"]],
        "pretrained_sha256": HUB[config["pretrained"]][-12:-4],
        # The rest of what 0.x does otherwise (decay to k/T, padding of voc12aug after normalisation, sizes of the
        # multi-scale evaluation) follows from this field; it is what made the published table.
        "conventions": "0.x",
        "precision": "fp32",
        "val_limit": None,
        "speed_images": 200,
    }
    assert set(expected) == {field.name for field in fields(Recipe)}
    assert {name: getattr(ours, name) for name in expected} == expected
    assert (config["tta_ratios"] is None) == (ours.dataset == "pascal-context")
    assert ("Pad" in config["train_pipeline"]) == (ours.dataset == "voc12aug")
    assert schedule["end"] == ours.max_iters
    assert (schedule["begin"], config["n_schedulers"], config["clip_grad"]) == (0, 1, None)


def test_order_is_the_tables() -> None:
    assert list(dict.fromkeys(known.dataset for known in recipes())) == list(DATASETS)
    assert [known.width for known in recipes()] == list(WIDTHS) * 15
    assert [known.schedule for known in recipes()[:9:3]] == ["40k", "80k", "160k"]


def test_cards_agree_with_recipes() -> None:
    for known in recipes():
        card = cards()[known.dataset]
        assert (len(card.classes), card.reduce_zero_label) == (known.num_classes, known.reduce_zero_label)


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"did you mean 'fcn_hr18s_4xb2-40k_cityscapes-512x1024'\?"):
        recipe("fcn_hr18s_4xb2-40k_cityscape-512x1024")


@pytest.mark.parametrize("known", [recipe(FIRST), recipe(CONTEXT)], ids=["whole", "slide"])
def test_dict_round_trip_through_json(known: Recipe) -> None:
    assert Recipe.from_dict(json.loads(json.dumps(known.to_dict()))) == known


def test_from_dict_names_a_wrong_field() -> None:
    values = recipe(FIRST).to_dict()
    with pytest.raises(RecipeError, match=r"unknown field 'max_iter'; did you mean 'max_iters'\?"):
        Recipe.from_dict({**values, "max_iter": 1})
    del values["lr"]
    with pytest.raises(RecipeError, match="lacks the field 'lr'"):
        Recipe.from_dict(values)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("crop", "256x512", (256, 512)),
        ("crop", "x0.25", (128, 256)),
        ("max_iters", "20", 20),
        ("max_iters", "x0.001", 40),
        ("batch_size", "x0.01", 1),
        ("lr", "0.02", 0.02),
        ("lr", "x0.5", 0.005),
        ("lr_min", "0", 0.0),
        ("pretrained", "none", None),
        ("pretrained", "xception.pth", "xception.pth"),
        ("val_limit", "10", 10),
        ("val_limit", "none", None),
        ("ms_flip", "False", False),
        ("photometric", "true", True),
        ("tta_ratios", "0.5,1", (0.5, 1.0)),
        ("ratio_range", "1,1", (1.0, 1.0)),
        ("conventions", "1.x", "1.x"),
        ("precision", "bf16", "bf16"),
        ("test_mode", "whole", "whole"),
    ],
)
def test_override(field: str, text: str, value: object) -> None:
    changed = recipe(FIRST).with_overrides({field: text})
    assert getattr(changed, field) == value
    assert type(getattr(changed, field)) is type(value)


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("max_iter", "5", r"has no field 'max_iter'; did you mean 'max_iters'\?"),
        ("max_iters", "many", "max_iters must be a whole number or a factor such as x0.5, got 'many'"),
        ("max_iters", "0", "max_iters must be a whole number from 1 to 10000000, got 0"),
        ("max_iters", "2.5", "max_iters must be a whole number"),
        ("lr", "nan", "lr must be a number from 0 to 100, got nan"),
        ("lr", "xinf", "lr must be a number from 0 to 100, got inf"),
        ("max_iters", "xinf", "max_iters must be a whole number or a factor"),
        ("crop", "512", "crop must be a size such as 512x1024"),
        ("crop", "8x8", "crop must be two whole numbers from 32 to 16384"),
        ("ms_flip", "yes", "ms_flip must be true or false, got 'yes'"),
        ("lr", "none", "lr must be a number"),
        ("val_limit", "x2", "val_limit must be a whole number or a factor such as x0.5 or none"),
        ("tta_ratios", "", "tta_ratios must be numbers"),
        ("ratio_range", "2,0.5", "the smaller first"),
        ("precision", "fp16", "precision must be fp32 or bf16, got 'fp16'"),
        ("test_mode", "slide", "test_mode slide needs slide_crop and slide_stride"),
        ("width", "w48", "width is part of what the recipe is"),
        ("num_classes", "3", "num_classes is part of what the recipe is"),
    ],
)
def test_wrong_override_says_what_is_allowed(field: str, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        recipe(FIRST).with_overrides({field: text})
    assert FIRST in str(caught.value)


def test_stride_may_not_leave_gaps() -> None:
    with pytest.raises(RecipeError, match="slide_stride must not exceed slide_crop"):
        recipe(CONTEXT).with_overrides({"slide_stride": "481x480"})


def test_intervals_follow_the_length_unless_given() -> None:
    short = recipe(FIRST).with_overrides({"max_iters": "205"})
    assert (short.val_interval, short.checkpoint_interval) == (20, 20)
    given = recipe(FIRST).with_overrides({"max_iters": "5", "val_interval": "5"})
    assert (given.val_interval, given.checkpoint_interval) == (5, 1)


def test_differences_name_what_changes_scores() -> None:
    published = recipe(FIRST)
    changed = published.with_overrides(
        {"max_iters": "20", "crop": "256x512", "workers": "2", "log_interval": "1", "pretrained": "none"}
    )
    assert changed.differences(published) == (
        "crop 256x512 instead of 512x1024",
        "max_iters 20 instead of 40000",
        "trained from scratch instead of started from hrnetv2_w18_small-b5a04e21.pth (SHA-256 b5a04e21...)",
    )
    assert published.differences(published) == ()


def camvid(**values: Any) -> Card:
    classes = ("sky", "building", "pole")
    return Card(
        name="camvid", title="CamVid", classes=classes, palette=((0, 0, 0), (1, 1, 1), (2, 2, 2)),
        **{"inherits": "cityscapes", **values},
    )  # fmt: skip


def test_custom_card_inherits() -> None:
    own = recipes_for(camvid(changes={"crop": "360x480", "train_scale": "480x360", "lr": "x0.5"}))
    assert len(own) == 9
    assert own[0].name == "fcn_hr18s_4xb2-40k_camvid-360x480"
    assert (own[0].dataset, own[0].num_classes, own[0].lr, own[0].batch_size) == ("camvid", 3, 0.005, 8)
    assert own[0].test_scale == (2048, 1024)


def test_custom_card_with_a_batch_of_its_own_says_so_in_the_name() -> None:
    assert recipes_for(camvid(changes={"batch_size": "6"}))[0].name == "fcn_hr18s_1xb6-40k_camvid-512x1024"


def test_card_of_a_published_dataset_has_the_published_recipes() -> None:
    assert recipes_for(cards()["isaid"]) == recipes()[-3:]


def test_custom_card_with_a_wrong_change() -> None:
    with pytest.raises(RecipeError, match="has no field 'batch'"):
        recipes_for(camvid(changes={"batch": "6"}))


def test_select_filters_and_keeps_the_order() -> None:
    chosen = select(recipes(), datasets=["isaid", "cityscapes"], widths=["w18"], schedules=["80k"])
    assert [c.dataset for c in chosen] == ["cityscapes", "isaid"]
    assert select(recipes(), names=["*hr48*context-59*"]) == select(recipes(), ["pascal-context-59"], ["w48"])
    assert select(recipes()) == recipes()


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"datasets": ["cityscape"]}, r"no dataset 'cityscape'; did you mean 'cityscapes'\?"),
        ({"widths": ["w32"]}, "no width 'w32'"),
        ({"schedules": ["10k"]}, "no schedule '10k'"),
        ({"names": ["fcn_hr99*"]}, r"no recipe 'fcn_hr99\*'"),
        ({"datasets": ["cityscapes"], "schedules": ["20k"]}, "no recipe has all of cityscapes, 20k"),
    ],
)
def test_select_explains_an_empty_choice(filters: dict[str, list[str]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        select(recipes(), **filters)
