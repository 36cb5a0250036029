from __future__ import annotations

import csv
from pathlib import Path

from hrnet.catalogue import recipes
from hrnet.published import all_published, published


def test_37_recipes_have_published_numbers() -> None:
    names = [known.name for known in recipes() if published(known.name) is not None]
    assert list(all_published()) == names
    assert len(names) == 37
    without = [known for known in recipes() if published(known.name) is None]
    assert {(known.dataset.split("-59")[0], known.width == "w48") for known in without} == {("pascal-context", False)}


def test_numbers_equal_the_seed_table(parity_dir: Path) -> None:
    with (parity_dir.parent / "published.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, ours in zip(rows, all_published().values(), strict=True):
        assert row["config"].startswith(f"{ours.name}.py")
        assert (ours.miou, ours.miou_ms_flip) == (float(row["miou"]), float(row["miou_ms_flip"]))
        assert ours.mem_gb == (float(row["mem_gb"]) if row["mem_gb"] else None)
        assert ours.fps == (float(row["fps"]) if row["fps"] else None)
        assert ours.checkpoint == row["checkpoint"]


def test_hash_is_read_from_the_file_name() -> None:
    first = published("fcn_hr18s_4xb2-40k_cityscapes-512x1024")
    assert first is not None
    assert first.sha256_prefix == "93db27d0"
    assert all(len(row.sha256_prefix) == 8 and int(row.sha256_prefix, 16) >= 0 for row in all_published().values())


def test_no_row_is_unknown() -> None:
    assert published("fcn_hr18_4xb4-40k_pascal-context-480x480") is None
