"""A scene under construction, and its picture: every class has its own colour and stripes; light and noise vary."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from hrnet.data.cards import Card
from hrnet.data.transforms import IGNORE

__all__ = ["Scene", "render"]


class Scene:
    """A label map under construction, with the brightness of each thing drawn."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.height, self.width, self.rng = height, width, rng
        self.label = np.full((height, width), IGNORE, dtype=np.uint8)
        self.shade = np.zeros((height, width), dtype=np.float32)
        self.outlines: list[tuple[int, list[list[int]]]] = []
        """Class and corners [x, y] in pixels of everything drawn, from the back to the front."""

    def polygon(self, value: int, points: Sequence[tuple[float, float]]) -> None:
        """Fill a polygon; points are (x, y) as fractions of width and height."""
        corners = [[round(x * self.width), round(y * self.height)] for x, y in points]
        self.outlines.append((value, corners))
        cv2.fillPoly(self.label, [np.array(corners, dtype=np.int32)], value)
        cv2.fillPoly(self.shade, [np.array(corners, dtype=np.int32)], self.between(-14, 14))

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


def render(scene: Scene, meaning: Card) -> NDArray[np.uint8]:
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
