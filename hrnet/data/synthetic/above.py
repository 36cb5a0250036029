"""Layouts of the data sets photographed from above: LoveDA, Potsdam, Vaihingen, iSAID."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from hrnet.data.cards import card
from hrnet.data.synthetic.aerial import city, countryside, objects
from hrnet.data.synthetic.files import Files, Order, Pixels, painted, pixels
from hrnet.data.synthetic.scene import render
from hrnet.data.transforms import IGNORE

__all__ = ["POTSDAM", "VAIHINGEN", "isaid", "loveda", "potsdam", "vaihingen"]

# Numbers of the mosaics' parts, as the published training and validation splits name them.
POTSDAM = {
    "train": (
        "2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12", "5_10", "5_11", "5_12", "6_10",
        "6_11", "6_12", "6_7", "6_8", "6_9", "7_10", "7_11", "7_12", "7_7", "7_8", "7_9",
    ),
    "val": (
        "5_15", "6_15", "6_13", "3_13", "4_14", "6_14", "5_14", "2_13", "4_15", "2_14", "5_13", "4_13", "3_14", "7_13",
    ),
}  # fmt: skip
VAIHINGEN = {
    "train": (
        "area1", "area11", "area13", "area15", "area17", "area21", "area23", "area26", "area28", "area3",
        "area30", "area32", "area34", "area37", "area5", "area7",
    ),
    "val": (
        "area6", "area24", "area35", "area16", "area14", "area22", "area10", "area4", "area2", "area20", "area8",
        "area31", "area33", "area27", "area38", "area12", "area29",
    ),
}  # fmt: skip


def loveda(order: Order) -> Files:
    """Draw Train and Val, the images by turns in Rural and Urban; numbers go on from split to split."""
    files: dict[Path, bytes] = {}
    for number, (split, index, scene) in enumerate(order.scenes()):
        countryside(scene, urban=index % 2 == 1)
        folder = Path({"train": "Train", "val": "Val"}[split], ("Rural", "Urban")[index % 2])
        raw = np.where(scene.label == IGNORE, 0, scene.label + np.uint8(1)).astype(np.uint8)
        files[folder / "images_png" / f"{number}.png"] = pixels(".png", render(scene, card("loveda")))
        files[folder / "masks_png" / f"{number}.png"] = pixels(".png", raw)
    return files


def potsdam(order: Order) -> Files:
    """Draw 2_Ortho_RGB and 5_Labels_all_noBoundary, one part of the mosaic for each image."""
    return _mosaic(order, "potsdam", POTSDAM, lambda part: (
        Path("2_Ortho_RGB", f"top_potsdam_{part}_RGB.tif"),
        Path("5_Labels_all_noBoundary", f"top_potsdam_{part}_label_noBoundary.tif"),
    ))  # fmt: skip


def vaihingen(order: Order) -> Files:
    """Draw top and gts_eroded, one area of the mosaic for each image."""
    return _mosaic(order, "vaihingen", VAIHINGEN, lambda area: (
        Path("top", f"top_mosaic_09cm_{area}.tif"),
        Path("gts_eroded", f"top_mosaic_09cm_{area}_noBoundary.tif"),
    ))  # fmt: skip


def isaid(order: Order) -> Files:
    """Draw images with their colour labels; every second image is cut to three quarters of its width."""
    known = card("isaid")
    files: dict[Path, bytes] = {}
    for number, (split, index, scene) in enumerate(order.scenes()):
        objects(scene, range(1, known.num_classes), index)
        width = scene.width * 3 // 4 if index % 2 else scene.width
        image = render(scene, known)[:, :width]
        folder = Path(split, "images")
        files[folder / f"P{number:04d}.png"] = pixels(".png", image)
        files[folder / f"P{number:04d}{known.label_suffix}"] = painted(".png", scene.label[:, :width], known.palette)
    return files


def _mosaic(
    order: Order, name: str, parts: Mapping[str, Sequence[str]], paths: Callable[[str], tuple[Path, Path]]
) -> Files:
    files: dict[Path, bytes] = {}
    for split, index, scene in order.scenes():
        city(scene)
        image, label = paths(parts[split][index])
        files[image] = pixels(".tif", render(scene, card(name)))
        files[label] = painted(".tif", _eroded(scene.label), card(name).palette)
    return files


def _eroded(label: Pixels) -> Pixels:
    """The label without the pixels around borders, which are black in the files."""
    kernel = np.ones((7, 7), dtype=np.uint8)
    edge = cv2.dilate(label, kernel) != cv2.erode(label, kernel)
    return np.where(edge, np.uint8(IGNORE), label)
