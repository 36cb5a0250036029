"""`hrgrid data check` and the plan on data that are not complete, or wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hrnet.data.prepare.run import prepare
from jobs.cli import main
from tests.hrnet.corruptions import rename_city, street

NAME = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    prepare(street(tmp_path), tmp_path / "data" / "cityscapes", partial=True)
    return tmp_path / "data"


def test_a_partial_set_passes_and_is_marked(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(data / "cityscapes")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["class", "train", "val", "published"]
    assert shown[1].split()[0] == "road"
    assert shown[1].split()[-1] == "36.882%"
    images = next(line for line in shown if line.startswith("images"))
    assert " ".join(images.split()) == "images 2 of 2975 2 of 500 -"
    assert "note: train: 2 of 2975 images of Cityscapes: 2973 missing; results are not comparable" in shown
    assert "every sample was read and is right; not the complete data set" in shown[-2]
    assert main(["data", "check", "--json", str(data / "cityscapes")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["ok"], facts["comparable"]) == (True, False)
    assert facts["partial"] == ["2 of 2975 train images of Cityscapes", "2 of 500 val images of Cityscapes"]


def plan(data: Path, *more: str) -> list[str]:
    where = data.parent / "storage"
    return ["plan", NAME, "--data", str(data), "--storage", str(where), "--set", "pretrained=none", *more]


def test_a_plan_says_and_marks_what_is_not_comparable(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(plan(data)) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("* not comparable with the p")]
    assert "1 cell (" in line
    assert main(plan(data, "--json")) == 0
    [cell] = json.loads(capsys.readouterr().out)["cells"]
    assert "2 of 2975 train images of Cityscapes" in cell["not_comparable"]


def test_wrong_data_are_refused_by_check_and_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    native = rename_city(street(tmp_path), "train", "frankfurt")
    prepare(native, tmp_path / "data" / "cityscapes", partial=True, force=True)
    assert main(["data", "check", "--quick", str(tmp_path / "data" / "cityscapes")]) == 2
    sentence = "2 of 2 images belong to val by their names"
    assert sentence in capsys.readouterr().out
    assert main(plan(tmp_path / "data")) == 2
    assert sentence in capsys.readouterr().err
