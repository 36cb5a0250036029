"""Views from above, with the classes of LoveDA, of the ISPRS cities (Potsdam, Vaihingen) and of iSAID."""

from __future__ import annotations

from collections.abc import Sequence

from hrnet.data.synthetic.scene import Scene
from hrnet.data.transforms import IGNORE

__all__ = ["city", "countryside", "objects"]

# Training ids of LoveDA; the names are those of the card.
_BACKGROUND, _HOUSE, _STREET, _WATER, _BARREN, _FOREST, _FIELD = range(7)
# Training ids of Potsdam and Vaihingen.
_SEALED, _BUILDING, _LAWN, _TREE, _CAR, _CLUTTER = range(6)


def countryside(scene: Scene, *, urban: bool) -> None:
    """Draw LoveDA's classes: fields and forest, a river, a road with houses along it, and a corner without data."""
    scene.box(_BACKGROUND, 0, 0, 1, 1)
    for value in (_FIELD, _FOREST, _BARREN):
        x, y = scene.between(0, 0.6), scene.between(0, 0.6)
        scene.box(value, x, y, x + scene.between(0.25, 0.45), y + scene.between(0.25, 0.45))
    bend = scene.between(0.1, 0.8)
    scene.polygon(_WATER, [(bend, 0), (bend + 0.12, 0), (bend + 0.22, 1), (bend + 0.1, 1)])
    middle = scene.between(0.25, 0.7)
    scene.box(_STREET, 0, middle, 1, middle + 0.09)
    for house in range(6 if urban else 3):
        x = 0.03 + house / (6 if urban else 3) + scene.between(0, 0.05)
        top = middle + (0.1 if scene.chance(0.5) else -0.14)
        scene.box(_HOUSE, x, top, x + 0.1, top + 0.13)
    scene.box(IGNORE, 0.94, 0.94, 1, 1)


def city(scene: Scene) -> None:
    """Draw the six classes of Potsdam and Vaihingen: a street with cars, blocks, trees on lawns, clutter."""
    scene.box(_SEALED, 0, 0, 1, 1)
    street = scene.between(0.42, 0.5)
    for top, bottom in ((0.0, street - 0.08), (street + 0.08, 1.0)):
        scene.box(_LAWN, 0, top, 1, bottom)
        high = bottom - top
        for column in range(3):
            x = column / 3 + scene.between(0.01, 0.06)
            scene.box(_BUILDING, x, top + 0.15 * high, x + scene.between(0.12, 0.18), top + 0.7 * high)
            scene.ellipse(_TREE, x + 0.24, top + scene.between(0.3, 0.7) * high, 0.04, 0.05)
    for column in range(4):
        x = column / 4 + scene.between(0.02, 0.15)
        scene.box(_CAR, x, street - 0.05, x + 0.08, street + 0.02)
    x = scene.between(0.1, 0.8)
    scene.box(_CLUTTER, x, 0.86, x + 0.12, 0.97)


def objects(scene: Scene, values: Sequence[int], first: int) -> None:
    """Draw five of the classes `values`, several of each, on the background 0.

    The classes go around with the number `first` of the image, so that a few images hold all of them.
    """
    scene.box(0, 0, 0, 1, 1)
    for row in range(5):
        value = values[(5 * first + row) % len(values)]
        for column in range(3):
            x, y = (column + 0.5) / 3 + scene.between(-0.06, 0.06), (row + 0.5) / 5 + scene.between(-0.03, 0.03)
            across = scene.between(0.05, 0.1)
            if value % 2:
                scene.ellipse(value, x, y, across, 0.07)
            else:
                scene.box(value, x - across, y - 0.06, x + across, y + 0.06)
