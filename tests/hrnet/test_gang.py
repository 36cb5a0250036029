"""Interrupted gangs of real workers: as many again end with the same bits, another number with the same rounding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hrnet.catalogue import Recipe
from hrnet.data.loader import train_batches
from hrnet.data.shards import open_dataset
from hrnet.training.state import STATE_FILE, weights_hash

from . import gang_worker

ROOT = Path(__file__).resolve().parents[2]
LAST = str(gang_worker.STEPS)
ROUNDING = 1e-5
"""Largest relative difference of a loss between gangs of different sizes."""


def train_gangs(workers: int, data: Path, folder: Path) -> Path:
    command = [sys.executable, "-W", "ignore", "-m", "tests.hrnet.gang_worker"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(workers):
        with (folder / f"{rank}.log").open("wb") as log:
            own = [*command, str(rank), str(workers), str(folder), str(data)]
            processes.append(subprocess.Popen(own, cwd=ROOT, env=environment, stdout=log, stderr=log))
    codes = [process.wait(timeout=600) for process in processes]
    assert not any(codes), "\n".join((folder / f"{rank}.log").read_text()[-2000:] for rank in range(workers))
    return folder


@pytest.fixture(scope="module")
def three(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what the runs of three processes left."""
    return train_gangs(3, tiny_data, tmp_path_factory.mktemp("three"))


@pytest.fixture(scope="module")
def four(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what the runs of four processes left."""
    return train_gangs(4, tiny_data, tmp_path_factory.mktemp("four"))


def told(gangs: Path, name: str, rank: int = 0) -> list[dict[str, Any]]:
    document: list[dict[str, Any]] = json.loads((gangs / name / f"{rank}.json").read_text())
    return document


def losses(gangs: Path, name: str) -> list[float]:
    return [event["metrics"]["train/loss"] for event in told(gangs, name) if event["kind"] == "progress"]


def state(gangs: Path, name: str, step: str = LAST) -> dict[str, Any]:
    return dict(torch.load(gangs / name / step / STATE_FILE, weights_only=True))


def assert_same_bits(gangs: Path, whole: str, resumed: str) -> None:
    assert losses(gangs, resumed) == losses(gangs, whole)
    assert weights_hash(gangs / resumed / LAST) == weights_hash(gangs / whole / LAST)
    one, other = state(gangs, whole), state(gangs, resumed)
    for number, slot in one["optimizer"]["state"].items():
        assert torch.equal(slot["momentum_buffer"], other["optimizer"]["state"][number]["momentum_buffer"])


def assert_same_experiment(gangs: Path, whole: str, resumed: str) -> None:
    assert losses(gangs, resumed) == pytest.approx(losses(gangs, whole), rel=ROUNDING)
    rates = [
        [event["metrics"]["train/lr"] for event in told(gangs, name) if event["kind"] == "progress"]
        for name in (whole, resumed)
    ]
    assert rates[0] == rates[1]


def test_three_workers_go_on_bit_for_bit(three: Path) -> None:
    assert_same_bits(three, "3 saved", "3 resumed")


def test_a_wish_of_one_rank_reaches_all_at_the_same_step(three: Path) -> None:
    for name, wish in (("3 stopped", "stop"), ("3 saved", "save")):
        first = [
            next(event for event in told(three, name, rank) if event["kind"] == "checkpoint") for rank in range(3)
        ]
        assert [(event["step"], event["wish"]) for event in first] == [(1, wish)] * 3
    assert [event["kind"] for event in told(three, "3 stopped")] == ["started", "checkpoint"]


def test_the_sums_of_an_interval_are_kept_by_worker(three: Path) -> None:
    sums = state(three, "3 stopped", "1")["progress"]["sums"]
    assert sums.shape == (3, 4)
    assert sums[:, 3].tolist() == [1.0, 1.0, 1.0]


def test_one_worker_goes_on_for_three(three: Path) -> None:
    assert_same_experiment(three, "3 saved", "3 to 1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("whole", "resumed"), [("2 saved", "2 resumed"), ("4 unbroken", "4 resumed"), ("4 unbroken", "4 saved")]
)
def test_two_and_four_workers_go_on_bit_for_bit(four: Path, whole: str, resumed: str) -> None:
    assert_same_bits(four, whole, resumed)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "whole"), [("2 to 1", "2 saved"), ("1 to 2", "1 saved"), ("2 to 4", "2 saved")])
def test_another_number_of_workers_agrees_to_rounding(four: Path, name: str, whole: str) -> None:
    assert_same_experiment(four, whole, name)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_number_of_workers_goes_on_with_the_same_pixels(tiny_data: Path, tiny_recipe: Recipe, world: int) -> None:
    split = open_dataset(tiny_data).split("train")
    whole = list(train_batches(split, tiny_recipe, seed=5, start=0, stop=3, rank=0, world=1, processes=0))[1:]
    shares = [
        list(train_batches(split, tiny_recipe, seed=5, start=1, stop=3, rank=rank, world=world, processes=0))
        for rank in range(world)
    ]
    for iteration, expected in enumerate(whole):
        parts = [share[iteration] for share in shares]
        assert torch.equal(torch.cat([part.images for part in parts]), expected.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), expected.labels)
