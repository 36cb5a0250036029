"""Evaluation shared by one, two and three real workers: every image once, the same counts to the last pixel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hrnet.data.prepare.run import prepare
from hrnet.data.shards import open_dataset
from hrnet.data.synthetic import synthesise
from hrnet.evaluation.confusion import ConfusionMatrix
from hrnet.evaluation.inference import network_input, network_logits, segment

from . import sharding_worker

IMAGES = 7
"""Neither two nor three divide it, so that shares are uneven and the last round is not full."""

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("seven")
    synthesise("cityscapes", folder / "native", train=1, val=IMAGES, size=(64, 128), seed=11)
    prepare(folder / "native", folder / "cityscapes", dataset="cityscapes", partial=True)
    return str(folder / "cityscapes")


@pytest.fixture(scope="module")
def gangs(data: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[int, dict[str, Tensor]]]:
    """What each of the three workers counted, by size of the gang and mode."""
    folder = tmp_path_factory.mktemp("gangs")
    command = [sys.executable, "-W", "ignore", "-m", "tests.hrnet.sharding_worker"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(folder), data], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(3)
    ]  # fmt: skip
    for worker in workers:
        output = worker.communicate(timeout=240)[0].decode()
        assert worker.returncode == 0, output
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(3)]


@pytest.mark.parametrize("mode", list(sharding_worker.MODES))
def test_any_number_of_workers_counts_the_same(
    mode: str, gangs: list[dict[int, dict[str, Tensor]]], data: str
) -> None:
    recipe, ms_flip = sharding_worker.MODES[mode]
    model, split = sharding_worker.model().eval(), open_dataset(data).split("val")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        by_hand, alone = ConfusionMatrix(recipe.num_classes), []
        for index in range(IMAGES):
            sample, single = split[index], ConfusionMatrix(recipe.num_classes)
            single.update(segment(model, sample.image, recipe, ms_flip=ms_flip), sample.label)
            alone.append(single.scores().mIoU)
            by_hand.merge(single)
    finally:
        torch.set_num_threads(threads)
    for world in sharding_worker.WORLDS:
        for rank in range(world):
            assert torch.equal(gangs[rank][world][mode], by_hand.state()), f"worker {rank} of {world}"
            assert gangs[rank][world][f"{mode} per image"].tolist() == alone, f"worker {rank} of {world}"
    labelled = sum(int((split[index].label != 255).sum()) for index in range(IMAGES))
    assert by_hand.state().sum() == labelled, "every pixel with a label is counted once"
    assert (by_hand.areas()[1] > 0).sum() > 3, "the maps must show several classes"


def test_the_modes_are_different_evaluations(gangs: list[dict[int, dict[str, Tensor]]]) -> None:
    whole, slide, ms_flip = (gangs[0][1][mode] for mode in ("whole", "slide", "ms_flip"))
    assert not torch.equal(whole, slide)
    assert not torch.equal(whole, ms_flip)


def test_the_number_of_threads_moves_logits_within_rounding(data: str) -> None:
    """With one thread oneDNN adds the terms of a convolution in another order than with several; the head adds four.

    So gangs whose workers have equally many threads count exactly the same; with other threads a pixel whose two best
    classes are equal within rounding may fall to the other.
    """
    model, image = sharding_worker.model().eval(), open_dataset(data).split("val")[0].image
    threads = torch.get_num_threads()
    logits, maps = [], []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            x = network_input(image, (48, 96), torch.device("cpu"))
            with torch.inference_mode():
                logits.append(network_logits(model, x, sharding_worker.BASE))
            maps.append(segment(model, image, sharding_worker.BASE))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=2e-5 * float(logits[0].std()))
    assert (maps[0] != maps[1]).mean() < 1e-3
