from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hrnet.training import loss as loss_module
from hrnet.training.loss import segmentation_loss


@pytest.mark.parametrize("case", ["ignore_20pct", "ignore_none", "ignore_all"])
def test_value_gradient_and_accuracy_equal_the_reference(case: str, parity_dir: Path) -> None:
    numbers = json.loads((parity_dir / "loss.json").read_text())
    arrays = np.load(parity_dir / "loss_and_preprocess.npz")
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    loss, correct, valid = segmentation_loss(logits, torch.from_numpy(arrays[f"{case}_label"]))
    loss.backward()
    # The reference adds 1.2e-7 to the 84 pixels it divides by.
    assert loss.item() == pytest.approx(numbers[f"{case}_avg_non_ignore_False"], rel=2e-9)
    np.testing.assert_allclose(logits.grad, arrays[f"{case}_grad_avg_non_ignore_False"], rtol=3e-9, atol=1e-15)
    assert valid.item() == numbers[f"{case}_n_valid"]
    if case != "ignore_all":
        assert 100 * correct.item() / valid.item() == pytest.approx(numbers[f"{case}_acc_seg"], rel=1e-6)


def test_all_ignored_is_zero_with_zero_gradient() -> None:
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss, correct, valid = segmentation_loss(logits, torch.full((1, 16, 16), 255, dtype=torch.uint8))
    loss.backward()
    assert (loss.item(), correct.item(), valid.item()) == (0, 0, 0)
    assert torch.equal(logits.grad, torch.zeros(1, 3, 4, 4))


def test_mean_over_equal_shares_is_the_loss_of_the_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (4, 20, 24), generator=generator)
    labels[0] = 255
    labels[1, :7] = 255
    whole = segmentation_loss(logits, labels)[0]
    shares = [segmentation_loss(logits[i : i + 2], labels[i : i + 2])[0] for i in (0, 2)]
    assert torch.stack(shares).mean().item() == pytest.approx(whole.item(), rel=1e-14)


def plain(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, with all classes at the size of the labels and autograd's gradient."""
    full = functional.interpolate(logits, size=labels.shape[1:], mode="bilinear")
    targets = labels.long()
    value = functional.cross_entropy(full, targets, ignore_index=255, reduction="sum") / targets.numel()
    return value, (full.argmax(1) == targets).sum(), (targets != 255).sum()


@pytest.mark.parametrize("band", [1, 1 << 20], ids=["bands", "whole"])
@pytest.mark.parametrize("size", [(80, 52), (20, 13), (79, 50), (60, 39)], ids=str)
@pytest.mark.parametrize("classes", [1, 19, 150])
def test_bands_equal_the_definition(
    classes: int, size: tuple[int, int], band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loss_module._BAND, "cpu", band)
    generator = torch.Generator().manual_seed(classes)
    values = torch.randn(3, classes, 20, 13, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (3, *size), generator=generator, dtype=torch.uint8)
    labels[0, :9] = 255
    logits, expected = values.clone().requires_grad_(), values.clone().requires_grad_()
    found, wanted = segmentation_loss(logits, labels), plain(expected, labels)
    (3 * found[0]).backward()
    (3 * wanted[0]).backward()
    assert found[0].item() == pytest.approx(wanted[0].item(), rel=1e-13)
    assert [each.item() for each in found[1:]] == [each.item() for each in wanted[1:]]
    torch.testing.assert_close(logits.grad, expected.grad, rtol=1e-10, atol=1e-16)
    assert torch.equal(logits, values)


def test_without_gradient_the_value_is_the_same() -> None:
    logits = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2), requires_grad=True)
    labels = torch.zeros(1, 32, 32, dtype=torch.uint8)
    with torch.no_grad():
        alone = segmentation_loss(logits, labels)[0]
    assert not alone.requires_grad
    assert torch.equal(alone, segmentation_loss(logits, labels)[0].detach())
