"""Class maps: sizes, windows and logits against the reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hrnet.catalogue import Recipe, recipe
from hrnet.data.transforms import MEAN, STD
from hrnet.errors import DataError
from hrnet.evaluation.inference import network_logits, scaled_size, segment, view_sizes, windows
from hrnet.model.segmentor import HRNetSegmentor, build_model

from . import fill

CITYSCAPES = recipe("fcn_hr18s_4xb2-40k_cityscapes-512x1024")
CONTEXT = recipe("fcn_hr18s_4xb4-40k_pascal-context-480x480")


def cases(parity_dir: Path, name: str) -> list[list[Any]]:
    rows: list[list[Any]] = json.loads((parity_dir / "resize_shapes.json").read_text())[name]
    assert len(rows) > 5
    return rows


def test_sizes_of_views_by_0x(parity_dir: Path) -> None:
    for h, w, first, second, ratio, out_h, out_w in cases(parity_dir, "tta_0x"):
        ours = CITYSCAPES.with_overrides({"test_scale": f"{first}x{second}", "tta_ratios": str(ratio)})
        assert view_sizes(h, w, ours) == [(out_h, out_w)], (h, w, first, second, ratio)


def test_sizes_of_views_by_1x(parity_dir: Path) -> None:
    for h, w, ratio, out_h, out_w in cases(parity_dir, "tta_1x"):
        ours = CITYSCAPES.with_overrides({"tta_ratios": str(ratio), "conventions": "1.x"})
        assert view_sizes(h, w, ours) == [(out_h, out_w)], (h, w, ratio)


def test_size_of_the_single_view(parity_dir: Path) -> None:
    for h, w, first, second, ratio, out_h, out_w in cases(parity_dir, "rows"):
        if ratio is None:
            assert scaled_size(h, w, (first, second)) == (out_h, out_w)


def test_windows_equal_the_reference(parity_dir: Path) -> None:
    for grid in json.loads((parity_dir / "slide.json").read_text())["published_grids"]:
        ours = windows(grid["h"], grid["w"], tuple(grid["crop"]), tuple(grid["stride"]))
        assert [list(box) for box in ours] == grid["boxes_y1x1y2x2"], (grid["h"], grid["w"])


@pytest.fixture(scope="module")
def model(parity_dir: Path) -> HRNetSegmentor:
    """W18-Small for six classes with the weights that the reference's windows were run with."""
    override = json.loads((parity_dir / "slide.json").read_text())["conv_seg_bias_override"]
    filled = build_model("w18-small", 6, seed=0)
    fill.fill(filled)
    with torch.no_grad():
        filled.decode_head.conv_seg.weight.mul_(override["conv_seg_weight_multiplier"])
        filled.decode_head.conv_seg.bias.copy_(torch.tensor(override["bias"]))
    return filled.eval()


@pytest.mark.parametrize("size", [(130, 170), (80, 200), (96, 96), (64, 64), (224, 160), (97, 96)])
def test_logits_by_windows_equal_the_reference(size: tuple[int, int], model: HRNetSegmentor, parity_dir: Path) -> None:
    arrays = np.load(parity_dir / "slide.npz")
    tag = f"{size[0]}x{size[1]}"
    ours = CONTEXT.with_overrides({"slide_crop": "96x96", "slide_stride": "64x64"})
    with torch.no_grad():
        logits = network_logits(model, fill.inputs(f"slide{tag}", (1, 3, *size), torch.float32), ours)[0]
    expected = arrays[f"{tag}_logits_every4"]
    np.testing.assert_allclose(logits[:, ::4, ::4], expected, rtol=0, atol=1e-5 * expected.std())
    assert (logits.argmax(0).numpy() != arrays[f"{tag}_argmax"]).mean() < 2e-4


def small(**overrides: str) -> Recipe:
    return CITYSCAPES.with_overrides({"test_scale": "160x96", "tta_ratios": "0.5,1.0", **overrides})


def up(x: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(x, size, mode="bilinear", align_corners=False)


def logits_by_hand(model: nn.Module, image: np.ndarray, size: tuple[int, int], *, mirrored: bool = False) -> Tensor:
    """One view, written out: resize, mirror, normalise, network, to the view's size, mirror back, to the image's."""
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    rgb = torch.from_numpy(resized[..., ::-1].copy()).float()
    x = ((rgb - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)[None]
    with torch.no_grad():
        logits = up(model(x.flip(-1) if mirrored else x), size)
    return up(logits.flip(-1) if mirrored else logits, image.shape[:2])


def equal(ours: np.ndarray, expected: Tensor) -> bool:
    """Class maps agree but for ties within rounding."""
    assert ours.dtype == np.uint8
    return bool((ours != expected[0].argmax(0).numpy()).mean() < 1e-3)


def test_whole_image_is_resized_twice(model: HRNetSegmentor) -> None:
    image = fill.image("demo", 90, 121)
    size = scaled_size(90, 121, (160, 96))
    assert size == (96, 129)
    ours = segment(model, image, small())
    assert ours.shape == (90, 121)
    assert equal(ours, logits_by_hand(model, image, size))
    # The test can tell two resizes from one.
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    rgb = torch.from_numpy(resized[..., ::-1].copy()).float()
    with torch.no_grad():
        direct = up(model(((rgb - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)[None]), (90, 121))
    assert not equal(ours, direct)


@pytest.mark.parametrize("conventions", ["0.x", "1.x"])
def test_multi_scale_averages_probabilities(model: HRNetSegmentor, conventions: str) -> None:
    image = fill.image("demo", 90, 121)
    settings = small(conventions=conventions)
    sizes = {"0.x": [(48, 65), (96, 129)], "1.x": [scaled_size(90, 121, (61, 45)), (90, 121)]}[conventions]
    assert view_sizes(90, 121, settings) == sizes
    views = [logits_by_hand(model, image, size, mirrored=m) for size in sizes for m in (False, True)]
    ours = segment(model, image, settings, ms_flip=True)
    assert equal(ours, torch.stack([view.softmax(1) for view in views]).mean(0))
    assert not equal(ours, torch.stack(views).mean(0)), "averaging logits must give another map here"
    assert not equal(ours, torch.stack([view.softmax(1) for view in views[::2]]).mean(0)), "mirroring must matter"


def test_without_flip_only_scales_are_averaged(model: HRNetSegmentor) -> None:
    image = fill.image("demo", 90, 121)
    views = [logits_by_hand(model, image, size) for size in ((48, 65), (96, 129))]
    ours = segment(model, image, small(tta_flip="false"), ms_flip=True)
    assert equal(ours, torch.stack([view.softmax(1) for view in views]).mean(0))


def test_windows_of_a_resized_image(model: HRNetSegmentor) -> None:
    image = fill.image("demo", 90, 121)
    settings = CONTEXT.with_overrides({"slide_crop": "64x64", "slide_stride": "48x48", "test_scale": "128x128"})
    size = scaled_size(90, 121, (128, 128))
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    total, visits = torch.zeros(1, 6, *size), torch.zeros(size)
    for y1, x1, y2, x2 in windows(*size, (64, 64), (48, 48)):
        total[..., y1:y2, x1:x2] += logits_by_hand(
            model, np.ascontiguousarray(resized[y1:y2, x1:x2]), (y2 - y1, x2 - x1)
        )
        visits[y1:y2, x1:x2] += 1
    assert equal(segment(model, image, settings), up(total / visits, (90, 121)))


def test_bf16_agrees_on_most_pixels(model: HRNetSegmentor) -> None:
    image = fill.image("demo", 90, 121)
    single, half = segment(model, image, small()), segment(model, image, small(precision="bf16"))
    assert (single != half).mean() < 0.05


def test_mode_of_the_model_is_kept_and_its_statistics_untouched() -> None:
    training = build_model("w18-small", 3, seed=0)
    image = fill.image("demo", 64, 64)
    segment(training, image, small(test_scale="64x64"))
    assert training.training
    assert all(module.training for module in training.modules())
    assert training.backbone.bn1.num_batches_tracked == 0


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3))])
def test_no_image(model: HRNetSegmentor, image: np.ndarray) -> None:
    with pytest.raises(DataError, match="an image must be HxWx3 of uint8"):
        segment(model, image, small())
