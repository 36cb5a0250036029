"""The network for inference equals the network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hrnet.catalogue import WIDTHS, Width
from hrnet.model.fused import FusedSegmentor, fused
from hrnet.model.segmentor import HRNetSegmentor, build_model

from . import fill


@pytest.fixture(scope="module", params=WIDTHS)
def model(request: pytest.FixtureRequest) -> HRNetSegmentor:
    width: Width = request.param
    built = build_model(width, 7, seed=0)
    fill.fill(built)
    return built.eval()


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 97, 131)])
def test_logits_are_the_networks_within_rounding(model: HRNetSegmentor, shape: tuple[int, ...]) -> None:
    x = fill.inputs("fused", shape, torch.float32)
    with torch.inference_mode():
        expected = model(x)
    logits = fused(model)(x)
    assert float((logits - expected).abs().max() / expected.std()) < 2e-5
    assert torch.equal(fused(model)(x), logits)


def test_plain_operators_serve_where_onednn_has_none() -> None:
    model = build_model("w18-small", 7, seed=0).eval()
    fill.fill(model)
    x = fill.inputs("fused", (1, 3, 97, 131), torch.float64)
    with torch.inference_mode():
        expected = model.double()(x)
    assert float((fused(model)(x) - expected).abs().max() / expected.std()) < 1e-12


def test_one_network_takes_images_of_any_size_and_is_called_again(model: HRNetSegmentor) -> None:
    network = fused(model)
    for side in (64, 96, 64):
        x = fill.inputs(f"fused{side}", (1, 3, side, side), torch.float32)
        with torch.inference_mode():
            expected = model(x)
        before = x.clone()
        assert float((network(x) - expected).abs().max() / expected.std()) < 2e-5
        assert torch.equal(x, before)


def test_autocast_reaches_the_convolutions() -> None:
    model = build_model("w18-small", 7, seed=0).eval()
    fill.fill(model)
    x = fill.inputs("fused", (1, 3, 64, 64), torch.float32)
    full = fused(model)(x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = fused(model)(x)
    assert logits.dtype == torch.bfloat16
    difference = float((logits.float() - full).std() / full.std())
    assert 1e-4 < difference < 0.05


def test_what_is_trained_later_is_not_followed() -> None:
    model = build_model("w18-small", 3, seed=0).eval()
    network, x = fused(model), fill.inputs("fused", (1, 3, 32, 32), torch.float32)
    before = network(x)
    with torch.no_grad():
        model.decode_head.conv_seg.weight.zero_()
    assert torch.equal(network(x), before)
    assert not list(network.parameters())


def test_other_networks_stay_as_they_are() -> None:
    other = nn.Conv2d(3, 7, 1)
    assert fused(other) is other
    assert isinstance(fused(build_model("w18-small", 3, seed=0)), FusedSegmentor)
