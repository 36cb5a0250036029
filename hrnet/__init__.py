"""HRNet semantic segmentation: recipes, model, data, training and evaluation, without any platform.

Names are loaded when they are first used, so that asking for recipes does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hrnet.catalogue import Recipe, recipe, recipes
    from hrnet.data.cards import Card, card, cards, load_card
    from hrnet.data.shards import PreparedDataset, open_dataset
    from hrnet.errors import DataError, HrnetError, RecipeError, TrainingError, WeightsError
    from hrnet.evaluation.confusion import ConfusionMatrix, Scores
    from hrnet.evaluation.inference import segment as predict
    from hrnet.evaluation.run import evaluate
    from hrnet.events import Event
    from hrnet.model.fused import fused
    from hrnet.model.segmentor import build_model
    from hrnet.published import Published
    from hrnet.training.loop import train
    from hrnet.weights import LoadReport, load_weights, save_weights

_WHERE = {
    "Card": "data.cards",
    "ConfusionMatrix": "evaluation.confusion",
    "DataError": "errors",
    "Event": "events",
    "HrnetError": "errors",
    "LoadReport": "weights",
    "PreparedDataset": "data.shards",
    "Published": "published",
    "Recipe": "catalogue",
    "RecipeError": "errors",
    "Scores": "evaluation.confusion",
    "TrainingError": "errors",
    "WeightsError": "errors",
    "build_model": "model.segmentor",
    "card": "data.cards",
    "cards": "data.cards",
    "evaluate": "evaluation.run",
    "fused": "model.fused",
    "load_card": "data.cards",
    "load_weights": "weights",
    "open_dataset": "data.shards",
    "predict": "evaluation.inference",
    "recipe": "catalogue",
    "recipes": "catalogue",
    "save_weights": "weights",
    "train": "training.loop",
}

__all__ = [
    "Card",
    "ConfusionMatrix",
    "DataError",
    "Event",
    "HrnetError",
    "LoadReport",
    "PreparedDataset",
    "Published",
    "Recipe",
    "RecipeError",
    "Scores",
    "TrainingError",
    "WeightsError",
    "build_model",
    "card",
    "cards",
    "evaluate",
    "fused",
    "load_card",
    "load_weights",
    "open_dataset",
    "predict",
    "recipe",
    "recipes",
    "save_weights",
    "train",
]


def __getattr__(name: str) -> Any:
    try:
        module = importlib.import_module(f"hrnet.{_WHERE[name]}")
    except KeyError:
        raise AttributeError(f"module 'hrnet' has no attribute {name!r}") from None
    return getattr(module, "segment" if name == "predict" else name)


def __dir__() -> list[str]:
    return __all__
