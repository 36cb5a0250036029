"""The weight gradient that training on a CPU computes itself, against torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hrnet.model import convolution
from hrnet.model.convolution import Conv2d


def layer(inputs: int, outputs: int, stride: int) -> tuple[Conv2d, torch.Generator]:
    generator = torch.Generator().manual_seed(inputs)
    conv = Conv2d(inputs, outputs, 3, stride, padding=1, bias=False).double()
    torch.nn.init.normal_(conv.weight, generator=generator)
    return conv, generator


@pytest.mark.parametrize("unfolded", [1, 1 << 20], ids=["rows", "whole"])
@pytest.mark.parametrize("size", [(8, 10), (9, 7), (1, 1)], ids=str)
@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(32, 32, 1), (40, 18, 1), (32, 48, 2), (48, 32, 2)])
def test_gradients_equal_torchs(
    inputs: int, outputs: int, stride: int, size: tuple[int, int], unfolded: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "_UNFOLDED", unfolded)
    conv, generator = layer(inputs, outputs, stride)
    x = torch.randn(2, inputs, *size, generator=generator, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    out = conv(x)
    assert type(out.grad_fn).__name__ == "_ConvolutionBackward"
    expected = functional.conv2d(x, conv.weight, stride=stride, padding=1)
    assert torch.equal(out, expected)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad(out, (x, conv.weight), grad)
    for ours, theirs in zip(found, torch.autograd.grad(expected, (x, conv.weight), grad), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def name(out: Tensor) -> str:
    return type(out.grad_fn).__name__


def test_elsewhere_the_convolution_is_torchs() -> None:
    conv, _ = layer(32, 32, 1)
    x = torch.zeros(1, 32, 4, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    assert name(conv(x)) == "_ConvolutionBackward"
    assert name(conv(torch.zeros(2, 32, 4, 4, dtype=torch.float64))) == "ConvolutionBackward0"
    assert conv.requires_grad_(False)(x).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        assert name(conv.float().requires_grad_()(x.float())) == "ConvolutionBackward0"
    assert name(layer(8, 8, 1)[0](x[:, :8].contiguous(memory_format=torch.channels_last))) == "ConvolutionBackward0"
