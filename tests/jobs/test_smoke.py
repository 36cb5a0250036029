"""`hrgrid launch --smoke`: what becomes of the 45 recipes, their plan, and one cell for real."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from hrnet.catalogue import recipes
from hrnet.data.synthetic import DATASETS
from jobs import launch
from jobs._command import CommandParser
from jobs._options import overrides_for
from jobs._planning import cluster_shape, draft, obstacles
from jobs._smoke import CHANGES, FOLDER, SLIDING, arrange
from jobs.cli import main
from orchestrator.errors import UsageError
from tests.jobs.test_launch import hrgrid

EIGHTHS = ("crop", "train_scale", "test_scale", "slide_crop", "slide_stride")
SLID = "fcn_hr18s_4xb4-40k_pascal-context-59-480x480"


def parsed(*words: str) -> argparse.Namespace:
    parser = CommandParser("hrgrid launch", launch.HELP)
    launch.add_arguments(parser)
    return parser.parse_args(["--smoke", *words])


def test_every_recipe_keeps_what_makes_it_special_at_an_eighth_of_its_size() -> None:
    assert len(recipes()) == 45
    for published in recipes():
        small = published.with_overrides(overrides_for(published.name, [*CHANGES, *SLIDING]))
        for name in EIGHTHS:
            size = getattr(published, name)
            assert getattr(small, name) == (None if size is None else tuple(side // 8 for side in size))
        same = ("width", "num_classes", "reduce_zero_label", "test_mode", "ms_flip", "tta_flip", "lr", "conventions")
        assert [getattr(small, name) for name in same] == [getattr(published, name) for name in same]
        assert (small.max_iters, small.val_interval, small.checkpoint_interval) == (3, 3, 3)
        assert small.pretrained is None


def test_all_45_cells_are_planned_on_data_that_is_drawn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HRGRID_STORAGE", str(tmp_path))
    args = parsed()
    arrange(args)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == list(DATASETS)
    made = draft(args, cluster_shape(args))
    assert not obstacles(made.plan)
    assert len(made.plan.to_run) == 45
    assert {trial.workers for trial in made.plan.to_run} == {1}
    assert made.settings.benchmark == "smoke"
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / FOLDER).rglob("*") if path.is_file()}
    again = parsed("--dataset", "isaid", "--set", "max_iters=5", "--workers", "2", "--name", "mine")
    arrange(again)
    assert not capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in written} == written
    made = draft(again, cluster_shape(again))
    assert [trial.estimate.iterations for trial in made.trials] == [5, 5, 5]
    assert {trial.workers for trial in made.plan.to_run} == {2}
    assert made.settings.benchmark == "mine"


def test_other_data_is_refused_and_nothing_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--smoke draws its own data, but --data names /elsewhere"):
        arrange(parsed("--data", "/elsewhere", "--storage", str(tmp_path)))
    with pytest.raises(UsageError, match="did you mean 'isaid'"):
        arrange(parsed("--dataset", "isaad", "--storage", str(tmp_path)))
    assert not list(tmp_path.iterdir())


def test_the_usual_data_are_left_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRGRID_DATA", "prepared/")
    with pytest.raises(UsageError, match="did you mean 'isaid'"):
        arrange(parsed("--dataset", "isaad", "--storage", str(tmp_path)))


@pytest.mark.ray
@pytest.mark.slow
def test_a_slid_cell_for_real_and_its_relaunch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("launch", "--smoke", SLID, "--storage", str(tmp_path / "results"))
    done = hrgrid(*words, "--yes", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "smoke: 1 of 1 cells FINISHED with single-scale and ms+flip mIoU" in done.stdout
    assert main(["status", "--storage", str(tmp_path / "results"), "--json"]) == 0
    (benchmark,) = json.loads(capsys.readouterr().out)["benchmarks"]
    (cell,) = benchmark["cells"]
    assert {"val/mIoU", "val/mIoU_ms_flip"} <= set(cell["metrics"])
    assert main(list(words)) == 0
    assert "1 cell: 1 to skip" in capsys.readouterr().out
