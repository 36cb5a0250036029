from __future__ import annotations

import json
from pathlib import Path

import pytest

from hrnet.catalogue import recipe
from hrnet.model.segmentor import build_model
from hrnet.training.optim import build_optimizer, poly_lr

NAME = "fcn_hr18s_4xb2-40k_cityscapes-512x1024"


@pytest.mark.parametrize(("conventions", "column"), [("0.x", "legacy_0x"), ("1.x", "lr")])
def test_learning_rate_equals_the_reference(conventions: str, column: str, parity_dir: Path) -> None:
    values = json.loads((parity_dir / "poly_lr.json").read_text())["values"]
    compared = 0
    for key, case in values.items():
        length, base = key.removeprefix("T").split("_lr")
        ours = recipe(NAME).with_overrides({"max_iters": length, "lr": base, "conventions": conventions})
        for step in case["steps"]:
            assert poly_lr(step["iter0"], ours) == pytest.approx(step[column], rel=1e-12, abs=1e-15)
            compared += 1
    assert compared > 50


def test_one_iteration_runs_at_the_base_rate() -> None:
    for conventions in ("0.x", "1.x"):
        once = recipe(NAME).with_overrides({"max_iters": "1", "conventions": conventions})
        assert poly_lr(0, once) == 0.01


def test_one_group_decays_all_parameters() -> None:
    model = build_model("w18-small", 3, seed=0)
    optimizer = build_optimizer(model, recipe("fcn_hr48_4xb4-40k_pascal-context-480x480"))
    (group,) = optimizer.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.004, 0.9, 0.0001)
    assert (group["nesterov"], group["dampening"]) == (False, 0)
