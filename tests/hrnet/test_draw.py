from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from hrnet import draw
from hrnet.data.cards import card

PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    name: str
    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


def decode(data: bytes) -> NDArray[np.uint8]:
    assert data.startswith(b"\x89PNG")
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), dtype=np.uint8)


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


@pytest.fixture
def label() -> NDArray[np.uint8]:
    values = np.zeros((40, 60), np.uint8)
    values[:, 20:40], values[:, 40:], values[:4] = 1, 2, 255
    return values


def test_label_colours_are_the_palettes_in_bgr(label: NDArray[np.uint8]) -> None:
    coloured = draw.colour_label(label, PALETTE)
    assert coloured[10, 0].tolist() == [0, 0, 255]
    assert coloured[10, 50].tolist() == [255, 0, 0]
    assert coloured[0, 0].tolist() == [0, 0, 0]


def test_overlay_mixes_and_leaves_ignored_pixels(image: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
    mixed = draw.overlay(image, label, PALETTE, 0.5)
    np.testing.assert_array_equal(mixed[:4], image[:4])
    expected = (image[4:].astype(float) + draw.colour_label(label, PALETTE)[4:]) / 2
    assert float(np.abs(mixed[4:] - expected).max()) <= 0.5
    np.testing.assert_array_equal(draw.overlay(image, label, PALETTE, 0.0), image)


def test_error_map(label: NDArray[np.uint8]) -> None:
    predicted = label.copy()
    predicted[:, :20] = 2
    errors = draw.error_map(label, predicted)
    assert (errors[0] == 0).all()
    assert errors[10, 5].tolist() == [40, 40, 220]
    assert errors[10, 30].tolist() == [150, 150, 150]


def test_comparison_has_four_panels(image: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
    picture = decode(draw.comparison(image, label, label, PALETTE))
    assert picture.shape[1] == 4 * 60 + 3 * 8
    np.testing.assert_array_equal(picture[-40:, :60], image)
    np.testing.assert_array_equal(picture[-40:, 68:128], draw.colour_label(label, PALETTE))
    np.testing.assert_array_equal(picture[-40:, 204:], draw.error_map(label, label))
    ignored = np.full_like(label, 255)
    assert decode(draw.comparison(image, ignored, label, PALETTE)).shape == picture.shape


def test_large_pictures_are_shrunk(label: NDArray[np.uint8]) -> None:
    large = np.zeros((1000, 2000, 3), np.uint8)
    assert draw.side_by_side([("a", large), ("b", large)], width=500).shape[1] == 1008


def test_a_picture_for_a_report_is_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 2000, 3), dtype=np.uint8)
    png = draw.to_png(noise)
    small = draw.for_report(png)
    assert small.startswith(b"\xff\xd8")
    assert len(small) < len(png) / 8
    for jpeg, shape in ((small, (150, 1000, 3)), (draw.for_report(draw.to_png(noise[:, :40])), (300, 40, 3))):
        assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape == shape


def test_a_broken_picture_does_not_stop_a_report() -> None:
    assert draw.for_report(b"no picture") == b"no picture"


@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_contact_sheet(image: NDArray[np.uint8], label: NDArray[np.uint8], count: int) -> None:
    samples = [
        Shown(name=f"n\u00e4me {index}", image=image[: 40 - index], label=label[: 40 - index])
        for index in range(count)
    ]
    picture = decode(draw.contact_sheet(samples, ("a", "b", "c"), PALETTE))
    if count:
        assert picture.shape[1] >= (128 + 16) * min(count, 2)
        np.testing.assert_array_equal(picture[22:62, :60], image)
        np.testing.assert_array_equal(picture[22:62, 68:128], draw.overlay(image, label, PALETTE))


@pytest.mark.parametrize("name", ["cityscapes", "ade20k", "vaihingen"])
def test_confusion_picture_for_few_and_many_classes(name: str) -> None:
    classes = card(name).classes
    matrix = np.diag(np.full(len(classes), 1000))
    matrix[0] = 0
    picture = decode(draw.confusion_picture(matrix, classes))
    assert max(picture.shape) < 3000
    cell = max(13, min(46, 1200 // len(classes)))
    side = len(classes) * cell
    grid = picture[-8 - side : -8, -8 - side : -8]
    assert (grid[:cell] == 255).all(), "an absent class has an empty row"
    assert grid[-2, -2].tolist() == [120, 60, 20]
    assert grid[-2, 2].tolist() == [255, 255, 255]
    assert draw.confusion_picture(matrix, classes) == draw.confusion_picture(matrix, classes)
