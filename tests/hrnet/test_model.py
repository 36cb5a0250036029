"""The network against the reference: names, sizes, outputs, three training steps, initialisation."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hrnet.catalogue import PREFIXES, WIDTHS, Width, recipe
from hrnet.errors import RecipeError
from hrnet.model.backbone import LAYOUTS, resize
from hrnet.model.segmentor import HRNetSegmentor, build_model
from hrnet.training.loss import segmentation_loss
from hrnet.training.optim import build_optimizer, poly_lr

from . import fill

EVALS = {"evalA": (2, 3, 128, 160), "evalB": (1, 3, 97, 131)}
PARAMETERS = {
    "w18-small": {6: 3_935_786, 7: 3_936_057, 16: 3_938_496, 19: 3_939_309, 59: 3_950_149, 150: 3_974_810},
    "w18": {6: 9_637_326, 7: 9_637_597, 16: 9_640_036, 19: 9_640_849, 59: 9_651_689, 150: 9_676_350},
    "w48": {6: 65_849_286, 7: 65_850_007, 16: 65_856_496, 19: 65_858_659, 59: 65_887_499, 150: 65_953_110},
}
BACKBONES = {"w18-small": 3_860_720, "w18": 9_562_260, "w48": 65_325_120}


@pytest.fixture(scope="module")
def reference(parity_dir: Path) -> dict[str, Any]:
    return {**json.loads((parity_dir / "model_hr18s.json").read_text()), **np.load(parity_dir / "model_hr18s.npz")}


def filled(dtype: torch.dtype) -> HRNetSegmentor:
    model = build_model("w18-small", 19, seed=0).to(dtype)
    fill.fill(model)
    return model


def test_fill_rule(parity_dir: Path) -> None:
    for name, case in json.loads((parity_dir / "fill_rule_check.json").read_text()).items():
        if "/" not in name and "shape" in case:
            np.testing.assert_allclose(fill.entry(name, tuple(case["shape"])).ravel()[:8], case["first8"], rtol=1e-15)
        if name == "input/evalA":
            np.testing.assert_allclose(fill.inputs("evalA", EVALS["evalA"]).flatten()[:8], case["first8"], rtol=1e-15)
        if name == "image/demo":
            assert fill.image("demo", 90, 121).ravel()[:8].tolist() == case["first8"]


@pytest.mark.parametrize("width", WIDTHS)
def test_state_dict_equals_the_reference(width: Width, parity_dir: Path) -> None:
    expected = json.loads((parity_dir / "state_dict_keys.json").read_text())[PREFIXES[width]]
    with torch.device("meta"):
        model = HRNetSegmentor(width, 19)
    ours = [[name, list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in model.state_dict().items()]
    assert ours == [[name, shape, dtype.removeprefix("torch.")] for name, shape, dtype in expected]


@pytest.mark.parametrize("width", WIDTHS)
def test_parameter_counts(width: Width) -> None:
    with torch.device("meta"):
        for classes, count in PARAMETERS[width].items():
            model = HRNetSegmentor(width, classes)
            assert sum(p.numel() for p in model.parameters()) == count
        assert sum(p.numel() for p in model.backbone.parameters()) == BACKBONES[width]


@pytest.mark.parametrize("case", EVALS)
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_outputs_equal_the_reference(case: str, precision: str, reference: dict[str, Any]) -> None:
    dtype = torch.float32 if precision == "f32" else torch.float64
    model = filled(dtype).eval()
    x = fill.inputs(case, EVALS[case], dtype)
    with torch.no_grad():
        branches = model.backbone(x)
        quarter = model(x)
    full = functional.interpolate(quarter, x.shape[-2:], mode="bilinear", align_corners=False)
    # Largest deviation in units of the logits' deviation.
    limit = 4e-6 if precision == "f32" else 1e-13
    scale = reference[f"{case}_f64"]["quarter"]["std"]
    parts = [*((f"branch{i}", branch, 200) for i, branch in enumerate(branches)), ("full", full, 1000)]
    if precision == "f32":
        np.testing.assert_allclose(quarter, reference[f"{case}_quarter_f32"], rtol=0, atol=limit * scale)
    else:
        parts.append(("quarter", quarter, 400))
    for part, ours, count in parts:
        expected = reference[f"{case}_{part}_{precision}_samples"]
        np.testing.assert_allclose(
            fill.sample(f"{case}/{part}", ours, count), expected, rtol=limit, atol=limit * scale
        )
    different = (full.argmax(1).numpy() != reference[f"{case}_argmax_{precision}"]).mean()
    assert different <= (1e-4 if precision == "f32" else 0)


def test_odd_sizes_are_resized_twice(reference: dict[str, Any]) -> None:
    """One resize instead of two moves the logits of this fixture by 4 % of their deviation, so it can tell."""
    model = filled(torch.float64).eval()
    for module in model.modules():
        if hasattr(module, "fuse_layers"):
            module._fused = once.__get__(module)
    with torch.no_grad():
        ours = fill.sample("evalB/quarter", model(fill.inputs("evalB", EVALS["evalB"])), 400)
    deviation = np.abs(ours - reference["evalB_quarter_f64_samples"]).max() / reference["evalB_f64"]["quarter"]["std"]
    assert deviation > 0.01


def once(self: Any, branches: list[Tensor], target: int) -> Tensor:
    size = branches[target].shape[-2:]
    terms = [layer(x) for layer, x in zip(self.fuse_layers[target], branches, strict=True)]
    return sum(functional.interpolate(t, size, mode="bilinear") for t in terms).relu()


def norms(model: nn.Module, buffer: str) -> list[float]:
    return [b.double().norm().item() for name, b in model.named_buffers() if name.endswith(buffer)]


def train_steps(model: HRNetSegmentor, length: int) -> Iterator[tuple[int, Tensor, float, Tensor, Tensor]]:
    """Three steps as the recipe makes them; yields between backward and update."""
    settings = recipe("fcn_hr18s_4xb2-40k_cityscapes-512x1024")
    settings = settings.with_overrides({"max_iters": str(length), "conventions": "1.x"})
    optimizer = build_optimizer(model, settings)
    dtype = next(model.parameters()).dtype
    model.train()
    for step in range(3):
        lr = poly_lr(step, settings)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        logits = model(fill.inputs(f"train{step}", (2, 3, 128, 160), dtype))
        loss, correct, valid = segmentation_loss(logits, fill.labels(f"train{step}", (2, 128, 160), 19))
        loss.backward()
        yield step, loss.detach(), lr, logits.detach(), 100 * correct / valid
        optimizer.step()


@pytest.mark.parametrize("length", [40000, 3])
def test_three_training_steps_equal_the_reference(length: int, reference: dict[str, Any]) -> None:
    model = filled(torch.float64)
    start = [p.detach().clone() for p in model.parameters()]
    expected = reference[f"train_T{length}_f64"]["steps"]
    for step, loss, lr, logits, acc in train_steps(model, length):
        assert loss.item() == pytest.approx(expected[step]["loss"], rel=1e-9)
        assert lr == pytest.approx(expected[step]["lr"], rel=1e-12)
        assert acc.item() == pytest.approx(expected[step]["acc_seg"], rel=1e-6)
        if step == 0:
            check_first_gradients(model, logits, reference)
    parameters = list(model.parameters())
    for what, ours in {
        "param_l2": [p.norm().item() for p in parameters],
        "param_sum": [p.sum().item() for p in parameters],
        "delta_l2": [(p - s).norm().item() for p, s in zip(parameters, start, strict=True)],
        "bn_running_mean_l2": norms(model, "running_mean"),
        "bn_running_var_l2": norms(model, "running_var"),
        "conv_seg_bias": model.decode_head.conv_seg.bias.tolist(),
        "conv1_weight": model.backbone.conv1.weight[:16].flatten(1).tolist(),
    }.items():
        np.testing.assert_allclose(
            ours, reference[f"{what}_after3_T{length}_f64"], rtol=1e-8, atol=1e-10, err_msg=what
        )
    assert all(b.item() == 3 for name, b in model.named_buffers() if name.endswith("num_batches_tracked"))
    with torch.no_grad():
        after = model.eval()(fill.inputs("evalA", EVALS["evalA"]))
    samples = fill.sample("after3/quarter", after, 400)
    np.testing.assert_allclose(samples, reference[f"eval_after3_T{length}_f64_samples"], rtol=1e-7, atol=1e-9)


def check_first_gradients(model: HRNetSegmentor, logits: Tensor, reference: dict[str, Any]) -> None:
    names = [name for name, _ in model.named_parameters()]
    assert names == reference["named_parameters"]
    gradients = {name: p.grad for name, p in model.named_parameters()}
    np.testing.assert_allclose([g.norm().item() for g in gradients.values()], reference["grad_l2_f64"], rtol=1e-9)
    conv_seg = gradients["decode_head.conv_seg.weight"][:, :32].flatten(1)
    np.testing.assert_allclose(conv_seg, reference["grad_conv_seg_weight_f64"], rtol=1e-8, atol=1e-13)
    conv1 = gradients["backbone.conv1.weight"][:16].flatten(1)
    np.testing.assert_allclose(conv1, reference["grad_conv1_weight_f64"], rtol=1e-8, atol=1e-12)
    total = math.hypot(*(g.norm().item() for g in gradients.values()))
    assert total == pytest.approx(reference["grad_global_l2_f64"], rel=1e-10)
    samples = fill.sample("train/quarter", logits, 1000)
    np.testing.assert_allclose(samples, reference["train_quarter_f64_samples"], rtol=1e-9, atol=1e-11)
    for buffer in ("running_mean", "running_var"):
        np.testing.assert_allclose(norms(model, buffer), reference[f"bn_{buffer}_l2_after1_f64"], rtol=1e-10)


def test_first_step_in_single_precision(reference: dict[str, Any]) -> None:
    model = filled(torch.float32)
    _, loss, _, logits, _ = next(train_steps(model, 40000))
    assert loss.item() == pytest.approx(reference["train_T40000_f32"]["steps"][0]["loss"], rel=1e-6)
    samples = fill.sample("train/quarter", logits, 1000)
    np.testing.assert_allclose(samples, reference["train_quarter_f32_samples"], atol=3e-4)
    gradients = np.array([p.grad.double().norm().item() for p in model.parameters()])
    deviation = np.abs(gradients / reference["grad_l2_f32"] - 1)
    assert np.median(deviation) < 1e-3
    assert deviation.max() < 2e-2


def test_the_head_equals_a_convolution_of_the_concatenated_branches() -> None:
    head = build_model("w18-small", 19, seed=2).double().eval().decode_head
    generator = torch.Generator().manual_seed(3)
    sizes = zip(LAYOUTS["w18-small"].channels, [(17, 25), (9, 13), (5, 7), (3, 4)], strict=True)
    branches = [torch.randn(2, channels, *size, generator=generator, dtype=torch.float64) for channels, size in sizes]
    mixing = head.convs[0]
    whole = torch.cat([resize(branch, (17, 25)) for branch in branches], dim=1)
    with torch.inference_mode():
        expected = head.conv_seg(mixing.relu(mixing.bn(mixing.conv(whole))))
        torch.testing.assert_close(head(branches), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("width", WIDTHS)
def test_initialisation(width: Width) -> None:
    model = build_model(width, 19, seed=3)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert torch.all(module.weight == 1)
            assert torch.all(module.bias == 0)
            assert torch.all(module.running_mean == 0)
            assert torch.all(module.running_var == 1)
            assert module.num_batches_tracked == 0
        elif isinstance(module, nn.Conv2d):
            weight = module.weight.detach().double()
            seg = name == "decode_head.conv_seg"
            std = 0.01 if seg else math.sqrt(2 / (weight.shape[0] * weight.shape[2] * weight.shape[3]))
            # Five standard errors of a deviation and of a mean of as many normal numbers.
            assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel())), name
            assert abs(weight.mean().item()) < 5 * std / math.sqrt(weight.numel()), name
    assert torch.all(model.decode_head.conv_seg.bias == 0)


def test_initialisation_is_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = build_model("w18-small", 3, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    second, other = build_model("w18-small", 3, seed=4), build_model("w18-small", 3, seed=5)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert not torch.equal(first.backbone.conv1.weight, other.backbone.conv1.weight)
    drawn = build_model("w18-small", 3)
    assert not torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(drawn.backbone.conv1.weight, build_model("w18-small", 3).backbone.conv1.weight)


def test_model_is_in_training_mode_with_gradients() -> None:
    model = build_model("w18-small", 3, seed=0)
    assert model.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())


def test_unknown_width_and_number_of_classes() -> None:
    with pytest.raises(RecipeError, match=r"no width 'w18s'; did you mean 'w18'\?"):
        build_model("w18s", 3)
    with pytest.raises(RecipeError, match="num_classes must be a whole number from 1 to 254, got 255"):
        build_model("w18", 255)
