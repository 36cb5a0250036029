"""Plain facts on a terminal, and the board of a running launch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from jobs._live import Board, line_of
from jobs._options import positive, seeds
from jobs._show import duration, number, plural, print_table, reason_of
from orchestrator.plan import PlannedTrial
from orchestrator.scheduler import TrialProgress
from orchestrator.workload import Cell, Estimate, Spec


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


def _planned(name: str, key: str) -> PlannedTrial:
    spec = Spec(
        cell=Cell(name=name), settings={}, seed=0, data="", data_fingerprint="", code_version="1", not_comparable=()
    )
    needs = Estimate(batch=4, workers=1, iterations=100, work=1.0, memory_gb=1.0)
    return PlannedTrial(
        spec=spec, key=key, action="run", reason="", workers=1, cpus_per_worker=1, gpus_per_worker=0, estimate=needs
    )


def _at(step: int, **more: float) -> list[TrialProgress]:
    metrics = {"train/loss": 1.5, **{f"val/{name}": value for name, value in more.items()}}
    return [
        TrialProgress(key="k1", cell="one", state="running", phase="training", step=step, total=100, metrics=metrics),
        TrialProgress(key="k2", cell="two", state="waiting"),
    ]


def test_a_board_without_a_terminal_tells_news_once(capsys: pytest.CaptureFixture[str]) -> None:
    clock: Iterator[float] = iter(range(0, 100_000, 4))
    with Board([_planned("one", "k1"), _planned("two", "k2")], clock=lambda: float(next(clock))) as board:
        board.update(_at(10))
        board.update(_at(10))
        board.update(_at(20, mIoU=30.0))
        board.update([TrialProgress(key="k1", cell="one", state="failed", step=20, total=100)])
    lines = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "one: training, step 10/100, loss 1.5000"
    assert lines[1].startswith("one: training, step 20/100, loss 1.5000, mIoU 30.00, finish ")
    assert lines[2] == "one: failed, step 20/100"
    assert len(lines) == 3


def test_a_board_tells_once_that_a_run_is_far_below_its_reference(capsys: pytest.CaptureFixture[str]) -> None:
    low = replace(_at(20, mIoU=30.0)[0], warning="val/mIoU 30.0 at iteration 20 is 40 points below")
    with Board([_planned("one", "k1")], clock=lambda: 0.0) as board:
        for progress in (_at(20, mIoU=30.0)[0], low, low, replace(low, warning="")):
            board.update([progress])
    lines = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if "far below" in line] == [f"one: far below its reference: {low.warning}"]
    assert len(lines) == 4
    assert "val/mIoU 30.0 at iteration 20" in str(board._table({"k1": line_of("one", low, None)}).caption)


def test_the_finish_time_carries_the_pace_on() -> None:
    now = 1000.0
    board = Board([_planned("one", "k1")], clock=lambda: now)
    assert board._finish(_at(10)[0]) is None
    now = 1020.0
    assert board._finish(_at(20)[0]) == 1020.0 + 80 * 2.0
    now = 1021.0
    assert board._finish(_at(20)[0]) == 1180.0, "the time between two steps does not push the end away"
    assert board._finish(_at(100)[0]) is None
