"""A trained network as a folder that stands alone, and as a model that `mlflow models serve` answers with.

The folder holds `weights.pth` (weights alone, in OpenMMLab's form), `recipe.json` and `card.json` (classes, palette).
MLflow calls `_load_pyfunc` of the module that a model names as its loader; nothing here needs MLflow, and the weights
are read so that they cannot run code.

An image is the content of an image file; in a request MLflow wants it as base64 text, and gives class maps back so.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hrnet.catalogue import Recipe
from hrnet.data.cards import Card
from hrnet.data.synthetic.scene import Scene, render
from hrnet.data.synthetic.street import street
from hrnet.draw import to_png
from hrnet.errors import DataError, HrnetError, WeightsError
from hrnet.evaluation.confusion import ConfusionMatrix
from hrnet.evaluation.inference import segment
from hrnet.memory import memory_explained
from hrnet.model.fused import fused
from hrnet.model.segmentor import build_model
from hrnet.weights import load_weights, save_weights

if TYPE_CHECKING:
    import pandas

__all__ = ["REQUIREMENTS", "SIGNATURE", "WEIGHTS_FILE", "ServedModel", "example_image", "is_served",
           "open_served", "package", "read_card", "read_served_recipe", "write_served"]  # fmt: skip

Image = NDArray[np.uint8]

WEIGHTS_FILE: Final = "weights.pth"
_RECIPE_FILE: Final = "recipe.json"
_CARD_FILE: Final = "card.json"

REQUIREMENTS: Final = ("torch", "numpy", "opencv-python-headless")
"""Distributions that serving imports beside MLflow."""

_CLASS: Final = {
    "type": "object",
    "properties": {
        "id": {"type": "long", "required": True},
        "name": {"type": "string", "required": True},
        "colour": {"type": "array", "items": {"type": "long"}, "required": True},
        "share": {"type": "double", "required": True},
    },
}
SIGNATURE: Final[Mapping[str, list[dict[str, Any]]]] = {
    "inputs": [{"type": "binary", "name": "image", "required": True}],
    "outputs": [
        {"type": "binary", "name": "class_map", "required": True},
        {"type": "long", "name": "height", "required": True},
        {"type": "long", "name": "width", "required": True},
        {"type": "array", "items": _CLASS, "name": "classes", "required": True},
    ],
    "params": [{"name": "ms_flip", "default": False, "shape": None, "type": "boolean"}],
}
"""What is asked and answered, in the words of MLflow's signatures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A network with its recipe and the meaning of its classes."""

    network: nn.Module
    """In evaluation mode, on the device that it computes on."""

    device: torch.device
    """That device."""

    recipe: Recipe
    """How an image is tested: scale, whole or by windows, precision."""

    card: Card
    """Names and colours of the classes."""

    def segment(self, image: Image, *, ms_flip: bool = False) -> Image:
        """Return the class of every pixel, (H,W) uint8, of an image (H,W,3) uint8, blue first as OpenCV reads it.

        `ms_flip` averages over six scales and mirrored images. Raises DataError for another array, MemoryShortage.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise DataError(
                f"an image is an array of (height, width, 3) with dtype uint8, blue first; this one is {image.shape} "
                f"{image.dtype}"
            )
        doing = f"{self.recipe.name}: the prediction of an image of {image.shape[1]}x{image.shape[0]}"
        remedies = [*(["ms_flip=false"] if ms_flip else []), "a smaller image"]
        with memory_explained(self.device, doing, remedies):
            return segment(self.network, np.ascontiguousarray(image), self.recipe, ms_flip=ms_flip)

    def predict(self, frame: pandas.DataFrame, params: Mapping[str, Any] | None = None) -> pandas.DataFrame:
        """Answer MLflow: a row per row of the column `image`, which holds files' contents or arrays (H,W,3).

        `class_map` is a grey PNG whose values are class ids; `classes` lists those that are there, the largest first,
        with id, name, colour (red, green, blue) and share of the pixels. What cannot be an image is refused.
        """
        import pandas

        ms_flip = bool((params or {}).get("ms_flip", False))
        try:
            rows = [self._answer(_pixels(value, row), ms_flip) for row, value in enumerate(frame["image"])]
        except HrnetError as error:
            raise _refusal(str(error)) from error
        return pandas.DataFrame(rows)

    def get_raw_model(self) -> ServedModel:
        """Return this object, which MLflow hands out under the same name: its `segment` takes an array."""
        return self

    def _answer(self, image: Image, ms_flip: bool) -> dict[str, Any]:
        classes = self.segment(image, ms_flip=ms_flip)
        counts = np.bincount(classes.ravel(), minlength=self.card.num_classes)
        found = [int(number) for number in np.argsort(-counts, kind="stable") if counts[number] > 0]
        return {
            "class_map": to_png(classes),
            "height": classes.shape[0],
            "width": classes.shape[1],
            "classes": [
                {
                    "id": number,
                    "name": self.card.classes[number],
                    "colour": list(self.card.palette[number]),
                    "share": round(float(counts[number]) / classes.size, 6),
                }
                for number in found
            ],
        }


def package(recipe: Recipe, data: str, checkpoint: Path, folder: Path) -> tuple[Card, dict[str, float]]:
    """Write the network of a training's checkpoint folder into a folder that `open_served` opens.

    Returns what its classes mean in the prepared data set `data`, and the scores of the validation that the checkpoint
    holds, in percent; none if it was not validated. Raises WeightsError, DataError.
    """
    from hrnet.data.shards import open_dataset
    from hrnet.evaluation.run import score_metrics
    from hrnet.training.state import read_recipe

    _, progress, weights = read_recipe(checkpoint)
    card = open_dataset(data).card
    write_served(folder, recipe, card, weights)
    if progress.confusion is None or progress.validated != progress.step:
        return card, {}
    matrix = ConfusionMatrix(recipe.num_classes)
    matrix.load_state(progress.confusion)
    return card, score_metrics(matrix.scores())


def write_served(folder: Path, recipe: Recipe, card: Card, weights: Mapping[str, torch.Tensor]) -> None:
    """Write a folder that `open_served` opens: the weights of a state dict alone, recipe and card."""
    model = build_model(recipe.width, recipe.num_classes)
    model.load_state_dict(weights)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / WEIGHTS_FILE)
    (folder / _RECIPE_FILE).write_text(json.dumps(recipe.to_dict(), indent=1))
    (folder / _CARD_FILE).write_text(json.dumps(card.to_dict(), indent=1))


def is_served(folder: Path) -> bool:
    """Tell whether a folder is one that `write_served` wrote."""
    return (folder / WEIGHTS_FILE).is_file() and (folder / _RECIPE_FILE).is_file()


def read_served_recipe(folder: Path) -> Recipe:
    """Return the recipe of such a folder; raises RecipeError, WeightsError."""
    return Recipe.from_dict(_document(folder / _RECIPE_FILE))


def read_card(folder: Path) -> Card:
    """Return the card of such a folder; raises DataError, WeightsError."""
    return Card.from_dict(_document(folder / _CARD_FILE), where=str(folder / _CARD_FILE))


def open_served(folder: Path, device: torch.device) -> ServedModel:
    """Return the network of such a folder; raises WeightsError for a damaged or unsafe one."""
    recipe = read_served_recipe(folder)
    model = build_model(recipe.width, recipe.num_classes)
    load_weights(model, folder / WEIGHTS_FILE)
    network = fused(model.to(device).eval())
    return ServedModel(network=network, device=device, recipe=recipe, card=read_card(folder))


def example_image(card: Card) -> bytes:
    """Return a small drawn street as a PNG, in the colours of a card, to try a model with."""
    scene = Scene(128, 256, np.random.default_rng(0))
    street(scene)
    return to_png(render(scene, card))


def _load_pyfunc(data_path: str) -> ServedModel:
    """Open a model for MLflow, on a GPU where there is one."""
    return open_served(Path(data_path), torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _pixels(value: object, row: int) -> Image:
    if isinstance(value, np.ndarray):
        return value
    content: bytes | None = None
    if isinstance(value, bytes):
        content = bytes(value)
    elif isinstance(value, str):
        # MLflow has decoded what came as JSON; text comes from Python alone.
        try:
            content = base64.b64decode(value, validate=True)
        except ValueError:
            raise DataError(f"the image of row {row} is a text, but not base64; give a file's content") from None
    if content is None:
        raise DataError(f"the image of row {row} is of type {type(value).__name__}; give a file's content as bytes")
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if pixels is None:
        raise DataError(
            f"the image of row {row} ({len(content)} bytes) is no image that can be read; give the content of a PNG, "
            "JPEG, TIFF, BMP or WebP file as base64"
        )
    return np.asarray(pixels, dtype=np.uint8)


def _document(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{file} cannot be read ({error}); fetch the model again") from None


def _refusal(sentence: str) -> Exception:
    """Return what MLflow's server answers with status 400 and the sentence; any other exception loses its words there.

    MLflow asked for the prediction, so its module is there; this package does without it otherwise.
    """
    mlflow = sys.modules.get("mlflow.exceptions")
    if mlflow is None:
        return DataError(sentence)
    refused: Exception = mlflow.MlflowException.invalid_parameter_value(sentence)
    return refused
