"""Small drawn scenes in a data set's own layout, to try everything without a download.

Every class has its own colour, texture and usual place, so that a small network learns them within tens of
iterations; light, noise and the placing of things vary. All is a function of the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hrnet.data.cards import Card, card
from hrnet.data.prepare.cityscapes import IMAGES, LABEL_IDS, LABELS, TRAIN_ID, TRAIN_IDS
from hrnet.data.transforms import IGNORE
from hrnet.errors import DataError, suggestion

__all__ = ["DATASETS", "synthesise"]

_SMALLEST = 32

# Training ids of the scenes' classes; the names are those of the cards.
_ROAD, _SIDEWALK, _BUILDING, _WALL, _FENCE, _POLE, _LIGHT, _SIGN, _VEGETATION, _TERRAIN, _SKY = range(11)
_PERSON, _RIDER, _CAR, _TRUCK, _BUS, _TRAIN, _MOTORCYCLE, _BICYCLE = range(11, 19)
_INDOOR_THINGS = ("bed ", "cabinet", "door", "table", "curtain", "chair", "sofa", "shelf", "desk", "lamp")
_OUTDOOR_THINGS = ("person", "car", "plant", "rock", "fence", "signboard", "bench", "house")


class _Scene:
    """A label map under construction, with the brightness of each thing drawn."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.height, self.width, self.rng = height, width, rng
        self.label = np.full((height, width), IGNORE, dtype=np.uint8)
        self.shade = np.zeros((height, width), dtype=np.float32)

    def polygon(self, value: int, points: Sequence[tuple[float, float]]) -> None:
        """Fill a polygon; points are (x, y) as fractions of width and height."""
        corners = [np.array([(round(x * self.width), round(y * self.height)) for x, y in points], dtype=np.int32)]
        cv2.fillPoly(self.label, corners, value)
        cv2.fillPoly(self.shade, corners, self.between(-14, 14))

    def box(self, value: int, left: float, top: float, right: float, bottom: float) -> None:
        """Fill a rectangle given in fractions."""
        self.polygon(value, [(left, top), (right, top), (right, bottom), (left, bottom)])

    def ellipse(self, value: int, x: float, y: float, across: float, high: float) -> None:
        """Fill an ellipse; centre and radii in fractions."""
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        self.polygon(value, [(x + across * float(np.cos(a)), y + high * float(np.sin(a))) for a in angles])

    def between(self, low: float, high: float) -> float:
        """Draw a float."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Draw a yes or no."""
        return bool(self.rng.random() < probability)


def synthesise(
    dataset: str,
    destination: str | Path,
    *,
    train: int = 8,
    val: int = 4,
    size: tuple[int, int] = (128, 256),
    seed: int = 0,
) -> Path:
    """Draw a small copy of a published data set in its native layout, ready for `prepare`.

    Args:
        dataset: `cityscapes` or `ade20k`.
        destination: folder to write into; it may hold an earlier copy of the same scenes, nothing else.
        train: number of training images.
        val: number of validation images.
        size: height and width in pixels.
        seed: everything drawn is a function of it.

    Returns:
        The destination.

    Raises:
        DataError: an unknown data set, a size or number out of range, a destination that holds other images, or a disk
            that refuses.
    """
    if dataset not in DATASETS:
        raise DataError(f"no scenes can be drawn for {dataset!r}{suggestion(dataset, DATASETS)}")
    if min(size) < _SMALLEST:
        raise DataError(
            f"size is {size[0]}x{size[1]} (height x width); scenes need at least {_SMALLEST} pixels each way"
        )
    if min(train, val) < 1:
        raise DataError(f"{train} training and {val} validation images were asked for; at least one of each is needed")
    files: dict[Path, NDArray[np.uint8]] = {}
    for number, (split, count) in enumerate((("train", train), ("val", val))):
        for index in range(count):
            rng = np.random.default_rng([seed % 2**63, number, index])
            files |= DATASETS[dataset](split, index, size, rng)
    _write(Path(destination), files)
    return Path(destination)


def _write(destination: Path, files: dict[Path, NDArray[np.uint8]]) -> None:
    known = {destination / path for path in files}
    for top in {path.parts[0] for path in files}:
        strangers = sorted(path for path in (destination / top).rglob("*") if path.is_file() and path not in known)
        if strangers:
            raise DataError(f"{destination} holds other images, such as {strangers[0]}; choose an empty folder")
    try:
        for path, pixels in files.items():
            _, data = cv2.imencode(path.suffix, pixels)
            (destination / path).parent.mkdir(parents=True, exist_ok=True)
            (destination / path).write_bytes(data.tobytes())
    except OSError as error:
        raise DataError(f"cannot write scenes to {destination}: {error.strerror or error}") from error


def _cityscapes(
    split: str, index: int, size: tuple[int, int], rng: np.random.Generator
) -> dict[Path, NDArray[np.uint8]]:
    scene = _Scene(*size, rng)
    _street(scene)
    ids = np.ones(256, dtype=np.uint8)
    for label_id, train_id in TRAIN_ID.items():
        ids[train_id] = label_id
    city = "drawn"
    name = f"{city}_{0 if split == 'train' else 1:06d}_{index:06d}"
    labels = Path(LABELS, split, city)
    return {
        Path(IMAGES, split, city, f"{name}_leftImg8bit.png"): _render(scene, card("cityscapes")),
        labels / f"{name}{LABEL_IDS}": ids[scene.label],
        labels / f"{name}{TRAIN_IDS}": scene.label,
    }


def _ade20k(split: str, index: int, size: tuple[int, int], rng: np.random.Generator) -> dict[Path, NDArray[np.uint8]]:
    scene, ade = _Scene(*size, rng), card("ade20k")
    (_room if scene.chance(0.5) else _landscape)(scene, ade.classes)
    folder, prefix = {"train": ("training", "train"), "val": ("validation", "val")}[split]
    name = f"ADE_{prefix}_{index + 1:08d}"
    root = Path("ADEChallengeData2016")
    raw = np.where(scene.label == IGNORE, 0, scene.label + np.uint8(1)).astype(np.uint8)
    return {
        root / "images" / folder / f"{name}.jpg": _render(scene, ade),
        root / "annotations" / folder / f"{name}.png": raw,
    }


Scenes = Callable[[str, int, tuple[int, int], np.random.Generator], dict[Path, NDArray[np.uint8]]]

DATASETS: dict[str, Scenes] = {"cityscapes": _cityscapes, "ade20k": _ade20k}
"""Data sets that can be drawn."""


def _street(scene: _Scene) -> None:
    horizon, middle = scene.between(0.36, 0.48), scene.between(0.4, 0.6)
    scene.box(_SKY, 0, 0, 1, horizon)
    scene.box(_SIDEWALK, 0, horizon, 1, 1)
    _roadside(scene, horizon)
    reach = scene.between(0.32, 0.42)
    scene.polygon(
        _ROAD, [(middle - 0.05, horizon), (middle + 0.05, horizon), (middle + reach, 1), (middle - reach, 1)]
    )
    for value, across in ((_TRUCK, 0.07), (_BUS, 0.08), (_TRAIN, 0.09)):
        if scene.chance(0.5):
            x, bottom = middle + scene.between(-0.12, 0.12), horizon + scene.between(0.12, 0.2)
            scene.box(value, x - across, bottom - 2.6 * across, x + across, bottom)
    for _ in range(int(scene.rng.integers(1, 4))):
        x, bottom, across = (
            middle + scene.between(-0.2, 0.2),
            horizon + scene.between(0.2, 0.42),
            scene.between(0.05, 0.09),
        )
        scene.box(_CAR, x - across, bottom - 1.1 * across, x + across, bottom)
        scene.ellipse(_CAR, x, bottom - 1.1 * across, 0.7 * across, 0.7 * across)
    _people(scene, horizon)
    _poles(scene, horizon)
    # The bonnet of the camera's own car, which nobody labels.
    scene.box(IGNORE, 0, 0.95, 1, 1)


def _roadside(scene: _Scene, horizon: float) -> None:
    x = -0.05
    while x < 1:
        across = scene.between(0.12, 0.3)
        scene.box(_BUILDING, x, horizon - scene.between(0.12, 0.34), x + across, horizon + 0.05)
        x += across + scene.between(-0.02, 0.1)
    for left in (0.0, 0.72):
        x = left + scene.between(0.0, 0.2)
        scene.ellipse(_VEGETATION, x, horizon - 0.04, scene.between(0.06, 0.12), scene.between(0.1, 0.2))
        scene.box(_TERRAIN, left, horizon + 0.04, left + scene.between(0.2, 0.28), horizon + 0.1)
        value = _WALL if scene.chance(0.5) else _FENCE
        scene.box(value, left, horizon - 0.04, left + scene.between(0.12, 0.26), horizon + 0.05)


def _people(scene: _Scene, horizon: float) -> None:
    for _ in range(int(scene.rng.integers(1, 4))):
        x = scene.between(0.05, 0.2) if scene.chance(0.5) else scene.between(0.8, 0.95)
        foot, high = horizon + scene.between(0.2, 0.4), scene.between(0.16, 0.26)
        if scene.chance(0.5):
            scene.ellipse(_PERSON, x, foot - high / 2, high / 6, high / 2)
            continue
        scene.ellipse(_RIDER, x, foot - 0.75 * high, high / 6, high / 2.5)
        scene.ellipse(_BICYCLE if scene.chance(0.6) else _MOTORCYCLE, x, foot - high / 5, high / 3, high / 4)


def _poles(scene: _Scene, horizon: float) -> None:
    thickness = max(2.0 / scene.width, 0.012)
    for x in (scene.between(0.03, 0.25), scene.between(0.75, 0.97), scene.between(0.3, 0.7)):
        top = scene.between(0.1, 0.22)
        scene.box(_POLE, x, top, x + thickness, horizon + scene.between(0.1, 0.25))
        half = scene.between(0.02, 0.035)
        if scene.chance(0.5):
            scene.box(_LIGHT, x - half / 2, top, x + half, top + 4 * half)
        else:
            scene.ellipse(_SIGN, x, top, half, 2 * half)


def _room(scene: _Scene, classes: Sequence[str]) -> None:
    of = classes.index
    ground = scene.between(0.6, 0.75)
    scene.box(of("wall"), 0, 0, 1, ground)
    scene.box(of("floor"), 0, ground, 1, 1)
    scene.box(of("ceiling"), 0, 0, 1, scene.between(0.08, 0.18))
    x = scene.between(0.1, 0.4)
    scene.box(of("windowpane"), x, 0.22, x + 0.2, 0.5)
    scene.box(of("painting"), x + 0.3, 0.25, x + 0.45, 0.42)
    for value in scene.rng.choice(_INDOOR_THINGS, size=3, replace=False):
        x, across, high = scene.between(0.05, 0.75), scene.between(0.1, 0.22), scene.between(0.15, 0.35)
        foot = ground + scene.between(0.05, 0.22)
        scene.box(of(str(value)), x, foot - high, x + across, foot)
    scene.box(IGNORE, 0.97, 0, 1, 1)


def _landscape(scene: _Scene, classes: Sequence[str]) -> None:
    of = classes.index
    horizon = scene.between(0.4, 0.55)
    scene.box(of("sky"), 0, 0, 1, horizon)
    scene.box(of("grass" if scene.chance(0.6) else "earth"), 0, horizon, 1, 1)
    peak = scene.between(0.2, 0.8)
    scene.polygon(of("mountain"), [(peak - 0.3, horizon), (peak, horizon - 0.25), (peak + 0.3, horizon)])
    x = scene.between(0.0, 0.6)
    scene.box(of("building"), x, horizon - scene.between(0.15, 0.35), x + 0.25, horizon + 0.05)
    for _ in range(3):
        scene.ellipse(
            of("tree"), scene.between(0, 1), horizon - 0.05, scene.between(0.05, 0.1), scene.between(0.1, 0.2)
        )
    x = scene.between(0.3, 0.6)
    scene.polygon(of("road"), [(x, horizon + 0.05), (x + 0.06, horizon + 0.05), (x + 0.3, 1), (x - 0.25, 1)])
    for value in scene.rng.choice(_OUTDOOR_THINGS, size=2, replace=False):
        x, high, foot = scene.between(0.05, 0.8), scene.between(0.12, 0.25), horizon + scene.between(0.2, 0.45)
        scene.box(of(str(value)), x, foot - high, x + scene.between(0.06, 0.18), foot)
    scene.box(IGNORE, 0.97, 0, 1, 1)


def _render(scene: _Scene, meaning: Card) -> NDArray[np.uint8]:
    """Paint a scene's label map as a BGR image: the class's colour and stripes, the light, and noise."""
    count = meaning.num_classes
    colours = np.full((256, 3), 60.0, dtype=np.float32)
    colours[:count] = 35 + 0.75 * np.array(meaning.palette, dtype=np.float32)[:, ::-1]
    waves = np.zeros((256, 2), dtype=np.float32)
    turns = np.arange(count) * 2.399963
    lengths = 0.35 + 0.12 * (np.arange(count) % 5)
    waves[:count] = np.stack([lengths * np.cos(turns), lengths * np.sin(turns)], axis=1)
    y, x = np.mgrid[0 : scene.height, 0 : scene.width].astype(np.float32)
    stripes = 16 * np.sin(waves[scene.label, 0] * x + waves[scene.label, 1] * y)
    light = scene.between(0.75, 1.15) + scene.between(-0.15, 0.15) * (x / scene.width - 0.5)
    noise = scene.rng.normal(0, 7, size=(*scene.label.shape, 3)).astype(np.float32)
    image = (colours[scene.label] + (stripes + scene.shade)[..., None]) * light[..., None] + noise
    painted: NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return painted
