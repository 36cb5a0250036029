"""The training pipeline against the plain one: the whole image resized, cropped, flipped, one step after another.

What is written here computes everything and shares nothing with the package but the size of the resized image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from hrnet.data.sampler import rng_at
from hrnet.data.transforms import (
    Draws,
    keep_ratio_size,
    photometric_distortion,
    random_crop,
    resize_crop,
    train_transform,
)

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    crop: tuple[int, int]
    train_scale: tuple[int, int]
    dataset: str = "any"
    ratio_range: tuple[float, float] = (0.5, 2.0)
    cat_max_ratio: float = 0.75
    flip_prob: float = 0.5
    photometric: bool = True
    conventions: Literal["0.x", "1.x"] = "0.x"


def whole_image(image: Image, size: tuple[int, int]) -> Image:
    return np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)


def whole_label(label: Image, size: tuple[int, int]) -> Image:
    return np.asarray(cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)


def plain_box(label: Image, crop: tuple[int, int], most: float, rng: Draws) -> tuple[slice, slice]:
    for _ in range(11):
        corner = [rng.integers(0, max(side - wanted, 0) + 1) for side, wanted in zip(label.shape, crop, strict=True)]
        box = slice(corner[0], corner[0] + crop[0]), slice(corner[1], corner[1] + crop[1])
        if most >= 1.0:
            break
        classes, counts = np.unique(label[box], return_counts=True)
        counts = counts[classes != 255]
        if len(counts) > 1 and counts.max() / counts.sum() < most:
            break
    return box


def plain_linear(image: Image, alpha: float, beta: float) -> Image:
    values = image.astype(np.float32) * np.float32(alpha) + np.float32(beta)
    return np.clip(values, 0, 255).astype(np.uint8)


def plain_distortion(image: Image, rng: Draws) -> Image:
    def contrast(image: Image) -> Image:
        return plain_linear(image, rng.uniform(0.5, 1.5), 0) if rng.integers(0, 2) else image

    if rng.integers(0, 2):
        image = plain_linear(image, 1, rng.uniform(-32, 32))
    contrast_last = rng.integers(0, 2) != 1
    if not contrast_last:
        image = contrast(image)
    if rng.integers(0, 2):
        hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), np.uint8)
        hsv[..., 1] = plain_linear(hsv[..., 1], rng.uniform(0.5, 1.5), 0)
        image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), np.uint8)
    if rng.integers(0, 2):
        hsv = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), np.uint8)
        hsv[..., 0] = (hsv[..., 0].astype(int) + rng.integers(-18, 18)) % 180
        image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR), np.uint8)
    return contrast(image) if contrast_last else image


def plain_transform(image: Image, label: Image, recipe: Settings, rng: Draws) -> tuple[Image, Image]:
    low, high = recipe.ratio_range
    ratio = rng.random() * (high - low) + low
    first, second = recipe.train_scale
    size = keep_ratio_size(*label.shape, (int(first * ratio), int(second * ratio)))
    image, label = whole_image(image, size), whole_label(label, size)
    box = plain_box(label, recipe.crop, recipe.cat_max_ratio, rng)
    image, label = image[box], label[box]
    if rng.random() < recipe.flip_prob:
        image, label = image[:, ::-1], label[:, ::-1]
    image = np.ascontiguousarray(image)
    return plain_distortion(image, rng) if recipe.photometric else image, label


def picture(height: int, width: int, seed: int) -> tuple[Image, Image]:
    """Blobs with noise, and labels in large areas, some ignored."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3)).astype(np.uint8)
    image = whole_image(coarse, (height, width)).astype(int) + rng.integers(-9, 10, (height, width, 3))
    classes = rng.choice(np.array([0, 1, 2, 255], np.uint8), (height // 32 + 2, width // 32 + 2))
    return np.clip(image, 0, 255).astype(np.uint8), whole_label(classes, (height, width))


RECIPES = {
    "cityscapes": (Settings(crop=(64, 128), train_scale=(256, 128)), (128, 256)),
    "ade20k": (Settings(crop=(64, 64), train_scale=(256, 64)), (61, 83)),
    "larger source": (Settings(crop=(60, 60), train_scale=(256, 64)), (190, 233)),
    "isaid": (Settings(crop=(112, 112), train_scale=(112, 112)), (112, 112)),
    "no limit to a class": (Settings(crop=(48, 48), train_scale=(64, 64), cat_max_ratio=1.0), (99, 77)),
    "plain": (Settings(crop=(64, 64), train_scale=(96, 64), photometric=False, flip_prob=0.0), (64, 96)),
    "same size": (Settings(crop=(40, 40), train_scale=(96, 64), ratio_range=(1.0, 1.0)), (64, 96)),
}


@pytest.mark.parametrize("name", RECIPES)
def test_samples_equal_those_of_the_plain_pipeline(name: str) -> None:
    recipe, (height, width) = RECIPES[name]
    for position in range(60):
        image, label = picture(height, width, position)
        ours = train_transform(image, label, recipe, rng_at(5, position))
        plain = plain_transform(image, label, recipe, rng_at(5, position))
        for one, other in zip(ours, plain, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"position {position}")


class Everywhere:
    """Draws that put the box where they are told."""

    def __init__(self, top: int, left: int) -> None:
        self.corner = iter((top, left))

    def integers(self, low: int, high: int) -> int:
        return min(next(self.corner), high - 1)

    def random(self) -> float:
        raise AssertionError

    def uniform(self, low: float, high: float) -> float:
        raise AssertionError


def sizes() -> list[Any]:
    """Shapes and target shapes: any ratio, twofold up and down, one side kept, within a pixel of the source."""
    rng = np.random.default_rng(8)
    cases = [((512, 683), (512, 683)), ((512, 1024), (511, 1025)), ((300, 301), (301, 300)), ((7, 5), (300, 200))]
    for number in range(120):
        height, width = (int(side) for side in rng.integers(8, 420, 2))
        ratio = float(rng.uniform(0.3, 2.5))
        target = int(height * ratio + 0.5), int(width * ratio * rng.uniform(0.98, 1.02) + 0.5)
        special = [(height // 2, width // 2), (2 * height, 2 * width), (height, target[1]), (height + 1, width)]
        cases.append(((height, width), special[number % 12] if number % 12 < len(special) else target))
    return cases


@pytest.mark.parametrize("part", range(4))
def test_any_box_equals_that_of_the_whole_resized_image(part: int) -> None:
    rng = np.random.default_rng(part)
    for source, target in sizes()[part::4]:
        image = rng.integers(0, 256, (*source, 3)).astype(np.uint8)
        label = rng.integers(0, 256, source).astype(np.uint8)
        image_whole, label_whole = whole_image(image, target), whole_label(label, target)
        for _ in range(6):
            crop = tuple(int(side) for side in rng.integers(1, 200, 2))
            corner = Everywhere(*(int(rng.integers(0, side)) for side in target))
            box, label_part = random_crop(label, target, (crop[0], crop[1]), 1.0, corner)
            where = slice(box[0], box[1]), slice(box[2], box[3])
            np.testing.assert_array_equal(label_part, label_whole[where], err_msg=f"{source} {target} {box}")
            np.testing.assert_array_equal(
                resize_crop(image, target, box), image_whole[where], err_msg=f"{source} {target} {box}"
            )


def test_every_order_of_distortions_equals_the_plain_steps() -> None:
    image, _ = picture(40, 50, 1)
    kinds = set()
    for position in range(200):
        distorted = photometric_distortion(image, rng_at(1, position))
        np.testing.assert_array_equal(distorted, plain_distortion(image, rng_at(1, position)))
        kinds.add(distorted.tobytes())
    assert len(kinds) > 100
