from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

import hrnet.published
from hrnet.catalogue import recipes
from hrnet.published import all_published, published
from hrnet.workload import memory_gb, published_device, published_links, table_columns, table_section


def test_37_recipes_have_published_numbers() -> None:
    names = [known.name for known in recipes() if published(known.name) is not None]
    assert list(all_published()) == names
    assert len(names) == 37
    without = [known for known in recipes() if published(known.name) is None]
    assert {(known.dataset.split("-59")[0], known.width == "w48") for known in without} == {("pascal-context", False)}


def test_the_table_equals_the_seed_table_field_by_field(parity_dir: Path) -> None:
    with (parity_dir.parent / "published.csv").open(newline="") as file:
        theirs = list(csv.DictReader(file))
    with (Path(hrnet.published.__file__).parent / "published.csv").open(newline="") as file:
        ours = list(csv.DictReader(file))
    for row in theirs:
        # one configuration's link is misspelt in the published table: `.pyy`
        row["config"] = re.sub(r"\.pyy?$", "", row["config"])
    assert ours == [{name: row[name] for name in ours[0]} for row in theirs]
    assert set(ours[0]) == set(theirs[0])
    numbers = ("mem_gb", "fps", "miou", "miou_ms_flip")
    for text, row in zip(ours, all_published().values(), strict=True):
        assert row.name == text["config"]
        assert [getattr(row, n) for n in numbers] == [float(text[n]) if text[n] else None for n in numbers]
        for name in ("dataset", "method", "backbone", "crop", "device", "checkpoint", "log"):
            assert getattr(row, name) == text[name]
        assert row.schedule == int(text["schedule"])


def test_what_the_table_says_follows_from_the_recipe() -> None:
    for known in recipes():
        row = published(known.name)
        columns = table_columns(known.width, known.schedule, known.crop)
        assert (columns["Method"], int(columns["Lr schd"])) == ("FCN", known.max_iters)
        if row is not None:
            assert columns == {"Method": row.method, "Backbone": row.backbone, "Crop Size": row.crop,
                               "Lr schd": str(row.schedule)}  # fmt: skip
            assert table_section(known.dataset) == row.dataset
            assert published_links(known.name)["log"] == row.log
        else:
            assert list(published_links(known.name)) == ["config"]
    assert (table_section("own"), published_links("own"), published_device("own")) == ("own", {}, "")
    assert table_columns("w18", "", None) == {"Method": "FCN", "Backbone": "HRNetV2p-W18"}


def test_hash_is_read_from_the_file_name() -> None:
    first = published("fcn_hr18s_4xb2-40k_cityscapes-512x1024")
    assert first is not None
    assert first.sha256_prefix == "93db27d0"
    assert all(len(row.sha256_prefix) == 8 and int(row.sha256_prefix, 16) >= 0 for row in all_published().values())


def test_no_row_is_unknown() -> None:
    assert published("fcn_hr18_4xb4-40k_pascal-context-480x480") is None


def test_the_memory_that_a_plan_expects_is_the_published_one() -> None:
    for name in ("fcn_hr18s", "fcn_hr18", "fcn_hr48"):
        (recipe,) = (r for r in recipes() if r.name == f"{name}_4xb2-40k_cityscapes-512x1024")
        row = published(recipe.name)
        assert row is not None
        assert row.mem_gb is not None
        assert memory_gb(recipe, 4) == pytest.approx(row.mem_gb * 2**30 / 1e9, rel=0.002)
