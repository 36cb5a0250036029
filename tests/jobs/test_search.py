"""`--search` through `hrgrid plan`: every sample is seen, twice the same, and what cannot be is one sentence."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from jobs._options import add_launch
from jobs._search import halving, print_samples
from jobs.cli import main
from orchestrator.grid import Trial
from orchestrator.ledger import Ledger
from orchestrator.search import Halving, sample_trials
from orchestrator.storage import Storage
from tests.orchestrator.fake import FakeWorkload

CELL = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"
LR = ["--search", "lr=loguniform(1e-3,1e-1)"]


def plan(tmp_path: Path, *words: str) -> list[str]:
    return ["plan", "--cluster", "gpus=8,memory=80", "--storage", str(tmp_path / "results"), *words]


def cells(capsys: pytest.CaptureFixture[str], words: list[str]) -> list[dict[str, Any]]:
    assert main([*words, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["cells"]
    return found


def test_every_sample_is_a_trial_of_its_own_and_the_same_the_next_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = plan(tmp_path, CELL, *LR, "--search", "weight_decay=choice(1e-4,5e-4)", "--samples", "4")
    first = cells(capsys, words)
    assert len({cell["key"] for cell in first}) == 4
    assert all("its settings are a sample of a search" in cell["not_comparable"] for cell in first)
    assert [cell["key"] for cell in cells(capsys, words)] == [cell["key"] for cell in first]
    assert {cell["key"] for cell in cells(capsys, [*words, "--search-seed", "1"])}.isdisjoint(
        cell["key"] for cell in first
    )
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.count(f"{CELL} lr=") == 4
    grid = plan(tmp_path, CELL, "--search", "lr=grid(0.01,0.02)", "--search", "weight_decay=grid(0,0.1,0.2)")
    assert len(cells(capsys, grid)) == 6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((CELL, "--search", "lr=loguniforn(1,2)"), "unknown domain 'loguniforn'; did you mean 'loguniform'?"),
        ((CELL, *LR), "say how many samples of lr to draw: --samples 8"),
        ((CELL, "--samples", "3"), "--samples is for a search"),
        ((CELL, "--search", "lrr=grid(1,2)"), "did you mean 'lr'?"),
        ((CELL, *LR, "--samples", "2", "--set", "lr=0.1"), "'lr' is both searched and set"),
        ((CELL, *LR, "--samples", "2", "--seeds", "0,1"), "a search compares samples of one cell and seed"),
        (("fcn_hr18s_*", *LR, "--samples", "2"), "a search compares samples of one cell and seed"),
        ((CELL, *LR, "--samples", "2", "--search-grace", "40001"), "give --search-grace 1 to 40000"),
        ((CELL, "--search-grace", "3"), "--search-grace is for a search"),
        ((CELL, *LR, "--samples", "2", "--search-metric", "val/miou"), "did you mean 'val/mIoU'?"),
        ((CELL, *LR, "--samples", "2", "--search-metric", "train/loss"), "'train/loss' is nothing that a validation"),
    ],
)
def test_what_cannot_be_searched_is_one_sentence(
    tmp_path: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(plan(tmp_path, *words)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_the_grace_period_is_one_validation_unless_it_is_given() -> None:
    parser = argparse.ArgumentParser()
    add_launch(parser)
    workload = FakeWorkload()
    trials = sample_trials(workload, workload.cells()[:1], [], [{"rate": "0.1"}, {"rate": "0.2"}])
    rules = halving(parser.parse_args([*LR, "--samples", "2"]), trials)
    assert rules is not None
    assert (rules.grace, rules.total, rules.reduction, rules.metric, rules.mode) == (2, 8, 3.0, "val/mIoU", "max")
    given = halving(parser.parse_args([*LR, "--samples", "2", "--search-grace", "4"]), trials)
    assert given is not None
    assert given.rungs == (4,)
    assert halving(parser.parse_args([]), trials) is None


def _samples(tmp_path: Path) -> tuple[Ledger, list[Trial], Halving]:
    workload = FakeWorkload()
    samples = [{"rate": rate} for rate in ("0.1", "0.5", "0.9")]
    ledger = Ledger(Storage(str(tmp_path)))
    rules = Halving(metric="val/mIoU", mode="max", grace=2, reduction=2, total=8)
    return ledger, sample_trials(workload, workload.cells()[:1], [], samples), rules


def test_the_table_ends_with_the_best_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger, trials, rules = _samples(tmp_path)
    print_samples(ledger, trials, rules)
    assert "best: none, as no sample is finished" in capsys.readouterr().out
    for trial, state, value in zip(trials, ("finished", "finished", "stopped"), (40.0, 60.0, 70.0), strict=True):
        ledger.write_result(trial.key, {"state": state, "metrics": {"val/mIoU": value}, "run_id": None})
    print_samples(ledger, trials, rules)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["1", "0.5", "60.000", "finished"], ["2", "0.1", "40.000", "finished"], ["3", "0.9", "70.000", "stopped"]
    ]  # fmt: skip
    assert lines[4] == "best: --set rate=0.5"
