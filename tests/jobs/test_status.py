"""`hrgrid status --watch`: goes on until every cell has ended, on a terminal and in a pipe."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jobs.cli import main
from orchestrator.ledger import Entry, Ledger
from orchestrator.storage import Storage
from tests.jobs.terminal import ROOT, on_terminal

CELL = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"


def _ledger(folder: Path) -> Ledger:
    ledger = Ledger(Storage(str(folder)))
    ledger.add_benchmark("hrnet", [Entry(cell=CELL, key=f"k{seed}", seed=seed, facets={}) for seed in (0, 1)])
    _progress(ledger, 10)
    return ledger


def _progress(ledger: Ledger, step: int) -> None:
    metrics = {"train/loss": 1.5, "train/images_per_s": 12.25}
    ledger.write_progress("k0", {"phase": "training", "step": step, "total": 100, "metrics": metrics})


def _end(ledger: Ledger, after: float = 0.0) -> None:
    time.sleep(after)
    ledger.write_result("k0", {"state": "finished", "metrics": {"val/mIoU": 71.25}})
    ledger.write_result("k1", {"state": "failed", "metrics": {}, "error": "the disk is full"})


def test_in_a_pipe_it_tells_news_and_ends_with_the_last_cell(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    command = [sys.executable, "-m", "jobs.cli", "status", "--watch", "--storage", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.endswith(f" {CELL}: training, step 10/100, loss 1.5000, images 12.2/s\n")
        _end(ledger)
        rest = process.stdout.read()
    assert process.returncode == 0
    assert f" {CELL}: finished, step 10/100, mIoU 71.25\n" in rest
    assert f"{CELL} seed 1: failed" in rest
    assert "2 cells: 1 finished, 1 failed;" in rest
    assert f"next: hrgrid report --storage {tmp_path}   hrgrid ui --storage {tmp_path}" in rest


def test_on_a_terminal_it_is_a_table(tmp_path: Path) -> None:
    ledger = _ledger(tmp_path)
    ending = threading.Thread(target=_end, args=(ledger, 3.0))
    ending.start()
    words = ["-m", "jobs.cli", "status", "--watch", "--storage", str(tmp_path)]
    shown = on_terminal(words, columns=120, height=20)
    ending.join()
    assert f"{CELL}         training  10/100" in shown
    assert "2 cells: 1 running, 1 waiting; " in shown
    assert shown.rstrip().splitlines()[-1].startswith("next: hrgrid report ")


def test_for_programs_there_is_json_and_no_watch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _ledger(tmp_path)
    assert main(["status", "--watch", "--json", "--storage", str(tmp_path)]) == 2
    assert "--watch is for people" in capsys.readouterr().err
