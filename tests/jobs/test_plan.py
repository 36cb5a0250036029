"""What `hrgrid plan` prints, and what a launch does about blocked cells; no Ray is started."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import main

CLUSTER = "gpus=24,memory=80,rate=3000"
SMALL = "fcn_hr18s_*cityscapes*"


def planned(*words: str, folder: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    assert main(["plan", "--storage", str(folder), *words]) == code
    return capsys.readouterr().out


def facts(*words: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(planned(*words, "--json", folder=folder, capsys=capsys))
    return found


def test_a_plan_tells_hours_money_bound_and_draws_every_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = planned("--cluster", CLUSTER, "--price", "2.5", folder=tmp_path, capsys=capsys)
    hours = float(re.search(r"; ([\d.]+) GPU-hours", said)[1])  # type: ignore[index]
    price = float(re.search(r"price: ([\d.]+) at 2.5 per GPU-hour", said)[1])  # type: ignore[index]
    assert price == pytest.approx(2.5 * hours, rel=1e-3)
    assert re.search(r"expected: .*, until \d{4}-\d\d-\d\d \d\d:\d\d, 1\.00\d times the lower bound of", said)
    assert "estimates of 45 cells: from the given 3000 GMAC/s per worker" in said
    drawing = said.split("\n  GPU ")[1].splitlines()
    assert len(drawing) == 7  # the axis, and six gangs of four
    assert max(map(len, drawing)) < 80
    assert sum(line.count("|") for line in drawing[1:]) == 45
    assert not list(tmp_path.iterdir())


def test_json_has_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = facts("--cluster", CLUSTER, "--price", "2", SMALL, "--set", "lr=0.02", folder=tmp_path, capsys=capsys)
    assert found["cost"] == pytest.approx(2 * found["slot_hours"])
    assert 1.0 <= found["finish_over_bound"] <= 1.001
    assert found["gantt"]
    for cell in found["cells"]:
        assert (cell["action"], cell["workers"], cell["share"]) == ("run", 4, 1)
        assert cell["estimate_source"] == "given"
        assert cell["end"] == pytest.approx(cell["start"] + cell["seconds"])
        assert cell["not_comparable"] == ["lr 0.02 instead of 0.01"]
        assert cell["cost"] == pytest.approx(2 * cell["slot_hours"])


def test_many_cells_are_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = planned("--cluster", "gpus=512,rate=3000", "--seeds", "0,1,2", folder=tmp_path, capsys=capsys)
    assert "135 cells: 135 to run" in said
    slices = said.split("busy GPUs")[1].splitlines()[1:]
    assert len(slices) == 16
    assert all(0 < float(re.search(r"([\d.]+) %", line)[1]) <= 100 for line in slices)  # type: ignore[index]


def test_sharing_and_gangs_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--cluster", CLUSTER, "--workers", "1", "*_cityscapes-*"]
    said = planned(*words, "--share-gpus", "4", folder=tmp_path, capsys=capsys)
    assert "6 cells share GPUs, 4 on each (1/4 above)" in said
    assert "3 cells alone on their GPUs: it needs about 26.6 GB, and 4 on a GPU have 18.0 GB each" in said
    said = planned(*words, "--share-gpus", folder=tmp_path, capsys=capsys)
    assert "9 cells alone on their GPUs: nothing of its kind was measured" in said
    usual = facts("--cluster", "gpus=96,memory=80,rate=3000", folder=tmp_path, capsys=capsys)
    auto = facts("--cluster", "gpus=96,memory=80,rate=3000", "--gangs", "auto", folder=tmp_path, capsys=capsys)
    assert auto["finish_seconds"] < 0.5 * usual["finish_seconds"]
    assert auto["bound_seconds"] <= auto["finish_seconds"]


def test_without_a_measurement_nothing_is_made_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = planned("--cluster", "gpus=8", SMALL, folder=tmp_path, capsys=capsys)
    assert "expected: unknown until a cell has run on such a device" in said
    assert facts("--cluster", "gpus=8", SMALL, folder=tmp_path, capsys=capsys)["finish_at"] is None
    main(["plan", "--storage", str(tmp_path), "--cluster", "gpus=8", SMALL])
    assert "without --data (or HRGRID_DATA) no data are checked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--price", "2 EUR"], "'2 EUR' is no price; give a number such as 2.5"),
        (["--share-gpus", "1"], "'1' is no number of trials per GPU; give 2 or more"),
        (["--gangs", "big"], "invalid choice: 'big'"),
    ],
)
def test_options_that_cannot_be(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_blocked_cells_stop_a_launch_unless_they_shall_be_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, prepared = tmp_path / "drawn", tmp_path / "prepared"
    assert main(["data", "synth", "--to", str(drawn), "--train", "2", "--val", "1", "--size", "64x128"]) == 0
    assert main(["data", "prepare", str(drawn), "--to", str(prepared), "--partial"]) == 0
    words = [
        "launch",
        SMALL,
        "--data",
        str(prepared),
        "--storage",
        str(tmp_path / "results"),
        "--set",
        "pretrained=none",
    ]
    words += ["--cluster", "cpus=2", "--workers", "4", "--yes"]
    assert main(words) == 2
    assert not (tmp_path / "results" / "reports").exists()
    assert main([*words, "--skip-blocked"]) == 1
    assert "it needs 4 workers at once and the cluster has 2" in capsys.readouterr().err
    assert (tmp_path / "results" / "reports").exists()


def test_a_cluster_that_does_not_answer_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--storage", str(tmp_path), "--address", "127.0.0.1:9"]) == 2
    assert "the Ray cluster 127.0.0.1:9 does not answer (" in capsys.readouterr().err
