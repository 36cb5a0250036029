from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch

from hrnet.data.loader import collate
from hrnet.data.transforms import (
    keep_ratio_size,
    normalise,
    photometric_distortion,
    random_crop,
    reduce_zero_label,
    resize_image,
    resize_label,
    train_transform,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    dataset: str = "cityscapes"
    crop: tuple[int, int] = (64, 64)
    train_scale: tuple[int, int] = (64, 64)
    ratio_range: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip_prob: float = 0.5
    photometric: bool = True
    conventions: Literal["0.x", "1.x"] = "0.x"


class Script:
    """Draws that were logged in the reference, given out again; every request must be the one that was logged."""

    def __init__(self, draws: list[tuple[str, tuple[float, ...], float]]) -> None:
        self._draws: Iterator[tuple[str, tuple[float, ...], float]] = iter(draws)

    def _next(self, kind: str, *bounds: float) -> float:
        logged = next(self._draws)
        assert logged[:2] == (kind, bounds)
        return logged[2]

    def random(self) -> float:
        return self._next("random")

    def integers(self, low: int, high: int) -> int:
        return int(self._next("integers", low, high))

    def uniform(self, low: float, high: float) -> float:
        return self._next("uniform", low, high)

    def finished(self) -> bool:
        return next(self._draws, None) is None


def scripted(log: list[list[Any]]) -> Script:
    """Translate a log of [function, arguments, value] into the draws that our functions ask for."""
    draws: list[tuple[str, tuple[float, ...], float]] = []
    for function, arguments, value in log:
        bounds = tuple(float(item) for item in arguments) if function != "choice" else ()
        if function == "randint":
            draws.append(("integers", bounds if len(bounds) == 2 else (0.0, *bounds), value))
        elif function == "choice":
            draws.append(("random", (), 0.25 if value == "horizontal" else 0.75))
        else:
            draws.append(("uniform" if function == "uniform" else "random", bounds, value))
    return Script(draws)


def test_keep_ratio_sizes_equal_the_reference(parity_dir: Path) -> None:
    shapes = json.loads((parity_dir / "resize_shapes.json").read_text())
    assert len(shapes["rows"]) > 900
    for h, w, first, second, ratio, *out in shapes["rows"]:
        scale = (first, second) if ratio is None else (int(first * ratio), int(second * ratio))
        assert keep_ratio_size(h, w, scale) == tuple(out)
    for h, w, first, second, ratio, *out in shapes["tta_0x"]:
        assert keep_ratio_size(h, w, (int(first * ratio), int(second * ratio))) == tuple(out)
    for h, w, ratio, *out in shapes["tta_1x"]:
        assert keep_ratio_size(h, w, (int(w * ratio + 0.5), int(h * ratio + 0.5))) == tuple(out)


def test_resized_pixels_equal_the_reference(parity_dir: Path) -> None:
    pixels = np.load(parity_dir / "resize_pixels.npz")
    cases = json.loads((parity_dir / "resize_pixels.json").read_text())["cases"]
    for case in cases:
        size = keep_ratio_size(37, 53, tuple(case["scale"]))
        assert size == tuple(case["out"])
        np.testing.assert_array_equal(resize_image(pixels["image"], size), pixels[f"r{case['i']}_image"])
        np.testing.assert_array_equal(resize_label(pixels["label"], size), pixels[f"r{case['i']}_label"])


def test_photometric_distortion_equals_the_reference(parity_dir: Path) -> None:
    images = np.load(parity_dir / "photometric.npz")
    forced = json.loads((parity_dir / "photometric.json").read_text())["forced"]
    for name, log in forced.items():
        script = scripted([[function, arguments, value] for function, *arguments, value in log])
        np.testing.assert_array_equal(photometric_distortion(images["image"], script), images[name], err_msg=name)
        assert script.finished()


def test_crop_boxes_equal_the_reference(parity_dir: Path) -> None:
    label = np.load(parity_dir / "random_crop.npz")["seg"]
    for case in json.loads((parity_dir / "random_crop.json").read_text())["cases"]:
        script = scripted([["randint", [low, high], value] for low, high, value in case["draws"]])
        height = {"crop_larger_than_image_is_clamped": 6, "crop_larger_both": 4}.get(case["name"], 24)
        width = 4 if case["name"] == "crop_larger_both" else 32
        source = np.arange(16, dtype=np.uint8).reshape(4, 4) // 4 if width == 4 else label[:height, :width]
        ratio = 1.0 if "no_check" in case["name"] else 0.75
        (top, bottom, left, right), part = random_crop(source, source.shape, (8, 8), ratio, script)
        assert (top, left) == tuple(case["chosen"]), case["name"]
        assert [bottom - top, right - left] == case["out_shape"]
        np.testing.assert_array_equal(part, source[top:bottom, left:right])
        assert script.finished(), case["name"]


@pytest.mark.parametrize("case", range(8))
def test_train_pipeline_equals_the_reference(parity_dir: Path, case: int) -> None:
    facts = json.loads((parity_dir / "train_pipeline.json").read_text())["cases"][case]
    expected = np.load(parity_dir / "train_pipeline.npz")
    image = cv2.imread(str(parity_dir / "train_img.png"), cv2.IMREAD_COLOR)
    label = cv2.imread(str(parity_dir / "train_label.png"), cv2.IMREAD_UNCHANGED)
    if facts["reduce_zero_label"]:
        label = reduce_zero_label(label)
    early_pad = "Pad" in facts["extra"]
    settings = Settings(
        dataset="voc12aug" if early_pad else "cityscapes",
        conventions="1.x" if early_pad else "0.x",
        crop=tuple(facts["crop"]),
        train_scale=tuple(facts["scale"]),
    )
    script = scripted(facts["draws"])
    crop, crop_label = train_transform(image, label, settings, script)
    assert script.finished()
    np.testing.assert_array_equal(crop.transpose(2, 0, 1), expected[f"case{case}_img"])
    np.testing.assert_array_equal(crop_label, expected[f"case{case}_label"])

    batch = collate([(crop, crop_label)], settings.crop)
    network_input = normalise(batch.images, batch.sizes)
    np.testing.assert_array_equal(network_input[0].numpy(), expected[f"case{case}_net_input"])
    np.testing.assert_array_equal(batch.labels[0].numpy(), expected[f"case{case}_net_label"])


def test_voc_of_0x_is_padded_after_normalisation() -> None:
    image, label = np.full((20, 30, 3), 200, np.uint8), np.zeros((20, 30), np.uint8)
    log = [["random_sample", [], 1 / 3], *[["randint", ["0", "1"], 0]] * 22, ["choice", [], None]]
    old = Settings(dataset="voc12aug", photometric=False, train_scale=(30, 20))
    crop, crop_label = train_transform(image, label, old, scripted(log))
    assert crop.shape == (20, 30, 3)
    batch = collate([(crop, crop_label)], old.crop)
    values = normalise(batch.images, batch.sizes)
    assert torch.all(values[..., 20:, :] == 0.0)
    assert torch.all(values[..., 30:] == 0.0)
    assert torch.all(values[..., :20, :30] != 0.0)


def test_preprocessor_equals_the_reference(parity_dir: Path) -> None:
    arrays = np.load(parity_dir / "loss_and_preprocess.npz")
    batch = collate([(arrays["prep_image_bgr"], arrays["prep_label"])], (12, 10))
    assert batch.sizes.tolist() == [[9, 10]]
    np.testing.assert_array_equal(normalise(batch.images, batch.sizes).numpy(), arrays["prep_out"])
    np.testing.assert_array_equal(batch.labels[0].numpy(), arrays["prep_out_label"])
    whole = torch.from_numpy(arrays["prep_image_bgr"])[None]
    np.testing.assert_array_equal(normalise(whole, torch.tensor([[9, 10]])).numpy(), arrays["prep_out_test_mode"])


def test_normalise_gives_contiguous_channels_last() -> None:
    values = normalise(torch.zeros(2, 4, 6, 3, dtype=torch.uint8), torch.tensor([[4, 6], [2, 3]]))
    assert values.shape == (2, 3, 4, 6)
    assert values.is_contiguous(memory_format=torch.channels_last)


def test_reduce_zero_label_equals_the_reference(parity_dir: Path) -> None:
    table = np.load(parity_dir / "loss_and_preprocess.npz")["reduce_zero_label_table"]
    np.testing.assert_array_equal(reduce_zero_label(np.arange(256, dtype=np.uint8)), table)
    label = cv2.imread(str(parity_dir / "all_values_label.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(reduce_zero_label(label), table[label])
