"""Rooms, landscapes and things before a background, with the classes of ADE20K, Pascal VOC and Pascal Context."""

from __future__ import annotations

from collections.abc import Sequence

from hrnet.data.synthetic.scene import Scene
from hrnet.data.transforms import IGNORE

__all__ = ["landscape", "room", "things"]

_INDOOR_THINGS = ("bed ", "cabinet", "door", "table", "curtain", "chair", "sofa", "shelf", "desk", "lamp")
_OUTDOOR_THINGS = ("person", "car", "plant", "rock", "fence", "signboard", "bench", "house")


def room(scene: Scene, classes: Sequence[str]) -> None:
    """Draw a room with classes of ADE20K."""
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


def landscape(scene: Scene, classes: Sequence[str]) -> None:
    """Draw an open view with classes of ADE20K."""
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


def things(scene: Scene, stuff: Sequence[int], objects: Sequence[int], first: int) -> None:
    """Draw two grounds of `stuff` (or one, if there is no more) and three of the `objects` (class ids) on them.

    The objects go around with the number `first` of the image, so that a few images hold all of them.
    """
    horizon = scene.between(0.35, 0.6)
    scene.box(stuff[first % len(stuff)], 0, 0, 1, horizon)
    scene.box(stuff[(first + 1 + first // len(stuff)) % len(stuff)], 0, horizon, 1, 1)
    for place in range(3):
        value = objects[(3 * first + place) % len(objects)]
        x, y = 0.2 + 0.3 * place + scene.between(-0.06, 0.06), horizon + scene.between(-0.1, 0.2)
        across, high = scene.between(0.08, 0.14), scene.between(0.14, 0.26)
        if value % 2:
            scene.ellipse(value, x, y, across, high)
        else:
            scene.box(value, x - across, y - high, x + across, y + high)
