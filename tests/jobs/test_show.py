"""Plain facts on a terminal, and the board of a running launch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from jobs._live import _COLUMNS, _WIDE_COLUMNS, Board
from jobs._options import positive, seeds
from jobs._show import duration, number, plural, print_table, reason_of
from orchestrator.watching import TrialProgress
from tests.jobs.terminal import on_terminal


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (math.nan, "-"), (0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5340, "89 min"), (5400, "1 h 30 min"),
     (172_799, "2 d 0 h"), (259_200, "3 d 0 h")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_and_plurals() -> None:
    assert [number(7.005, 1), number(None), number(math.nan)] == ["7.0", "-", "-"]
    assert [plural(1, "cell"), plural(0, "cell"), plural(2, "cell")] == ["1 cell", "0 cells", "2 cells"]
    assert reason_of("cell: it broke\nlog", "cell") == reason_of("it broke", "cell") == "it broke"
    assert seeds("0, 3,7") == (0, 3, 7)
    assert positive("12") == 12


def test_nothing_is_cut_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "text"), [("a", "x" * 500), ("[b]", "y")], right={"text"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "a     " + "x" * 500
    assert lines[2].startswith("[b] ")


def test_a_narrow_terminal_loses_no_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_table(("name", "text", "n"), [("abcdefgh", "y" * 12, "1")])
    print_table(("name", "n"), [("abcdefgh", "1")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "abcdefgh  " + "y" * 12 + "  1"
    assert lines[3].split() == ["abcdefgh", "1"]


def _at(step: int, **more: float) -> list[TrialProgress]:
    metrics = {"train/loss": 1.5, **{f"val/{name}": value for name, value in more.items()}}
    return [
        TrialProgress(key="k1", cell="one", state="running", phase="training", step=step, total=100, metrics=metrics),
        TrialProgress(key="k2", cell="two", state="waiting"),
    ]


def test_a_board_without_a_terminal_tells_news_once(capsys: pytest.CaptureFixture[str]) -> None:
    clock: Iterator[float] = iter(range(0, 100_000, 4))
    with Board({"k1": "one", "k2": "two"}, clock=lambda: float(next(clock))) as board:
        board.update(_at(10))
        board.update(_at(10))
        board.update(_at(20, mIoU=30.0))
        board.update([TrialProgress(key="k1", cell="one", state="failed", step=20, total=100), _at(20)[1]])
    lines = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "one: training, step 10/100, loss 1.5000"
    assert lines[1].startswith("one: training, step 20/100, loss 1.5000, mIoU 30.00, finish ")
    assert lines[2] == "one: failed, step 20/100"
    assert lines[3] == "2 cells: 1 waiting, 1 failed; 52 s so far"
    assert len(lines) == 4


def test_a_board_tells_once_that_a_run_is_far_below_its_reference(capsys: pytest.CaptureFixture[str]) -> None:
    low = replace(_at(20, mIoU=30.0)[0], warning="val/mIoU 30.0 at iteration 20 is 40 points below")
    with Board({"k1": "one"}, clock=lambda: 0.0) as board:
        for progress in (_at(20, mIoU=30.0)[0], low, low, replace(low, warning="")):
            board.update([progress])
    lines = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if "far below" in line] == [f"one: far below its reference: {low.warning}"]
    assert len(lines) == 4


GRID = """
import os, time
from jobs._live import _COLUMNS, _WIDE_COLUMNS, Board
from orchestrator.watching import TrialProgress
names = {f"k{n}": f"fcn_hr18s_4xb2-{n}k_cityscapes-512x1024" for n in range(45)}
now = 1000.0
with Board(names, work={key: 1.0 for key in names}, clock=lambda: now) as board:
    for turn in range(2):
        now += 60.0
        metrics = {"train/loss": 1.5, "train/images_per_s": 12.25, "val/mIoU": 33.0}
        seen = [TrialProgress(key=key, cell=key, state="waiting") for key in names]
        seen[0] = TrialProgress(key="k0", cell="k0", state="finished", step=100, total=100, metrics=metrics)
        seen[1] = TrialProgress(key="k1", cell="k1", state="failed", step=50, total=100)
        seen[2] = TrialProgress(key="k2", cell="k2", state="running", phase="evaluating", step=100, total=100,
                                evaluated=12, to_evaluate=500)
        seen[44] = TrialProgress(key="k44", cell="k44", state="running", phase="training", step=30 * (turn + 1),
                                 total=100, metrics=metrics)
        board.update(seen)
"""


@pytest.mark.parametrize("wide", [True, False], ids=["wide", "narrow"])
def test_45_cells_on_a_terminal_of_16_lines(wide: bool) -> None:
    columns = 130 if wide else 80
    lines = on_terminal(["-c", GRID], columns=columns, height=16).splitlines()
    last = max(place for place, line in enumerate(lines) if line.startswith("cell "))
    shown = lines[last:]
    assert len(shown) <= 16
    assert shown[0].split() == [name for name in _COLUMNS if wide or name not in _WIDE_COLUMNS]
    text = "\n".join(shown)
    assert all(len(line) <= columns for line in shown)
    for told in ("failed", "evaluating 12/500", "60/100", "33.00", "not shown: 1 finished, "):
        assert told in text
    assert ("12.2" in text) == wide, "the numbers of a narrow terminal are those that matter"
    assert ("fcn_hr18s_4xb2-44k_cityscapes-512x1024" in text) == wide
    assert "45 cells: 1 finished, 2 running, 41 waiting, 1 failed; 2 min so far, trainings" in text


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
def test_colours_are_off_where_they_are_not_wanted(name: str) -> None:
    setting = {"NO_COLOR": {"NO_COLOR": "1"}, "TERM": {"TERM": "dumb"}}[name]
    assert "\x1b[31mfailed" in on_terminal(["-c", GRID], columns=130, height=60, raw=True)
    assert "\x1b[31m" not in on_terminal(["-c", GRID], columns=130, height=60, raw=True, **setting)


def test_the_finish_time_carries_the_pace_on() -> None:
    now = 1000.0
    board = Board({"k1": "one"}, clock=lambda: now)
    assert board._finish(_at(10)[0]) is None
    now = 1020.0
    assert board._finish(_at(20)[0]) == 1020.0 + 80 * 2.0
    now = 1021.0
    assert board._finish(_at(20)[0]) == 1180.0, "the time between two steps does not push the end away"
    assert board._finish(_at(100)[0]) is None
