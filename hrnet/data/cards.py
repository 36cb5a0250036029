"""Data set cards: what a data set's files mean. Nine published ones (cards.json) and people's own.

A card says which value in a label file is which class, how image and label files are named, and, for a custom data
set, which published recipes it inherits with which changes.
"""

from __future__ import annotations

import colorsys
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hrnet.errors import DataError, suggestion

__all__ = ["CARD_FILES", "Card", "card", "cards", "load_card"]

CARD_FILES = ("card.yaml", "card.yml", "card.json", "meta.json")
"""File names under which a folder may hold its card, in the order they are looked for."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What the files of one data set mean."""

    name: str
    """Short name, safe in file names: lower-case letters, digits, dot, dash, underscore."""

    title: str
    """Name for people."""

    classes: tuple[str, ...]
    """Class names; position is the training id."""

    palette: tuple[tuple[int, int, int], ...]
    """One RGB colour (0..255) for each class."""

    reduce_zero_label: bool = False
    """Label files hold 0 for ignored pixels and 1..n for the classes."""

    ignore_index: int = 255
    """Value in the label FILES that is ignored; 255 always is. Prepared labels use 255 alone."""

    image_suffix: str = ".jpg"
    """End of an image's file name, after the sample's name."""

    label_suffix: str = ".png"
    """End of a label's file name, after the sample's name."""

    train_images: int | None = None
    """Number of training images of the complete data set, if known."""

    val_images: int | None = None
    """Number of validation images of the complete data set, if known."""

    inherits: str | None = None
    """Published data set whose recipes a custom data set takes over; None for the published ones."""

    changes: Mapping[str, str] = field(default_factory=dict)
    """Recipe field to value, applied to the inherited recipes, in the grammar of overrides."""

    def __post_init__(self) -> None:
        _check_identity(self)
        _check_classes(self)
        _check_values(self)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def images(self) -> dict[str, int | None]:
        """Split name to the number of images of the complete data set."""
        return {"train": self.train_images, "val": self.val_images}

    def to_dict(self) -> dict[str, Any]:
        """Return the card as JSON-able values, field by field."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        values["classes"] = list(self.classes)
        values["palette"] = [list(colour) for colour in self.palette]
        values["changes"] = dict(self.changes)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str = "card") -> Card:
        """Build a card from parsed JSON or YAML; `where` is named in errors. A missing palette is made up.

        Raises DataError for an unknown, missing or wrong field.
        """
        known = [item.name for item in fields(cls)]
        for key in values:
            if key not in known:
                raise DataError(f"{where}: unknown field {key!r}{suggestion(str(key), known)}")
        for key in ("name", "classes"):
            if key not in values:
                raise DataError(f"{where}: the field {key!r} is missing")
        filled = dict(values)
        filled.setdefault("title", values["name"])
        filled["classes"] = _strings(values["classes"], f"{where}: classes")
        filled["palette"] = _palette(values.get("palette"), len(filled["classes"]), where)
        filled["changes"] = {str(key): str(value) for key, value in (values.get("changes") or {}).items()}
        try:
            return cls(**filled)
        except DataError as error:
            raise DataError(f"{where}: {error}") from None


def _check_identity(card: Card) -> None:
    if not isinstance(card.name, str) or not _NAME.fullmatch(card.name):
        raise DataError(
            f"name is {card.name!r}; use lower-case letters, digits, dot, dash and underscore, such as 'my-data'"
        )
    for key in ("image_suffix", "label_suffix"):
        value = getattr(card, key)
        if not isinstance(value, str) or "." not in value or "/" in value:
            raise DataError(f"{key} is {value!r}; give the end of the file name, such as '.png'")


def _check_classes(card: Card) -> None:
    if not 1 <= len(card.classes) <= 254:
        raise DataError(f"classes has {len(card.classes)} entries; labels are 8-bit, so 1 to 254 are possible")
    twice = sorted({name for name in card.classes if card.classes.count(name) > 1})
    if twice:
        raise DataError(f"classes names {twice[0]!r} more than once; names must differ")
    if len(card.palette) != len(card.classes):
        raise DataError(f"palette has {len(card.palette)} colours for {len(card.classes)} classes; give one for each")
    for colour in card.palette:
        if len(colour) != 3 or any(not 0 <= value <= 255 for value in colour):
            raise DataError(f"palette holds {list(colour)}; a colour is [red, green, blue], each 0 to 255")


def _check_values(card: Card) -> None:
    if not isinstance(card.reduce_zero_label, bool):
        raise DataError(f"reduce_zero_label is {card.reduce_zero_label!r}; use true or false")
    if not isinstance(card.ignore_index, int) or not 0 <= card.ignore_index <= 255:
        raise DataError(f"ignore_index is {card.ignore_index!r}; it is a value in 8-bit files, 0 to 255")
    first = 1 if card.reduce_zero_label else 0
    if first <= card.ignore_index < first + len(card.classes):
        raise DataError(
            f"ignore_index is {card.ignore_index}, which is class {card.classes[card.ignore_index - first]!r}; "
            f"give a value that is no class"
        )
    for key in ("train_images", "val_images"):
        value = getattr(card, key)
        if value is not None and (not isinstance(value, int) or value < 0):
            raise DataError(f"{key} is {value!r}; give a number of images or leave it out")


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{where} is {value!r}; give a list of names (quote names such as 'on' and 'no' in YAML)")
    return tuple(value)


def _palette(value: Any, count: int, where: str) -> tuple[tuple[int, int, int], ...]:
    if value is None:
        return _made_up_palette(count)
    try:
        return tuple((int(red), int(green), int(blue)) for red, green, blue in value)
    except (TypeError, ValueError):
        raise DataError(f"{where}: palette is not a list of [red, green, blue] colours") from None


def _made_up_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    # Steps of the golden ratio around the colour circle keep neighbours apart for any number of classes.
    hues = [(0.03 + index * 0.618033988749895) % 1.0 for index in range(count)]
    shades = [(0.75, 0.9), (0.55, 0.7), (0.9, 0.55)]
    colours = [colorsys.hsv_to_rgb(hue, *shades[index % 3]) for index, hue in enumerate(hues)]
    return tuple((round(red * 255), round(green * 255), round(blue * 255)) for red, green, blue in colours)


@functools.cache
def cards() -> dict[str, Card]:
    """Return the nine published data sets by name, in the order of the published table."""
    text = Path(__file__).with_name("cards.json").read_text(encoding="utf-8")
    return {values["name"]: Card.from_dict(values, where="cards.json") for values in json.loads(text)}


def card(name: str) -> Card:
    """Return a published data set's card; raises DataError with a near miss for an unknown name."""
    try:
        return cards()[name]
    except KeyError:
        raise DataError(f"unknown data set {name!r}{suggestion(name, cards())}") from None


def load_card(path: str | Path) -> Card:
    """Read a custom card from a .yaml, .yml or .json file, or from a folder that holds one of CARD_FILES.

    A meta.json (classes, palette, ignore_index, image_size [width, height], counts, img_suffix, ann_suffix) is a card
    named after its folder that inherits cityscapes; with an image_size, crop and scales follow it.
    Raises DataError for a missing or unreadable file and for wrong fields.
    """
    given = Path(path)
    file = _card_file(given)
    try:
        values = _parse(file)
    except OSError as error:
        raise DataError(f"cannot read the card {file}: {error.strerror or error}") from error
    if not isinstance(values, Mapping):
        raise DataError(f"{file}: a card is a mapping of fields, this is a {type(values).__name__}")
    if file.name == "meta.json":
        values = _from_meta(values, file)
    values = {"inherits": "cityscapes", **values}
    if values["inherits"] not in cards():
        near = suggestion(str(values["inherits"]), cards())
        raise DataError(f"{file}: inherits names {values['inherits']!r}, no published data set{near}")
    return Card.from_dict(values, where=str(file))


def _card_file(given: Path) -> Path:
    if not given.is_dir():
        if not given.is_file():
            raise DataError(f"there is no card {given}")
        return given
    for name in CARD_FILES:
        if (given / name).is_file():
            return given / name
    raise DataError(f"{given} holds no card; looked for {', '.join(CARD_FILES)}")


def _parse(file: Path) -> Any:
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{file} is not valid JSON: line {error.lineno}, {error.msg}") from None
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None


def _from_meta(meta: Mapping[str, Any], file: Path) -> dict[str, Any]:
    if "classes" not in meta:
        raise DataError(f"{file}: the field 'classes' is missing")
    name = re.sub(r"[^a-z0-9._-]+", "-", file.resolve().parent.name.lower()).strip("-._")
    counts = meta.get("counts", {})
    values: dict[str, Any] = {
        "name": name or "custom",
        "title": str(meta.get("name", name)),
        "classes": meta["classes"],
        "palette": meta.get("palette"),
        "reduce_zero_label": meta.get("reduce_zero_label", False),
        "ignore_index": meta.get("ignore_index", 255),
        "image_suffix": meta.get("img_suffix", ".jpg"),
        "label_suffix": meta.get("ann_suffix", ".png"),
        "train_images": counts.get("train"),
        "val_images": counts.get("val"),
        "inherits": meta.get("inherits", "cityscapes"),
        "changes": meta.get("changes", {}),
    }
    if "image_size" in meta and not values["changes"]:
        width, height = meta["image_size"]
        scale = f"{width}x{height}"
        crop = f"{height // 8 * 8}x{width // 8 * 8}"
        values["changes"] = {"train_scale": scale, "test_scale": scale, "crop": crop}
    return values
