"""Batch normalisation over two real workers against one device with the whole batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hrnet.model.norm import GangBatchNorm2d, synchronise_batch_norm

from . import norm_worker

Results = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def gang(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    """What the two workers computed."""
    folder = tmp_path_factory.mktemp("gang")
    command = [sys.executable, "-W", "ignore", str(Path(norm_worker.__file__))]
    workers = [
        subprocess.Popen([*command, str(rank), str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for rank in range(2)
    ]
    for worker in workers:
        output = worker.communicate(timeout=120)[0].decode()
        assert worker.returncode == 0, output
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    return first, second


def close(ours: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(ours.to(expected.dtype), expected, rtol=tolerance, atol=tolerance)


def test_unequal_shares_equal_the_whole_batch(gang: tuple[Results, Results]) -> None:
    whole = norm_worker.run_chain(norm_worker.chain(), *norm_worker.batch())
    parts = [results["chain"] for results in gang]
    close(torch.cat([part["y"] for part in parts]), whole["y"])
    close(torch.cat([part["grad_x"] for part in parts]), whole["grad_x"])
    for name, expected in whole.items():
        if name.startswith("grad."):
            close(sum(part[name] for part in parts), expected)
        elif name not in ("y", "grad_x"):
            for part in parts:
                close(part[name], expected)


def test_running_statistics_are_unbiased_over_the_whole_count(gang: tuple[Results, Results]) -> None:
    x, _ = norm_worker.batch()
    for results in gang:
        close(results["chain"]["0.running_var"], 0.9 + 0.1 * x.var((0, 2, 3), correction=1))
        assert results["chain"]["0.num_batches_tracked"] == 1


def test_single_precision_and_channels_last(gang: tuple[Results, Results]) -> None:
    whole = norm_worker.run_chain(norm_worker.chain(), *norm_worker.batch())
    parts = [results["float32"] for results in gang]
    close(torch.cat([part["y"] for part in parts]), whole["y"], 2e-5)
    close(torch.cat([part["grad_x"] for part in parts]), whole["grad_x"], 2e-5)


def test_evaluation_uses_running_statistics(gang: tuple[Results, Results]) -> None:
    x, grad = norm_worker.batch()
    model = norm_worker.chain()
    norm_worker.run_chain(model, x, grad)
    close(torch.cat([results["eval"]["y"] for results in gang]), model.eval()(x).detach())


def test_network_over_two_workers_equals_one_device(gang: tuple[Results, Results]) -> None:
    """Gang statistics, the loss over all pixels and averaged gradients make any number of workers one experiment."""
    model, images, labels = norm_worker.segmentation()
    whole = norm_worker.run_network(model, model, images, labels)
    parts = [results["network"] for results in gang]
    close(sum(part["loss"] for part in parts) / 2, whole["loss"])
    for name, expected in whole.items():
        if name != "loss":
            for part in parts:
                # Maps of 2x2 pixels amplify rounding on their way back through the network.
                close(part[name], expected, 1e-8)


def test_one_worker_needs_nothing() -> None:
    model = norm_worker.chain()
    assert synchronise_batch_norm(model) is model
    assert not any(isinstance(module, GangBatchNorm2d) for module in model.modules())


def test_names_and_parameters_stay() -> None:
    source = nn.BatchNorm2d(3)
    ours = GangBatchNorm2d(source)
    assert list(ours.state_dict()) == list(source.state_dict())
    assert ours.weight is source.weight
    assert ours.running_var is source.running_var
