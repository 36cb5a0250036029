"""Cityscapes' polygons drawn as training ids, as cityscapesScripts' json2labelImg does it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrnet.data.cards import Card
from hrnet.data.prepare.found import Converted, Job, check_sizes, count_values
from hrnet.data.prepare.labels import read_image_size
from hrnet.data.transforms import IGNORE
from hrnet.errors import DataError

__all__ = ["convert_polygons", "draw"]

_GROUP = "group"


def convert_polygons(job: Job, card: Card) -> Iterator[Converted]:
    """Check an image and draw its label; `job.extra` maps the name of each object to its value, None = not drawn."""
    image, label = job.inputs
    data = image.read()
    size = read_image_size(data, image.where)
    drawn = draw(label.read(), label.where, job.extra)
    check_sizes(size, image, drawn, label)
    yield Converted(name=job.name, image=data, label=drawn, raw=count_values(drawn))


def draw(data: bytes, where: str, values: Mapping[str, int | None]) -> NDArray[np.uint8]:
    """Draw the objects of a *_polygons.json file in their order, later ones over earlier ones; HxW uint8.

    What no polygon covers is ignored. A name that is unknown and ends in "group" is taken without it; deleted objects
    and those without a value (the license plate) are skipped. Raises DataError with the place for a file that is no
    such JSON, and for an unknown name.
    """
    from PIL import Image, ImageDraw

    try:
        content = json.loads(data)
        canvas = Image.new("L", (content["imgWidth"], content["imgHeight"]), IGNORE)
        painter = ImageDraw.Draw(canvas)
        for item in content["objects"]:
            if item.get("deleted"):
                continue
            value = _value(item, values, where)
            if value is not None:
                painter.polygon([(x, y) for x, y in item["polygon"]], fill=value)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"label {where} is no file of Cityscapes polygons ({error}); copy it again") from None
    return np.asarray(canvas)


def _value(item: Mapping[str, Any], values: Mapping[str, int | None], where: str) -> int | None:
    name = item["label"]
    if name not in values and name.endswith(_GROUP):
        name = name.removesuffix(_GROUP)
    if name not in values:
        raise DataError(f"label {where} names the object {item['label']!r}, which is no Cityscapes class")
    return values[name]
