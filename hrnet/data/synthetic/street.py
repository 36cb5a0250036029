"""Streets with the classes of Cityscapes."""

from __future__ import annotations

from hrnet.data.synthetic.scene import Scene
from hrnet.data.transforms import IGNORE

__all__ = ["street"]

# Training ids; the names are those of the card.
_ROAD, _SIDEWALK, _BUILDING, _WALL, _FENCE, _POLE, _LIGHT, _SIGN, _VEGETATION, _TERRAIN, _SKY = range(11)
_PERSON, _RIDER, _CAR, _TRUCK, _BUS, _TRAIN, _MOTORCYCLE, _BICYCLE = range(11, 19)


def street(scene: Scene) -> None:
    """Draw a street from a driver's seat."""
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


def _roadside(scene: Scene, horizon: float) -> None:
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


def _people(scene: Scene, horizon: float) -> None:
    for _ in range(int(scene.rng.integers(1, 4))):
        x = scene.between(0.05, 0.2) if scene.chance(0.5) else scene.between(0.8, 0.95)
        foot, high = horizon + scene.between(0.2, 0.4), scene.between(0.16, 0.26)
        if scene.chance(0.5):
            scene.ellipse(_PERSON, x, foot - high / 2, high / 6, high / 2)
            continue
        scene.ellipse(_RIDER, x, foot - 0.75 * high, high / 6, high / 2.5)
        scene.ellipse(_BICYCLE if scene.chance(0.6) else _MOTORCYCLE, x, foot - high / 5, high / 3, high / 4)


def _poles(scene: Scene, horizon: float) -> None:
    thickness = max(2.0 / scene.width, 0.012)
    for x in (scene.between(0.03, 0.25), scene.between(0.75, 0.97), scene.between(0.3, 0.7)):
        top = scene.between(0.1, 0.22)
        scene.box(_POLE, x, top, x + thickness, horizon + scene.between(0.1, 0.25))
        half = scene.between(0.02, 0.035)
        if scene.chance(0.5):
            scene.box(_LIGHT, x - half / 2, top, x + half, top + 4 * half)
        else:
            scene.ellipse(_SIGN, x, top, half, 2 * half)
