"""Layouts of the data sets photographed from the ground: Cityscapes, ADE20K, Pascal VOC 2012 + Aug, Pascal Context."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from hrnet.data.cards import card
from hrnet.data.prepare.cityscapes import IMAGES, LABEL_IDS, LABELS, TRAIN_ID, TRAIN_IDS
from hrnet.data.synthetic.files import Files, Order, Pixels, lines, matlab, palette_png, pixels
from hrnet.data.synthetic.photos import landscape, room, things
from hrnet.data.synthetic.scene import Scene, render
from hrnet.data.synthetic.street import street
from hrnet.data.transforms import IGNORE

__all__ = ["ade20k", "cityscapes", "pascal_context", "voc12aug"]

_SBD = Path("benchmark_RELEASE", "dataset")
_VOC, _CONTEXT = Path("VOCdevkit", "VOC2012"), Path("VOCdevkit", "VOC2010")

# Classes of Pascal Context that are grounds; the others are things.
_GROUNDS = (
    "bedclothes", "building", "ceiling", "cloth", "curtain", "fence", "floor", "grass", "ground", "mountain",
    "platform", "road", "rock", "sidewalk", "sky", "snow", "track", "tree", "wall", "water", "wood",
)  # fmt: skip


def cityscapes(order: Order) -> Files:
    """Draw leftImg8bit and gtFine with labelIds, labelTrainIds and polygons (drawn from the back to the front)."""
    ids = np.ones(256, dtype=np.uint8)
    for label_id, train_id in TRAIN_ID.items():
        ids[train_id] = label_id
    files: dict[Path, bytes] = {}
    for split, index, scene in order.scenes():
        street(scene)
        city = "drawn"
        name = f"{city}_{0 if split == 'train' else 1:06d}_{index:06d}"
        labels = Path(LABELS, split, city)
        files[Path(IMAGES, split, city, f"{name}_leftImg8bit.png")] = pixels(".png", render(scene, card("cityscapes")))
        files[labels / f"{name}{LABEL_IDS}"] = pixels(".png", ids[scene.label])
        files[labels / f"{name}{TRAIN_IDS}"] = pixels(".png", scene.label)
        files[labels / f"{name}_gtFine_polygons.json"] = _polygons(scene)
    return files


def ade20k(order: Order) -> Files:
    """Draw ADEChallengeData2016."""
    ade, root = card("ade20k"), Path("ADEChallengeData2016")
    files: dict[Path, bytes] = {}
    for split, index, scene in order.scenes():
        (room if scene.chance(0.5) else landscape)(scene, ade.classes)
        folder, prefix = {"train": ("training", "train"), "val": ("validation", "val")}[split]
        name = f"ADE_{prefix}_{index + 1:08d}"
        raw = np.where(scene.label == IGNORE, 0, scene.label + np.uint8(1)).astype(np.uint8)
        files[root / "images" / folder / f"{name}.jpg"] = pixels(".jpg", render(scene, ade))
        files[root / "annotations" / folder / f"{name}.png"] = pixels(".png", raw)
    return files


def voc12aug(order: Order) -> Files:
    """Draw VOC 2012, and SBD with what it adds: of n training images the first half, rounded up, is in VOC's own list.

    As in the originals, SBD holds images of VOC's training and validation lists too, and has no ignored borders.
    """
    voc = card("voc12aug")
    own = (order.train + 1) // 2
    names: dict[str, list[str]] = {"train": [], "val": [], "sbd": []}
    files: dict[Path, bytes] = {}
    for split, index, scene in order.scenes():
        things(scene, [0], range(1, voc.num_classes), index)
        year = 2009 if split == "val" else 2007 if index < own else 2008
        name = f"{year}_{index + 1:06d}"
        picture = pixels(".jpg", render(scene, voc))
        files[_VOC / "JPEGImages" / f"{name}.jpg"] = picture
        if year != 2008:
            names[split].append(name)
            files[_VOC / "SegmentationClass" / f"{name}.png"] = palette_png(_bordered(scene.label), voc.palette)
        if split == "train" or index == 0:
            names["sbd"].append(name)
            files[_SBD / "img" / f"{name}.jpg"] = picture
            files[_SBD / "cls" / f"{name}.mat"] = _annotation(scene.label)
    lists = _VOC / "ImageSets" / "Segmentation"
    files[lists / "train.txt"] = lines(names["train"])
    files[lists / "val.txt"] = lines(names["val"])
    files[lists / "trainval.txt"] = lines(sorted(names["train"] + names["val"]))
    files[_SBD / "train.txt"] = lines(names["sbd"][::2])
    files[_SBD / "val.txt"] = lines(names["sbd"][1::2])
    return files


def pascal_context(order: Order) -> Files:
    """Draw VOC 2010 with the annotations as ready PNGs (0 is background), for both Pascal Context recipes.

    No official archive holds ready PNGs; packed, they travel in that of the images.
    """
    context = card("pascal-context")
    grounds = [context.classes.index(name) for name in _GROUNDS]
    objects = sorted(set(range(1, context.num_classes)) - set(grounds))
    names: dict[str, list[str]] = {"train": [], "val": []}
    files: dict[Path, bytes] = {}
    for split, index, scene in order.scenes():
        things(scene, grounds, objects, index)
        scene.box(0, 0.95, 0, 1, 1)
        name = f"{2008 if split == 'train' else 2009}_{index + 1:06d}"
        names[split].append(name)
        files[_CONTEXT / "JPEGImages" / f"{name}.jpg"] = pixels(".jpg", render(scene, context))
        files[_CONTEXT / "SegmentationClassContext" / f"{name}.png"] = pixels(".png", scene.label)
    lists = _CONTEXT / "ImageSets" / "SegmentationContext"
    return {**files, **{lists / f"{split}.txt": lines(found) for split, found in names.items()}}


def _polygons(scene: Scene) -> bytes:
    called = dict(enumerate(card("cityscapes").classes)) | {IGNORE: "ego vehicle"}
    objects = [{"label": called[value], "polygon": corners} for value, corners in scene.outlines]
    return json.dumps({"imgHeight": scene.height, "imgWidth": scene.width, "objects": objects}).encode()


def _bordered(label: Pixels) -> Pixels:
    """The label with the ignored border, a few pixels wide, that VOC draws between regions."""
    kernel = np.ones((3, 3), dtype=np.uint8)
    edge = cv2.dilate(label, kernel) != cv2.erode(label, kernel)
    return np.where(edge, np.uint8(IGNORE), label)


def _annotation(label: Pixels) -> bytes:
    present = np.unique(label[label > 0]).reshape(-1, 1)
    return matlab("GTcls", {"Segmentation": label, "CategoriesPresent": present})
