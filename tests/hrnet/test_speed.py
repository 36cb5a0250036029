"""The protocol of speed and memory: what is counted, at what size, under which conditions."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hrnet import speed
from hrnet.catalogue import Recipe, recipe, recipes
from hrnet.evaluation.run import drain
from hrnet.model.segmentor import build_model

CITYSCAPES = recipe("fcn_hr18s_4xb2-40k_cityscapes-512x1024")
CONTEXT = recipe("fcn_hr48_4xb4-40k_pascal-context-480x480")
CPU = torch.device("cpu")


class Recorder(nn.Module):
    """Has one parameter, remembers what it was given, and returns logits at a quarter of the size."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))
        self.sizes: list[tuple[int, ...]] = []
        self.types: set[torch.dtype] = set()

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        self.sizes.append(tuple(x.shape))
        self.types.add(x.dtype)
        return x[:, :2, ::4, ::4] + self.bias


def images(*sizes: tuple[int, int]) -> list[np.ndarray]:
    return [np.zeros((*size, 3), np.uint8) for size in sizes]


def test_the_first_five_images_are_not_counted() -> None:
    small = CITYSCAPES.with_overrides({"test_scale": "64x32"})
    model = Recorder()
    measuring = speed.measure_speed(model, itertools.repeat(images((32, 64))[0]), small, CPU, wanted=12)
    assert list(measuring) == list(range(1, 13))
    result = drain(speed.measure_speed(model, itertools.repeat(images((32, 64))[0]), small, CPU, wanted=12))
    assert (result.warm_up, result.timed, result.wanted) == (5, 7, 12)
    assert result.fps == pytest.approx(7 / result.seconds)
    assert model.training
    assert set(model.sizes) == {(1, 3, 32, 64)}
    assert model.types == {torch.float32}


@pytest.mark.parametrize(("wanted", "warm_up"), [(1, 0), (2, 1), (3, 1), (9, 4), (10, 5), (200, 5)])
def test_of_few_images_half_warm_up(wanted: int, warm_up: int) -> None:
    result = drain(
        speed.measure_speed(
            Recorder(), itertools.repeat(images((8, 8))[0]), CITYSCAPES.with_overrides({"test_scale": "32x32"}), CPU,
            wanted=wanted,
        )
    )  # fmt: skip
    assert (result.warm_up, result.timed) == (warm_up, wanted - warm_up)


def test_no_image_is_begun_after_the_budget() -> None:
    small = CITYSCAPES.with_overrides({"test_scale": "64x32"})
    result = drain(
        speed.measure_speed(Recorder(), itertools.repeat(images((32, 64))[0]), small, CPU, wanted=200, budget=0.0)
    )
    assert (result.warm_up, result.timed, result.wanted, result.budget) == (1, 1, 200, 0.0)


def test_the_network_sees_images_at_the_test_scale_by_windows_where_the_recipe_says_so() -> None:
    model = Recorder()
    result = drain(speed.measure_speed(model, iter(images((375, 500), (500, 375))), CONTEXT, CPU, wanted=2))
    assert result.original_sizes == ((500, 375),)
    assert result.network_sizes == ((520, 390),)
    assert model.sizes == [(1, 3, 390, 480)] * 2 + [(1, 3, 480, 390)] * 2
    facts = speed.figures(CONTEXT, speed.conditions(CONTEXT, CPU), result, None)
    assert facts["fps_conditions"]["windows"] == [480, 480]
    assert facts["fps_conditions"]["network_sizes"] == ["520x390"]


def test_only_the_protocols_part_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances when the network runs, and more when images are read or prepared."""
    now = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])

    class Slow(Recorder):
        def forward(self, x: Tensor) -> Tensor:
            now[0] += 0.25
            return super().forward(x)

    def slow_reader():
        for image in itertools.repeat(images((32, 64))[0]):
            now[0] += 10.0
            yield image

    small = CITYSCAPES.with_overrides({"test_scale": "64x32"})
    result = drain(speed.measure_speed(Slow(), slow_reader(), small, CPU, wanted=12))
    assert result.fps == pytest.approx(4.0)


def test_a_typical_image_of_every_published_data_set_fits_its_test_scale() -> None:
    for known in recipes():
        height, width = speed.typical_size(known)
        assert height <= width
        assert {known.dataset} <= set(speed._TYPICAL)
    assert speed.typical_size(CITYSCAPES) == (1024, 2048)


def test_conditions_and_the_published_figures_stand_beside_the_figure() -> None:
    small = CITYSCAPES.with_overrides({"test_scale": "64x32"})
    result = drain(speed.measure_speed(Recorder(), speed.random_images((32, 64)), small, CPU, wanted=4))
    facts = speed.figures(small, speed.conditions(small, CPU), result, None, images="random pixels", weights="random")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["fps"] == result.fps
    assert facts["published"]["fps"] == 23.74
    assert facts["published"]["train_mem_gb"] == 1.7
    assert facts["published"]["comparable"] is False
    assert facts["train_mem_gb"] is None
    assert {"device", "host", "torch", "cuda", "cudnn", "threads", "precision"} <= set(facts["conditions"])
    expected = {"batch": 1, "timed_images": 2, "warm_up_images": 2, "weights": "random", "mode": "whole",
                "multi_scale_flip": False, "batch_norm_folded": False, "cudnn_benchmark": False,
                "original_sizes": ["32x64"], "network_sizes": ["32x64"]}  # fmt: skip
    assert {name: facts["fps_conditions"][name] for name in expected} == expected


def test_training_memory_needs_a_gpu() -> None:
    with pytest.raises(ValueError, match="on a GPU, not on cpu"):
        drain(speed.measure_memory(CITYSCAPES, CPU))
    assert speed.per_gpu(CITYSCAPES) == 2
    assert speed.per_gpu(CITYSCAPES.with_overrides({"batch_size": "6"})) == 2


def test_a_model_of_the_catalogue_is_timed(tiny_recipe: Recipe) -> None:
    model = build_model(tiny_recipe.width, tiny_recipe.num_classes, seed=0)
    result = drain(speed.measure_speed(model, speed.random_images((64, 128)), tiny_recipe, CPU, wanted=2))
    assert result.seconds > 0
    assert model.training
